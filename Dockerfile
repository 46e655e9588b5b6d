# Two images of the service: `edge` serves the variants baked into it and carries nothing else; `server` serves a
# mounted store and has `model-store` to fill it. What runs at build time runs on the builder's own CPU; the last
# stages only copy, so an ARM64 image needs no emulation and its base neither shell nor pip. See docs/edge.md.
#
# The bases are of one Python: 3.11 on Debian 12, or 3.13 on Debian 13. Name them with their digest in a release.
ARG BUILD_BASE=docker.io/library/python:3.11-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/python3-debian12:nonroot

# ---- what makes packages and models, on the builder's CPU
FROM --platform=$BUILDPLATFORM ${BUILD_BASE} AS tools
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CONFIG_FILE=/run/secrets/pip_conf \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}
WORKDIR /src
COPY deploy/with_secrets.sh deploy/assemble.py deploy/constraints.txt deploy/
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY model_store model_store
COPY service service
# What is copied is copied with the folder above it: the builder dates a folder that it makes itself by the clock.
RUN install -d -o 65532 -g 65532 /state/state /store/store && \
    find /state /store -exec touch -d "@${SOURCE_DATE_EPOCH}" {} +

# ---- everything, for either CPU: what `server` carries, and of the builder's CPU what makes the models
FROM tools AS site-amd64
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates --mount=type=cache,target=/root/.cache/pip \
    deploy/with_secrets.sh python3 deploy/assemble.py --machine amd64 --extra build,resize \
      --constraints deploy/constraints.txt --into /site/app .

FROM tools AS site-arm64
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates --mount=type=cache,target=/root/.cache/pip \
    deploy/with_secrets.sh python3 deploy/assemble.py --machine arm64 --extra build \
      --constraints deploy/constraints.txt --into /site/app .

# hadolint ignore=DL3006
FROM site-${TARGETARCH} AS server-site

# ---- the default variants, int8 alone
# hadolint ignore=DL3006
FROM site-${BUILDARCH} AS models
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates \
    export PYTHONPATH=/site/app && \
    deploy/with_secrets.sh python3 -m model_store.cli pull imagenet --store /models/store && \
    rm -rf /models/store/.downloads /models/store/imagenet/*_fp32 && \
    python3 -m model_store.cli verify --store /models/store && \
    find /models -exec touch -d "@${SOURCE_DATE_EPOCH}" {} +

# ---- what serves, for the target's CPU
FROM tools AS edge-site
ARG TARGETARCH
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates --mount=type=cache,target=/root/.cache/pip \
    deploy/with_secrets.sh python3 deploy/assemble.py --machine "${TARGETARCH}" --serving-only \
      --constraints deploy/constraints.txt --into /site/app .

# ---- what both images are
FROM ${BASE_IMAGE} AS service
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mobilenet-service" \
      org.opencontainers.image.description="MobileNet variants served by latency budget" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MOBILENET_HOST=0.0.0.0 MOBILENET_PORT=8000 MOBILENET_STORE=/store MOBILENET_STATE_DIR=/state
# Latencies measured on this device are kept here: the one place that must be writable.
COPY --from=tools --chown=65532:65532 /state /
VOLUME /state
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "-S", "-m", "service.healthcheck"]
ENTRYPOINT ["python3", "-m", "service"]

FROM service AS edge
COPY --from=edge-site /site /
COPY --from=models /models /

# The last stage is what a build without --target makes.
FROM service AS server
# It carries the face networks.
LABEL org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-Faces-NonCommercial"
COPY --from=tools --chown=65532:65532 /store /
COPY --from=server-site /site /
