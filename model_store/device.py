"""What this machine is: its CPU, and how many of its cores this process may really use."""

import contextlib
import ctypes
import math
import os
import platform
import threading
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes
_KEPT_BYTES = 40 << 20


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """The CPU's name; on ARM, where the kernel prints none, its implementer and part numbers."""
    fields: dict[str, str] = {}
    try:
        for line in cpu_info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    except OSError:
        pass
    arm = " ".join(fields[k] for k in ("cpu implementer", "cpu part") if k in fields)
    return fields.get("model name") or arm or platform.processor() or platform.machine()


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Cores by affinity and cgroup quota (v2, then v1), rounded up; at least one."""
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def own_cpus(threads: int, cgroup: Path = _CGROUP) -> list[int]:
    """A CPU for each of `threads`, when they are as many as the process may use. None otherwise: fewer
    threads have room to move, more have to, and a quota is of time on any CPU, which others use too."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cpus = sorted(os.sched_getaffinity(0))
    return cpus if len(cpus) == threads == usable_cpus(cgroup) else []


def lower_priority(niceness: int) -> None:
    """Of the calling thread and of those that it starts, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def release_memory() -> None:
    """Gives freed memory back to the system, where the C library can (glibc): loading frees a lot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Keeps freed memory for the next allocation, where the C library can be told so (glibc).

    A decoder allocates and frees the same megabytes for each picture. By default they go back to the system
    each time, and up to half the time of a large picture goes into getting fresh pages. A thread keeps no
    more than 40 MiB, enough for the four copies that WebP makes of 1920 x 1080 pixels: once more than that
    is free, all of it goes back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _quota_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    try:
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
