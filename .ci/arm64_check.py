"""The host's side of `.ci/arm64`: the pictures, the comparison of scores, and the request to the service.

arm64_check.py pictures DIR
arm64_check.py scores EXPECTED.npz FOUND.npz
arm64_check.py service PORT PICTURE EXPECTED.npz
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from model_store.imaging import sample_picture

PICTURES = 20
TOLERANCE = 1e-3  # in probability
ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "images" / "photos"


def main() -> None:
    commands: dict[str, Callable[..., None]] = {"pictures": pictures, "scores": scores, "service": service}
    command, *arguments = sys.argv[1:]
    commands[command](*arguments)


def pictures(folder: str) -> None:
    """Photos where there are some, or else pictures that are drawn, the same every time."""
    found = sorted(PHOTOS.glob("*.JPEG"), key=lambda path: path.stat().st_size)[:PICTURES]
    if len(found) < PICTURES:
        print("the photos are absent: drawn pictures take their place")
    for i in range(PICTURES):
        side = 160 + 16 * i
        data = found[i].read_bytes() if len(found) == PICTURES else sample_picture("JPEG", side, 400, grain=i)
        Path(folder, f"{i:02}.jpg").write_bytes(data)


def scores(expected_file: str, found_file: str) -> None:
    """Within the tolerance, and the same most likely class, for every variant and picture."""
    expected, found = np.load(expected_file), np.load(found_file)
    assert set(expected) == set(found)
    for variant in sorted(expected):
        worst = float(np.abs(expected[variant] - found[variant]).max())
        same = expected[variant].argmax(axis=1) == found[variant].argmax(axis=1)
        print(
            f"{variant}: {len(same)} pictures, {same.sum()} with the same top-1, scores differ by {worst:.1e}"
        )
        assert worst <= TOLERANCE, f"{variant}: scores are wrong on this core"
        assert same.all(), f"{variant}: pictures {np.flatnonzero(~same)} are taken for another class"


def service(port: str, picture: str, expected_file: str) -> None:
    """The whole service: ready, and the picture's class and score over HTTP are those of the host."""
    variant = "mobilenet_v1_1.0_128_int8"
    expected = np.load(expected_file)[variant][0]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=180) as http:
        for _ in range(1000):
            try:
                if http.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        answer = http.post(f"/v1/classify?variant={variant}", content=Path(picture).read_bytes())
        assert answer.status_code == 200, answer.text
        best = answer.json()["predictions"][0]
        assert best["index"] == int(expected.argmax()), best
        assert abs(best["score"] - float(expected.max())) <= TOLERANCE, best
        assert http.get("/metrics").status_code == 200
        print(f"the service answers: {best['label']}, score {best['score']:.4f}")


if __name__ == "__main__":
    main()
