"""What this machine is: its CPU, and how much of its cores and memory this process may really use."""

import contextlib
import ctypes
import math
import os
import platform
import threading
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")
_CPUS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_MIB = 1 << 20
_DEFAULT_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD = 128 << 10, 32 * _MIB  # that glibc has, and takes
KEPT_BYTES = 40 * _MIB  # of freed memory, by each thread (see `keep_freed_memory`)


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


def multiplies_bfloat16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether this x86 CPU has instructions that multiply matrices of bfloat16; without them it is slow."""
    with contextlib.suppress(OSError):
        for line in cpu_info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return not {"avx512_bf16", "amx_bf16"}.isdisjoint(value.split())
    return False


def usable_cpus(cgroup: Path = _CGROUP, own: Path = _OWN_GROUPS) -> int:
    """Cores by affinity and the least quota of this process's control groups (v2 and v1), rounded up; at
    least one."""
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    quota = min(_cpu_quotas(cgroup, own), default=math.inf)
    return max(1, min(cores, math.ceil(quota)) if quota < math.inf else cores)


def own_cpus(threads: int, cgroup: Path = _CGROUP) -> list[int]:
    """A CPU for each of `threads`, when they are as many as the process may use. None otherwise: fewer
    threads have room to move, more have to, and a quota is of time on any CPU, which others use too."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cpus = sorted(os.sched_getaffinity(0))
    return cpus if len(cpus) == threads == usable_cpus(cgroup) else []


def memory_limit_bytes(cgroup: Path = _CGROUP, own: Path = _OWN_GROUPS) -> int | None:
    """The least memory limit of this process's control groups (v2 and v1), where one is below what the
    machine has; None without."""
    limits = []
    for group, older in _groups("memory", cgroup, own):
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            limits.append(int((group / ("memory.limit_in_bytes" if older else "memory.max")).read_text()))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    least = min(limits, default=machine)
    return least if least < machine else None


def resident_bytes(status: Path = _STATUS) -> int | None:
    """What this process has in memory; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    return None


def cpu_hertz(cpus: Path = _CPUS) -> dict[str, float]:
    """How fast each CPU is clocked now; empty where the kernel does not tell, as in most virtual machines."""
    files = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return {cpu: khz * 1e3 for cpu, khz in _numbers((f.parents[1].name, f) for f in files)}


def celsius(thermal: Path = _THERMAL) -> dict[str, float]:
    """The temperature of each zone now, by the kernel's name of it; empty where it does not tell."""
    files = sorted(thermal.glob("thermal_zone[0-9]*/temp"))
    return {zone: milli / 1e3 for zone, milli in _numbers((f.parent.name, f) for f in files)}


def lower_priority(niceness: int) -> None:
    """Of the calling thread and of those that it starts, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def stay_on(cpus: Collection[int]) -> None:
    """Keeps the calling thread on these CPUs, and those that it starts; where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, cpus)


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """The calling thread on this CPU meanwhile, as `stay_on`."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    stay_on({cpu})
    try:
        yield
    finally:
        stay_on(before)


def release_memory() -> None:
    """Gives freed memory back to the system, where the C library can (glibc): loading frees a lot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def return_freed_memory() -> None:
    """Has large blocks go back to the system as soon as they are freed, where the C library can be told so
    (glibc): for opening sessions, which takes several times what they keep.

    Left to itself glibc takes blocks up to the size of the largest that was freed from its heaps, where what
    is kept lies between holes: 5 to 7 MiB of them with four int8 variants.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _DEFAULT_MMAP_THRESHOLD)


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> None:
    """Keeps freed memory for the next allocation, where the C library can be told so (glibc).

    A decoder allocates and frees the same megabytes for each picture. By default they go back to the system
    each time, and up to half the time of a large picture goes into getting fresh pages. A thread keeps no
    more than `kept_bytes`, 40 MiB being enough for the four copies that WebP makes of 1920 x 1080 pixels:
    once more than that is free, all of it goes back. Where it is to keep less, buffers of a megabyte or more
    are not kept at all: the holes that they leave between others would add up to more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD if kept_bytes >= KEPT_BYTES else _MIB)
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)


def keep_all_freed_memory() -> None:
    """Keeps whatever is freed until the process ends, where the C library can be told so (glibc): for
    training, which allocates and frees the same hundreds of megabytes in every step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _groups(controller: str, cgroup: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's groups and of all around them, and whether each is of version 1. In a
    container, where paths are the host's, the root is the container's own."""
    yield from ((cgroup, False), (cgroup / controller, True))
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            older = controller in controllers.split(",")
            if controllers and not older:
                continue
            root = cgroup / controller if older else cgroup
            group = PurePosixPath(path.lstrip("/"))
            yield from ((root / part, older) for part in (group, *group.parents))


def _numbers(files: Iterator[tuple[str, Path]]) -> Iterator[tuple[str, int]]:
    """The names whose file has a number; a sensor that sleeps has an error instead."""
    for name, file in files:
        with contextlib.suppress(OSError, ValueError):
            yield name, int(file.read_text())


def _cpu_quotas(cgroup: Path, own: Path) -> Iterator[float]:
    """In cores."""
    for group, older in _groups("cpu", cgroup, own):
        quota = _quota_v1(group) if older else _quota_v2(group)
        if quota:
            yield quota


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
