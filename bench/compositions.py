"""Photos with faces pasted on them, the same from the same seed: what detectors are measured on.

Nothing of the pictures is in the repository: they are made of folders beside it (`images/photos` and
`faces`), whose files are taken in the order of their names.
"""

import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

RGB = npt.NDArray[np.uint8]

SMALLEST, LARGEST = 48, 300  # height of a pasted face picture, in pixels
_MOST_FACES = 4
_MASK = (173, 200, 216)
_ATTEMPTS = 20  # to find a place for one more face
_ARCHIVES = ("celeba.zip", "utkface.zip")
# Where the face is in the pictures of each archive, which are aligned: left, top, right, bottom as shares.
# Medians of what the detector finds at 512 pixels; the deviations are 0.06 and less.
_FACE_IN: dict[str, tuple[float, float, float, float]] = {
    "celeba.zip": (0.27, 0.31, 0.72, 0.82),
    "utkface.zip": (0.05, 0.0, 0.93, 0.93),
}
# Photos that show people: faces of their own, found or not, would count for nothing or as wrong.
WITH_PEOPLE = frozenset(
    {
        "face.jpg", "grace_hopper.bmp", "kite_and_cold.jpg", "n02102040_English_springer.JPEG",
        "n02108422_bull_mastiff.JPEG", "n02777292_balance_beam.JPEG", "n02895154_breastplate.JPEG",
        "n02951358_canoe.JPEG", "n03141823_crutch.JPEG", "n03180011_desktop_computer.JPEG",
        "n03372029_flute.JPEG", "n03617480_kimono.JPEG", "n03770439_miniskirt.JPEG", "n04019541_puck.JPEG",
        "n04418357_theater_curtain.JPEG", "n04428191_thresher.JPEG", "n04540053_volleyball.JPEG",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """How hard the faces are to find: their heights in pixels, by how much each is turned in its plane, which
    share of it is covered from below, as by a mask, and how many there are at most."""

    smallest: int = SMALLEST
    largest: int = LARGEST
    degrees: float = 0.0
    hidden: float = 0.0
    most_faces: int = _MOST_FACES


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of the upright picture."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """`faces` are where the pasted faces are; the photo below shows none."""

    name: str
    pixels: RGB
    faces: tuple[Box, ...]


class Material:
    """The folders that compositions are made of."""

    def __init__(self, shared: Path) -> None:
        self._archives = {name: zipfile.ZipFile(shared / "faces" / name) for name in _ARCHIVES}
        photos = sorted((shared / "images" / "photos").iterdir())
        self._photos = [path for path in photos if path.name not in WITH_PEOPLE]

    def compose(self, seed: int, condition: Condition = Condition()) -> Composition:
        rng = np.random.default_rng(seed)
        photo = self._photos[rng.integers(len(self._photos))]
        canvas = read_upright(photo.read_bytes())
        faces: list[Box] = []
        taken: list[Box] = []
        for _ in range(rng.integers(1, condition.most_faces + 1)):
            archive = _ARCHIVES[rng.integers(len(_ARCHIVES))]
            names = self._names[archive]
            picture = read_upright(self._archives[archive].read(names[rng.integers(len(names))]))
            # Log-uniform: as many small faces as large ones.
            low, high = np.log(condition.smallest), np.log(condition.largest)
            height = round(float(np.exp(rng.uniform(low, high))))
            width = max(1, round(picture.width * height / picture.height))
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            left, top, right, bottom = _FACE_IN[archive]
            face = Box(left * width, top * height, (right - left) * width, (bottom - top) * height)
            _cover(picture, face, condition.hidden)
            picture, face = _turned(picture, face, condition.degrees)
            place = _place(rng, canvas.size, picture.size, taken)
            if place is None:
                continue
            canvas.paste(picture, place, picture if picture.mode == "RGBA" else None)
            taken.append(Box(*place, *picture.size))
            faces.append(Box(place[0] + face.x, place[1] + face.y, face.width, face.height))
        return Composition(f"composition-{seed}", np.asarray(canvas), tuple(faces))

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return {
            archive: sorted(n for n in file.namelist() if n.endswith(".jpg"))
            for archive, file in self._archives.items()
        }


def read_upright(data: bytes) -> Image.Image:
    """RGB at full size, EXIF orientation applied."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def as_png(pixels: RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _cover(picture: Image.Image, face: Box, share: float) -> None:
    if share > 0:
        whole = (face.x, face.y + face.height * (1 - share), face.x + face.width, face.y + face.height)
        left, top, right, bottom = (round(side) for side in whole)
        picture.paste(_MASK, (left, top, right, bottom))


def _turned(picture: Image.Image, face: Box, degrees: float) -> tuple[Image.Image, Box]:
    """The box keeps its size, around the centre of the face wherever that goes."""
    if degrees == 0:
        return picture, face
    turned = picture.convert("RGBA").rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    angle = np.deg2rad(degrees)
    x, y = face.x + face.width / 2 - picture.width / 2, face.y + face.height / 2 - picture.height / 2
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    left, top = x + turned.width / 2 - face.width / 2, y + turned.height / 2 - face.height / 2
    return turned, Box(float(left), float(top), face.width, face.height)


def _place(
    rng: np.random.Generator, canvas: tuple[int, int], size: tuple[int, int], taken: list[Box]
) -> tuple[int, int] | None:
    """Left and top of a free place; None where there is no room."""
    width, height = size
    if width > canvas[0] or height > canvas[1]:
        return None
    for _ in range(_ATTEMPTS):
        x = int(rng.integers(canvas[0] - width + 1))
        y = int(rng.integers(canvas[1] - height + 1))
        if all(
            x + width <= t.x or x >= t.x + t.width or y + height <= t.y or y >= t.y + t.height for t in taken
        ):
            return x, y
    return None
