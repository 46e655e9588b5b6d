"""For containers without a shell or curl: `python -m service.healthcheck` ends with 0 when ready, else 1.

It runs every few seconds beside the service, and so imports little.
"""

import os
import socket
import sys

_TIMEOUT_S = 2.0


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether `GET /readyz` answers 200."""
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status_line = connection.makefile("rb").readline(64)
    except OSError:
        return False
    return status_line.split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(os.environ.get("MOBILENET_PORT", "8000"))) else 1)
