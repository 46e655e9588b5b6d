"""A package's archive from the npm registry, by the npm client as it is configured; no code of it is run."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from model_store.download import DownloadError, Unreachable

_TIMEOUT_S = 600.0
# Registries that do not answer: known after seconds and not after the minutes of npm's own pauses.
_OPTIONS = (
    "--ignore-scripts", "--loglevel=error", "--no-update-notifier", "--no-progress",
    "--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000",
)  # fmt: skip
_CODE = re.compile(r"^npm (?:error|ERR!) code (\S+)", re.MULTILINE)
_NOT_REACHED = {
    "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ENOTCACHED", "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT", "ETIMEDOUT", "EIDLETIMEOUT", "ERESPONSETIMEOUT", "ECONNECTIONTIMEOUT",
}  # fmt: skip


def fetch_archive(spec: str, target: Path, *, timeout_s: float = _TIMEOUT_S) -> None:
    """Fetches the archive of `spec` (name@version) to `target`, whole or not at all.

    Raises Unreachable when npm is missing or reaches no registry, DownloadError when it fails otherwise. The
    caller checks the checksum.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Unreachable("npm, the package manager of Node.js, is not installed or not on the PATH")
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target.parent) as folder:
        # In a folder of its own: npm would read the settings of a project that it is started in.
        command = [npm, "pack", spec, *_OPTIONS]
        try:
            done = subprocess.run(  # noqa: S603
                command, cwd=folder, capture_output=True, text=True, errors="replace",
                timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unreachable(f"npm did not fetch {spec} within {timeout_s:.0f} s") from None
        except OSError as error:
            raise DownloadError(f"npm cannot be started ({error.strerror})") from error
        if done.returncode != 0:
            raise _failure(spec, done.stderr)
        archives = list(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            raise DownloadError(f"npm fetched {spec} but left no archive")
        os.replace(archives[0], target)


def _failure(spec: str, errors: str) -> DownloadError:
    found = _CODE.search(errors)
    code = found[1] if found else "no code"
    if code in _NOT_REACHED:
        return Unreachable(f"npm reaches no registry to fetch {spec} from ({code})")
    return DownloadError(f"npm cannot fetch {spec} ({code}); `npm pack {spec}` says more")
