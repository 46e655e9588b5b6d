"""Files from the network: resumed when cut, given up when nothing comes, read without unpacking."""

import http.client
import json
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from model_store.progress import Tracker

TIMEOUT_S = 8.0  # to connect, and for the next bytes to come
ATTEMPTS = 5  # without progress in between
_FIRST_PAUSE_S = 0.5
_CHUNK_BYTES = 1 << 16
_GAVE_NOTHING = (OSError, http.client.HTTPException)


class DownloadError(Exception):
    """A file could not be fetched or is not what it should be; the text says why."""


class Unreachable(DownloadError):
    """Nothing answered at the address."""


def fetch(
    url: str,
    target: Path,
    *,
    opener: urllib.request.OpenerDirector | None = None,
    tracker: Tracker | None = None,
    timeout_s: float = TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Downloads `url` to `target`, whole or not at all.

    What a cut connection left is kept in `<target>.part`, and continued, in this call or a later one,
    as long as the server still has the same file. Raises Unreachable when the address does not
    answer at all, DownloadError when it keeps failing or has no such file.
    """
    opener = opener or urllib.request.build_opener()
    part = _Part(target)
    failures, answered, furthest = 0, False, part.size
    while True:
        try:
            with opener.open(part.request(url), timeout=timeout_s) as response:
                answered = True
                complete = part.receive(response, tracker)
            if complete:
                part.finish()
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            answered = True
            error.close()
            if error.code == 416:  # the part is longer than the file: not the same file
                part.discard()
            elif error.code < 500 and error.code != 429:
                raise DownloadError(f"{url} answered {error.code} {error.reason}") from None
            reason = f"it answered {error.code}"
        except _GAVE_NOTHING as error:
            reason = _reason(error, timeout_s)
        except ValueError as error:  # urllib's, before anything is sent
            raise DownloadError(f"{url!r} is no address to download from") from error
        if not answered:
            raise Unreachable(f"{url} cannot be reached ({reason})")
        failures = 1 if part.size > furthest else failures + 1
        # Not since the last attempt: without ranges, cut now later, now earlier, it would never give up.
        furthest = max(furthest, part.size)
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{url} failed {ATTEMPTS} times in a row ({reason}); what came is kept, "
                "run the same command to continue"
            )
        sleep(_FIRST_PAUSE_S * 2 ** (failures - 1))


def read_member(archive: Path, wanted: Callable[[str], bool], max_bytes: int) -> bytes:
    """The first regular file of a .tar.gz whose name is `wanted`, read as a stream.

    Nothing is unpacked to disk, so no name in the archive can lead anywhere. Raises DownloadError.
    """
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if not (member.isreg() and wanted(member.name)):
                    continue
                if member.size > max_bytes:
                    raise DownloadError(
                        f"{member.name} in {archive.name} has {member.size} bytes, "
                        f"more than the {max_bytes} of any MobileNet v1"
                    )
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if len(data) != member.size:
                    raise DownloadError(f"{archive.name} ends inside {member.name}")
                return data
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DownloadError(f"{archive.name} is not a readable .tar.gz archive") from error
    raise DownloadError(f"{archive.name} has no file of the kind that is needed")


class _Part:
    """The unfinished file, and by which validator the server knows it again."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f"{target.name}.part")
        self._validator_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def request(self, url: str) -> urllib.request.Request:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310
        validator = self._validator()
        if self.size and validator:
            request.add_header("Range", f"bytes={self.size}-")
            request.add_header("If-Range", validator)
        return request

    def receive(self, response: http.client.HTTPResponse, tracker: Tracker | None) -> bool:
        """Writes the body; True when the file is complete."""
        start = self.size if response.status == 206 else 0
        total = _total(response, start)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        with self._path.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            # Only now: beside the bytes of another file, it would vouch for them.
            self._validator_path.write_text(json.dumps(validator))
            done = _copy(response, file, start, total, tracker)
        return total is None or done == total

    def finish(self) -> None:
        os.replace(self._path, self._target)
        self._validator_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)

    def _validator(self) -> str | None:
        try:
            value = json.loads(self._validator_path.read_text())
        except (OSError, ValueError):
            return None
        # A weak validator does not promise the same bytes.
        return value if isinstance(value, str) and not value.startswith("W/") else None


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Bytes of the whole file; a 206 may hold fewer than were asked for (RFC 9110, 15.3.7)."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 206 and whole.isdigit():
        return int(whole)
    length = response.headers.get("Content-Length")
    return start + int(length) if length is not None and length.isdigit() else None


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    start: int,
    total: int | None,
    tracker: Tracker | None,
) -> int:
    done = start
    while chunk := response.read1(_CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        if tracker:
            tracker.update(done, total)
    return done


def _reason(error: Exception, timeout_s: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer in {timeout_s:g} s"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
