"""Whether the runtime can be loaded at all: on some processors its import alone ends a process.

A child imports it before this process does, once for each runtime and processor.
"""

import contextlib
import hashlib
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from model_store.device import cpu_model

_RUNTIME = "onnxruntime"
_SECONDS = 120.0


def problem(state_dir: Path) -> str | None:
    """What is wrong, where and what to do; None where it can be loaded, or nobody can tell."""
    try:
        version = f"{_RUNTIME}-{metadata.version(_RUNTIME)}"
    except metadata.PackageNotFoundError:
        return None  # a package of another name brings it
    device = f"{cpu_model()}, {version}, python {sys.version}"
    known = state_dir / f"loads-{hashlib.sha256(device.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):  # one that may not be entered; that it costs time is told later
        if known.exists():
            return None
    code = f"import sys; sys.path[:] = {sys.path!r}; import {_RUNTIME}"
    try:
        child = subprocess.run([sys.executable, "-c", code], check=False, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    if child.returncode in (-signal.SIGILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS):
        how = signal.Signals(-child.returncode).name
        return f"{version} cannot be loaded on {cpu_model()} ({how}): install another version of {_RUNTIME}"
    if child.returncode == 0:
        with contextlib.suppress(OSError):
            state_dir.mkdir(parents=True, exist_ok=True)
            known.write_text(f"{device}\n")
    return None
