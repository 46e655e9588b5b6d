"""The closed loops: what `wrk` prints is understood, and a real server is loaded."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bench import photos, throughput, wrk
from bench.cpu_time import Accounts
from bench.random_store import fill
from bench.throughput import LOOP, Row
from bench.wrk import Load, WrkFailed

ACCOUNTS = Path("/proc/self/schedstat").exists()
SUMMARY = {
    "requests": 400, "duration_us": 2_000_000, "p50_us": 19_500, "p99_us": 30_250,
    "status": 3, "timeout": 1, "connect": 0, "read": 2, "write": 0,
}  # fmt: skip


def jpeg(width: int, height: int, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def load(rate: float, errors: int = 0) -> Load:
    return Load(rate, 10.0, 20.0, 100, errors)


def test_the_summary_is_read_and_refusals_are_no_throughput() -> None:
    found = wrk.parse(f"Running 2s test\n  chatter {{}}\n\n{json.dumps(SUMMARY)}\n")
    assert found == Load(requests_per_s=198.5, p50_ms=19.5, p99_ms=30.25, requests=400, errors=6)


@pytest.mark.parametrize("output", ["", "unable to connect", '{"requests": 4}', "[]"])
def test_no_summary_is_a_failure(output: str) -> None:
    with pytest.raises(WrkFailed, match="no summary"):
        wrk.parse(output)


def test_the_share_of_the_loop_is_of_the_same_round_and_errors_are_summed() -> None:
    row = Row("v", "p", {LOOP: [load(100), load(50), load(80)], "8": [load(80, 1), load(45), load(72, 2)]})
    assert row.of_loop("8") == pytest.approx(0.9)
    assert row.median("8") == load(72, 3)
    assert any("3 ERRORS" in line for line in throughput.lines(row))
    assert Row("", "p", {"8": [load(5)]}).of_loop("8") is None


def test_the_picture_is_the_median_of_its_size_or_made(tmp_path: Path) -> None:
    same = [jpeg(500, 375, quality) for quality in (10, 60, 95)]
    for i, data in enumerate([*same, jpeg(640, 480)]):
        (tmp_path / f"{i}.JPEG").write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    found = photos.of_sizes(tmp_path, ((500, 375), (192, 108)))
    assert found["500x375"] == sorted(same, key=len)[1]
    assert Image.open(io.BytesIO(found["192x108"])).size == (192, 108)


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(photos.NoPhoto):
        photos.of_sizes(tmp_path)


@pytest.mark.skipif(not wrk.available(), reason="wrk is not installed")
def test_a_real_server_is_loaded_and_compared_with_the_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(tmp_path / "store", ((0.25, 128),)).root
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(500, 375))
    output = tmp_path / "result.json"
    code = throughput.main([
        "--store", str(store), "--photos", str(tmp_path / "photos"),
        "--variant", "mobilenet_v1_0.25_128_fp32",
        "--connections", "2", "--processes", "1", "2",
        "--seconds", "1", "--rounds", "1", "--output", str(output),
    ])  # fmt: skip
    assert code == 0
    assert "2 connections, 2 processes" in capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert [row["picture"] for row in rows] == ["500x375", "1920x1080"]
    for row in rows:
        for name in ("2", "2 to 2"):
            assert row["loads"][name]["requests"] > 0
            assert row["loads"][name]["errors"] == 0
            assert row["of_loop"][name] > 0
        assert set(row["cpu"]) == ({"2"} if ACCOUNTS else set())
        for cpu in row["cpu"].values():
            assert all(cpu[of] > 0 for of in ("loop_ms", "workers_ms", "generator_ms"))


BUSY = """
import sys, threading, time
def work():
    while time.thread_time() < 0.2:
        pass
    print(flush=True)
    threading.Event().wait()
sys.stdin.readline()
threading.Thread(target=work, daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.skipif(not ACCOUNTS, reason="the kernel keeps no accounts of threads")
def test_the_time_of_the_workers_is_told_from_the_event_loops() -> None:
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdin is not None
        assert busy.stdout is not None
        before = Accounts.of(busy.pid)
        print(file=busy.stdin, flush=True)
        busy.stdout.readline()
        taken = before.since(requests=2)
        busy.kill()
    assert 95 < taken.workers_ms < 150  # each of two, of CPU time
    assert taken.workers_ms > taken.loop_ms


def test_a_variant_that_the_store_lacks_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(500, 375))
    fill(tmp_path / "store", ((0.25, 128),))
    arguments = ["--store", str(tmp_path / "store"), "--photos", str(tmp_path)]
    arguments += ["--variant", "mobilenet_v1_0.25_128_fp32", "--variant", "mobilenet_v1_1.0_224_int8"]
    assert throughput.main(arguments) == 1
    told = capsys.readouterr()
    assert "mobilenet_v1_1.0_224_int8" in told.err
    assert not told.out


def test_a_server_that_does_not_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(500, 375))
    store = fill(tmp_path / "store", ((0.25, 128),)).root
    arguments = ["--store", str(store), "--photos", str(tmp_path), "--processes", "0"]
    assert throughput.main([*arguments, "--variant", "mobilenet_v1_0.25_128_fp32"]) == 1
    assert "the server ended" in capsys.readouterr().err
