"""A closed loop over HTTP: each connection sends the next request when it has its answer. Through `wrk`.

It runs on the server's machine and costs little there: one thread, the request prepared once. Its percentiles
weigh the answers that took longer than twice the mean by the requests that they kept from being sent (wrk's
correction of coordinated omission), so a server that stalls cannot hide it.
"""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("wrk_post.lua")
_TIMEOUT_S = 10
_FAILURES = ("status", "timeout", "connect", "read", "write")


class WrkFailed(Exception):
    """`wrk` is missing or did not do its work; the text says what to do."""


@dataclass(frozen=True)
class Body:
    """What is posted."""

    data: bytes
    content_type: str = "image/jpeg"


@dataclass(frozen=True)
class Load:
    """What a closed loop gave. `errors` are answers of 400 and above, timeouts and broken connections."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    errors: int


def available() -> bool:
    return shutil.which("wrk") is not None


def post(url: str, body: Body, connections: int, seconds: int) -> Load:
    """Loads `url` for so many whole seconds. Raises WrkFailed."""
    if not available():
        raise WrkFailed("wrk is not installed: apt-get install wrk, or see github.com/wg/wrk")
    with tempfile.NamedTemporaryFile() as file:
        file.write(body.data)
        file.flush()
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{_TIMEOUT_S}s", "--script", str(_SCRIPT)]
        command += [url, "--", file.name, body.content_type]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 3 * _TIMEOUT_S)
    if done.returncode:
        raise WrkFailed(f"wrk ended with {done.returncode}: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """What the script prints last. Raises WrkFailed when it is not there."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1])
        requests, seconds = int(found["requests"]), int(found["duration_us"]) / 1e6
        return Load(
            requests_per_s=(requests - found["status"]) / seconds,
            p50_ms=found["p50_us"] / 1e3,
            p99_ms=found["p99_us"] / 1e3,
            requests=requests,
            errors=sum(found[kind] for kind in _FAILURES),
        )
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        raise WrkFailed(f"wrk printed no summary: {output[-300:]!r}") from None
