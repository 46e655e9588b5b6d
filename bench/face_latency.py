"""How long faces take, on one core: `python -m bench.face_latency --store DIR PHOTO...`.

A photo of one face with budgets of 60 ms and others, and a cropped face with the smallest network: what was
chosen, and the time to the answer as the service tells it.
"""

import argparse
import io
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench.server import running_server

_BUDGETS_MS = (30, 60, 100, 200)
_SMALLEST = "mobilenet_v1_0.25_128_int8"
_CROP = 200  # pixels
_WARM_UP, _REQUESTS = 40, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    options = parser.parse_args()
    photos = [path.read_bytes() for path in options.photos]
    print("| picture | budget, ms | p50, ms | p95, ms | in budget | detector and network |")
    print("|---|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as state,
        running_server(options.store, Path(state), timeout_s=300, threads="1") as server,
        httpx.Client(base_url=server.base_url, timeout=60) as http,
    ):
        for path, photo in zip(options.photos, photos, strict=True):
            width, height = Image.open(path).size
            for budget in _BUDGETS_MS:
                answers = _ask(http, photo, {"latency_budget_ms": budget})
                print(_line(f"{width} x {height}", str(budget), answers))
            crop = _cropped(photo, answers[-1]["faces"][0]["box"])
            answers = _ask(http, crop, {"faces": "cropped", "variant": _SMALLEST})
            print(_line(f"cropped, {_CROP} x {_CROP}", "", answers))


def _ask(http: httpx.Client, picture: bytes, query: dict[str, Any]) -> list[dict[str, Any]]:
    answers = []
    for _ in range(_WARM_UP + _REQUESTS):
        response = http.post("/v1/face-attributes", content=picture, params=query)
        response.raise_for_status()
        answers.append(response.json())
    return answers[_WARM_UP:]


def _cropped(photo: bytes, box: dict[str, float]) -> bytes:
    """The face alone, as UTKFace's pictures show it."""
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    crop = (
        Image.open(io.BytesIO(photo)).convert("RGB").crop((int(x), int(y), int(x + width), int(y + height)))
    )
    buffer = io.BytesIO()
    crop.resize((_CROP, _CROP)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _line(picture: str, budget: str, answers: list[dict[str, Any]]) -> str:
    times = [answer["latency"]["total_ms"] for answer in answers]
    met = sum(answer["latency"]["met"] for answer in answers) / len(answers)
    chosen = Counter(_chosen(answer) for answer in answers).most_common(1)[0][0]
    p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    return f"| {picture} | {budget} | {p50:.1f} | {p95:.1f} | {met:.0%} | {chosen} |"


def _chosen(answer: dict[str, Any]) -> str:
    found = (answer["detector"], answer["variant"])
    return ", ".join(f"{v['alpha']}_{v['resolution']}_{v['precision']}" for v in found if v)


if __name__ == "__main__":
    main()
