"""Files and folders that appear whole or not at all, and survive a power cut once they did."""

import ctypes
import os
import tempfile
from pathlib import Path

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100


def write(path: Path, data: bytes) -> None:
    """Writes `data` to `path` through a temporary file beside it; readers see old or new bytes."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def put_folder(staging: Path, target: Path) -> None:
    """Moves the finished folder `staging` to `target` in one step.

    A folder that stood there ends up at `staging`, for the caller to remove.
    """
    for path in [*staging.rglob("*"), staging]:
        if path.is_dir():
            _sync(path)
    if not target.exists():
        os.rename(staging, target)
    elif not _exchange(staging, target):
        # Without an atomic exchange (not Linux, or some network file systems) a reader can find
        # nothing for a moment; a writer that dies in it leaves the old folder to be put back by hand.
        old = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent))
        os.rename(target, old / target.name)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(old / target.name, target)
            raise
        else:
            os.rename(old / target.name, staging)
        finally:
            old.rmdir()
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths by renameat2(2); False where the system or file system has no such thing."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
