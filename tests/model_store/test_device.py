"""What the machine is, from the kernel's own files; each test writes its own."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.device import (
    celsius,
    cpu_hertz,
    cpu_model,
    keep_freed_memory,
    memory_limit_bytes,
    multiplies_bfloat16,
    own_cpus,
    resident_bytes,
    usable_cpus,
)

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz

processor\t: 1
model name\t: another
"""
RASPBERRY_PI_4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Hardware\t: BCM2835
"""
LINUX = sys.platform == "linux"
ALL = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1


def test_an_intel_cpu_says_its_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86)
    assert cpu_model(path) == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"


def test_an_arm_cpu_says_its_numbers(tmp_path: Path) -> None:
    """Implementer 0x41 is ARM, part 0xd08 a Cortex-A72."""
    path = tmp_path / "cpuinfo"
    path.write_text(RASPBERRY_PI_4)
    assert cpu_model(path) == "0x41 0xd08"


def test_a_system_without_cpuinfo_falls_back_to_its_architecture(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "none") in (platform.processor(), platform.machine())
    assert cpu_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx512_bf16 sse", True), ("amx_bf16 fpu", True), ("fpu avx512f avx512_vnni", False), ("", False)],
)
def test_products_of_bfloat16_are_for_cpus_with_instructions_for_them(
    tmp_path: Path, flags: str, fast: bool
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"{X86}\nflags\t\t: {flags}\n")
    assert multiplies_bfloat16(path) is fast


def test_where_the_cpu_is_not_told_products_stay_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(RASPBERRY_PI_4)
    assert not multiplies_bfloat16(path)
    assert not multiplies_bfloat16(tmp_path / "none")


def write_v2(cgroup: Path, text: str) -> None:
    (cgroup / "cpu.max").write_text(text)


def write_v1(cgroup: Path, quota: str, period: str) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000\n", 1),  # half a core is still one thread
        ("100000 100000\n", 1),
        ("150000 100000\n", min(ALL, 2)),
        ("6400000 100000\n", ALL),  # more than there are
        ("max 100000\n", ALL),
        ("", ALL),
        ("nonsense", ALL),
        ("100000 0\n", ALL),
    ],
)
def test_the_quota_of_a_container(quota: str, cores: int, tmp_path: Path) -> None:
    write_v2(tmp_path, quota)
    assert usable_cpus(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("100000\n", "100000\n", 1), ("-1\n", "100000\n", ALL), ("25000", "50000", 1), ("x", "y", ALL)],
)
def test_the_quota_of_an_older_container(quota: str, period: str, cores: int, tmp_path: Path) -> None:
    write_v1(tmp_path, quota, period)
    assert usable_cpus(tmp_path) == cores


def test_an_unlimited_v2_group_does_not_hide_a_v1_quota(tmp_path: Path) -> None:
    """Hybrid systems mount both."""
    write_v2(tmp_path, "max 100000\n")
    write_v1(tmp_path, "100000\n", "100000\n")
    assert usable_cpus(tmp_path) == 1


@pytest.mark.skipif(not LINUX or ALL < 2, reason="needs Linux and two CPUs")
@pytest.mark.parametrize(
    ("files", "groups", "cores"),
    [
        # A service of systemd with CPUQuota=: its own group, or one around it.
        ({"cpu.max": "max 100000", "a/b/cpu.max": "100000 100000"}, "0::/a/b\n", 1),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "6400000 100000"}, "0::/a/b\n", 1),
        ({"a/b/cpu.max": "max 100000"}, "0::/a/b\n", ALL),
        ({"other/cpu.max": "100000 100000"}, "0::/a\n", ALL),
        # Version 1, where memory has a group of its own.
        (
            {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"},
            "4:memory:/b\n2:cpu,cpuacct:/a\n0::/\n",
            1,
        ),
        (
            {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"},
            "4:memory:/a\n2:cpu,cpuacct:/b\n",
            ALL,
        ),
    ],
)
def test_the_least_quota_of_the_groups_around_counts(
    tmp_path: Path, files: dict[str, str], groups: str, cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    assert usable_cpus(tmp_path, tmp_path / "groups") == cores


# Decodes a picture whose buffers glibc would return and fetch anew each time; prints page faults a picture.
DECODING = """
import io, resource, sys
from PIL import Image
from model_store.device import keep_freed_memory
from model_store.imaging import decode
from model_store.manifest import Preprocessing

