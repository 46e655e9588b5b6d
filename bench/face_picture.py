"""What the service says of the faces in photos, drawn on them: `python -m bench.face_picture PHOTO...`.

Asks a running service. docs/faces.jpg shows two photos in the public domain, by Pete Souza and David
Lienemann for the White House (obama.jpg and biden.jpg in the package face_recognition 1.3.0).
"""

import argparse
import io
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

_BLUE = "#2f6fdf"
_HEIGHT = 5.2  # inches
_ATTRIBUTES = 5  # the surest that a face has


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--budget-ms", type=float, default=100)
    parser.add_argument("--output", type=Path, default=Path("docs/faces.jpg"))
    options = parser.parse_args()
    photos = [path.read_bytes() for path in options.photos]
    with httpx.Client(base_url=options.url, timeout=30) as http:
        answers = [_ask(http, photo, options.budget_ms) for photo in photos]
    images = [ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB") for photo in photos]
    widths = [image.width / image.height for image in images]
    figure, axes = plt.subplots(
        1, len(images), figsize=(_HEIGHT * sum(widths), _HEIGHT), width_ratios=widths, squeeze=False
    )
    for ax, image, answer in zip(axes[0], images, answers, strict=True):
        _draw(ax, image, answer)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.01)
    figure.savefig(options.output, dpi=130, pil_kwargs={"quality": 88, "optimize": True})


def _ask(http: httpx.Client, photo: bytes, budget_ms: float) -> dict[str, Any]:
    response = http.post(f"/v1/face-attributes?latency_budget_ms={budget_ms}", content=photo)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _draw(ax: Axes, image: Image.Image, answer: dict[str, Any]) -> None:
    ax.imshow(image)
    ax.axis("off")
    for face in answer["faces"]:
        box = face["box"]
        corner = (box["x"], box["y"])
        ax.add_patch(Rectangle(corner, box["width"], box["height"], fill=False, color=_BLUE, linewidth=2.5))
        age = face["age"]
        surest = sorted(face["attributes"].items(), key=lambda item: -item[1])[:_ATTRIBUTES]
        lines = [f"{age['years']:.0f} years ({age['low']:.0f} to {age['high']:.0f})"]
        lines += [f"{name.replace('_', ' ')} {probability:.2f}" for name, probability in surest]
        ax.text(
            box["x"] + box["width"] / 2, box["y"] + box["height"] + 0.012 * image.height, "\n".join(lines),
            ha="center", va="top", color="white", fontsize=10, linespacing=1.35,
            bbox={"facecolor": _BLUE, "edgecolor": "none", "alpha": 0.92, "pad": 5},
        )  # fmt: skip
    latency, detector, variant = answer["latency"], answer["detector"], answer["variant"]
    how = f"{_short(detector['id'])}\n{_short(variant['id'])}\n{latency['total_ms']:.0f} ms"
    ax.text(
        0.015, 0.015, how, transform=ax.transAxes, color="white", fontsize=9,
        bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 4},
    )  # fmt: skip


def _short(variant: str) -> str:
    return variant.replace("_v1", "").replace("_", " ")


if __name__ == "__main__":
    main()
