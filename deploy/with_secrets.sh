#!/bin/sh
# Runs a command with the certificates that the build was lent, if any. pip's configuration is found through
# PIP_CONFIG_FILE. Neither stays in a layer.
set -eu
ca=/run/secrets/ca_certificates
if [ -s "$ca" ]; then
  export PIP_CERT="$ca" SSL_CERT_FILE="$ca" REQUESTS_CA_BUNDLE="$ca"
fi
exec "$@"
