"""The comparison with other servers: how they are asked, and what is made of what was measured."""

import base64
import json
import sys
from email import message_from_bytes
from pathlib import Path
from typing import Any

import psutil

from bench.peers import environments, report
from bench.peers.processes import started, wait_until
from bench.peers.table import PEERS, PIPELINES, multipart, open_inference

PICTURE = b"\xff\xd8 not for decoding \r\n--\r\n"


def point(rate: float, p99_ms: float, errors: int = 0) -> dict[str, Any]:
    requests = round(rate * 3)
    return {"requests_per_s": rate, "p50_ms": 5.0, "p99_ms": p99_ms, "requests": requests, "errors": errors}


def result() -> dict[str, Any]:
    row = {"service": point(150, 60), "litserve": point(120, 75), "ray": point(90, 50, errors=2)}
    points = {"500x375": {"1": row, "8": row, "32": row}}
    block = {"points": points, "resident_mib": {"service": 300, "litserve": 370, "ray": 1000}}
    keys = [f"mobilenet_v1_1.0_224_fp32/{pipeline}" for pipeline in PIPELINES]
    return {
        "device": "a CPU", "date": "2026-01-01", "engine": {"onnxruntime": "1"}, "seconds": 3,
        "variants_loaded": 8, "blocks": dict.fromkeys(keys, block),
    }  # fmt: skip


def test_a_form_bears_the_picture_untouched() -> None:
    body = multipart(PICTURE)
    message = message_from_bytes(f"Content-Type: {body.content_type}\r\n\r\n".encode() + body.data)
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["image"]
    assert body.data.count(PICTURE) == 1


def test_the_open_inference_protocol_bears_the_picture_as_base64() -> None:
    (image,) = json.loads(open_inference(PICTURE).data)["inputs"]
    assert base64.b64decode(image["data"][0]) == PICTURE


def test_every_peer_has_its_requirements_and_its_server() -> None:
    folder = Path(environments.__file__).parent
    for peer in PEERS:
        assert (folder / "requirements" / f"{peer.name}.txt").is_file()
        assert (folder / "servers" / f"{peer.name}_app.py").is_file()
        assert any(peer.name in argument or "servers" in argument for argument in peer.command(1))


def test_the_best_peer_is_the_fastest_and_the_p99_of_any() -> None:
    row = result()["blocks"]["mobilenet_v1_1.0_224_fp32/pillow"]["points"]["500x375"]["8"]
    assert report.best_peer(row) == "litserve"
    assert report.ratio(row) == 1.25
    assert report.least_p99_ms(row) == 50


def test_a_peer_that_answered_nothing_has_no_p99() -> None:
    row = {"service": point(10, 20), "litserve": point(0, 0)}
    row["ray"] = point(5, 30)
    assert report.least_p99_ms(row) == 30


def test_the_table_shows_errors_memory_and_ratios() -> None:
    text = report.markdown(result(), "peers.svg")
    assert "| 500x375 | 8 | 150 (5 / 60) | 120 (5 / 75) | 90 (5 / 50, 2 errors) | **1.25** | 1.20 |" in text
    assert "| LitServe | 370 |" in text
    assert "connections: Ray Serve 12." in text


def test_a_tree_is_frozen_thawed_and_ended_with_its_children(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with started([sys.executable, "-c", child], {}, tmp_path, tmp_path / "log") as (processes, process):
        root = psutil.Process(process.pid)
        assert wait_until(lambda: len(root.children()) == 1, process, 30)
        tree = [root, *root.children()]
        processes.freeze()
        assert wait_until(lambda: all(p.status() == psutil.STATUS_STOPPED for p in tree), process, 30)
        processes.thaw()
        assert wait_until(lambda: all(p.status() != psutil.STATUS_STOPPED for p in tree), process, 30)
        assert processes.resident_mib() > 1
        processes.freeze()  # what is frozen ends too
    assert not any(p.is_running() for p in tree)
