"""How soon the service answers, and what memory, idle CPU and disk it takes: `python -m bench.footprint`.

Starts the real service twice on one store, so that the second start finds the latencies cached, then
sends it pictures; the edge's case is `--requests 10000 --store DIR` with four int8 variants. Without --store
it uses eight variants of random weights: sizes and costs are those of real ones. `--image TAG` adds the size
of a container image (by Docker's client). `bench/arm64/instructions` counts instructions on ARM64.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import httpx

from bench import random_store
from bench.server import RunningServer, running_server
from model_store.architecture import ALPHAS
from model_store.imaging import sample_picture
from model_store.store import ModelStore

_EIGHT = tuple((alpha, resolution) for alpha in ALPHAS for resolution in (224, 160))
_STARTS = 5
_IDLE_SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, help="default: eight variants of random weights")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--image", metavar="TAG", help="a container image to tell the size of")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    image = image_megabytes(options.image) if options.image else {}
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or random_store.fill(Path(folder) / "store", _EIGHT).root
        result = measure(store, Path(folder) / "state", options.requests) | image
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result.items():
            print(f"{name:<28} {value}")


def measure(store: Path, state_dir: Path, requests: int) -> dict[str, float]:
    """Seconds to ready (first start, and median with a cached profile) and to the first answer, MiB idle and
    after `requests`, and what the idle service takes of one core in percent."""
    with running_server(store, state_dir) as first:
        cold_s = first.ready_s
    ready_s, answer_s = [], []
    for _ in range(_STARTS):
        with running_server(store, state_dir) as server:
            ready_s.append(server.ready_s)
            started = time.perf_counter()
            _load(server, 1)
            answer_s.append(server.ready_s + time.perf_counter() - started)
            idle_mib = server.resident_mib()
    with running_server(store, state_dir) as server:
        _load(server, requests)
        loaded_mib = server.resident_mib()
        before = _cpu_s(server)
        time.sleep(_IDLE_SECONDS)
        idle_cpu = 100 * (_cpu_s(server) - before) / _IDLE_SECONDS
    return {
        "variants": len(ModelStore(store).variants()),
        "ready_first_start_s": round(cold_s, 2),
        "ready_cached_profile_s": round(statistics.median(ready_s), 2),
        "first_answer_s": round(statistics.median(answer_s), 2),
        "resident_idle_mib": round(idle_mib, 1),
        "resident_after_load_mib": round(loaded_mib, 1),
        "idle_cpu_percent": round(idle_cpu, 2),
        "requests": requests,
    }


def image_megabytes(image: str, docker: str = "docker") -> dict[str, float]:
    """Millions of bytes of all files, and of all layers under gzip, as a registry keeps them. Exits with what
    Docker says where it does not know the image."""
    inspect = [docker, "image", "inspect", "--format", "{{.Size}}", image]
    told = subprocess.run(inspect, check=False, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(f"{image} cannot be measured: {told.stderr.strip()}")
    unpacked = int(told.stdout)
    compressor, compressed = zlib.compressobj(wbits=31), 0
    with subprocess.Popen([docker, "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while chunk := saving.stdout.read(1 << 20):
            compressed += len(compressor.compress(chunk))
    if saving.returncode:
        raise subprocess.CalledProcessError(saving.returncode, saving.args)
    compressed += len(compressor.flush())
    return {"image_mb": round(unpacked / 1e6, 1), "image_compressed_mb": round(compressed / 1e6, 1)}


def _cpu_s(server: RunningServer) -> float:
    """CPU seconds that the process has used (Linux)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _load(server: RunningServer, requests: int) -> None:
    """Every variant in turn, with pictures from 500x375 to 1080p."""
    pictures = [sample_picture("JPEG", w, h, grain=8) for w, h in ((500, 375), (1920, 1080), (800, 600))]
    with httpx.Client(base_url=server.base_url, timeout=30) as http:
        ids = [v["id"] for v in http.get("/v1/variants").json()["variants"]]
        for i in range(requests):
            query = f"variant={ids[i % len(ids)]}"
            http.post(f"/v1/classify?{query}", content=pictures[i % len(pictures)]).raise_for_status()


if __name__ == "__main__":
    main()