buffer = io.BytesIO()
Image.linear_gradient("L").resize((1920, 1080)).convert("RGB").save(buffer, sys.argv[1])
keep_freed_memory()
other = io.BytesIO()
Image.linear_gradient("L").resize((1300, 900)).convert("RGB").save(other, "PNG")
decode(other.getvalue(), 224, Preprocessing())
for round in range(12):
    if round == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    decode(buffer.getvalue(), 224, Preprocessing())
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 8)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such knob")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_decoding_needs_no_fresh_pages_once_it_runs(format: str) -> None:
    """A fresh process for each: thresholds stay set. 1920 x 1080 pixels of RGB are 1500 pages."""
    command = [sys.executable, "-c", DECODING, format]
    faults = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert faults < 100


def test_keeping_memory_is_no_error_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl and macOS have no mallopt."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()


@pytest.mark.skipif(not LINUX, reason="only Linux tells and sets the affinity")
def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == ALL
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(not LINUX, reason="CPUs are given on Linux only")
def test_threads_get_a_cpu_each_only_when_they_are_as_many(tmp_path: Path) -> None:
    assert own_cpus(ALL, tmp_path) == sorted(os.sched_getaffinity(0))
    assert own_cpus(ALL + 1, tmp_path) == []
    assert ALL == 1 or own_cpus(ALL - 1, tmp_path) == []


@pytest.mark.skipif(not LINUX or ALL < 2, reason="needs Linux and two CPUs")
def test_a_quota_gives_no_thread_a_cpu(tmp_path: Path) -> None:
    """Every container on the machine would take the first ones."""
    write_v2(tmp_path, "100000 100000\n")
    assert usable_cpus(tmp_path) == 1
    assert own_cpus(1, tmp_path) == []


def limit_of(tmp_path: Path, files: dict[str, str], groups: str = "0::/\n") -> int | None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    return memory_limit_bytes(tmp_path, tmp_path / "groups")


@pytest.mark.skipif(not LINUX, reason="only Linux has control groups")
@pytest.mark.parametrize(
    ("files", "groups", "limit"),
    [
        ({}, "", None),
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"memory.max": "268435456\n"}, "0::/\n", 256 << 20),
        # A service of systemd: its own group, or one around it.
        ({"memory.max": "max", "a/b/memory.max": "1048576"}, "0::/a/b\n", 1 << 20),
        ({"a/memory.max": "1048576", "a/b/memory.max": "2097152"}, "0::/a/b\n", 1 << 20),
        ({"other/memory.max": "1048576"}, "0::/a\n", None),
        # Version 1; no limit is a number beyond all memory. In a container the path is the host's.
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/docker/1\n", None),
        ({"memory/memory.limit_in_bytes": "1048576\n"}, "4:cpu,memory:/docker/1\n", 1 << 20),
        ({"memory/a/memory.limit_in_bytes": "1048576\n"}, "4:memory:/a\n1:cpu:/b\n0::/\n", 1 << 20),
        ({"memory/b/memory.limit_in_bytes": "1048576\n"}, "4:memory:/a\n1:cpu:/b\n0::/\n", None),
        ({"memory.max": "nonsense"}, "0::/\n", None),
    ],
)
def test_the_memory_limit(tmp_path: Path, files: dict[str, str], groups: str, limit: int | None) -> None:
    assert limit_of(tmp_path, files, groups) == limit


def test_what_is_resident(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert resident_bytes(status) == 1 << 20
    assert resident_bytes(tmp_path / "none") is None


def test_clocks_and_temperatures_where_the_kernel_tells(tmp_path: Path) -> None:
    assert cpu_hertz(tmp_path) == celsius(tmp_path) == {}
    for cpu, khz in (("cpu0", "1500000\n"), ("cpu1", "600000\n"), ("cpufreq", "1\n")):
        (tmp_path / cpu / "cpufreq").mkdir(parents=True)
        (tmp_path / cpu / "cpufreq" / "scaling_cur_freq").write_text(khz)
    for zone, milli in (("thermal_zone0", "81250\n"), ("thermal_zone1", ""), ("cooling_device0", "3\n")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(milli)
    assert cpu_hertz(tmp_path) == {"cpu0": 1.5e9, "cpu1": 0.6e9}
    assert celsius(tmp_path) == {"thermal_zone0": 81.25}


# Keeps every second block once a larger one was freed, as opening a session does; prints MiB resident of 32.
OPENING = """
import sys
from model_store.device import resident_bytes, return_freed_memory

if sys.argv[1] == "returns":
    return_freed_memory()
before = resident_bytes()
del [bytes(range(256)) * (4 << 12)][:]
blocks = [bytes(range(256)) * (1 << 11) for _ in range(128)]
kept = blocks[::2]
del blocks
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such knob")
def test_what_is_freed_between_blocks_that_are_kept_goes_back() -> None:
    found = {}
    for how in ("returns", "as it is"):
        command = [sys.executable, "-c", OPENING, how]
        found[how] = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert 32 <= found["returns"] < 36
    assert found["as it is"] > 50
