"""Where official MobileNet v1 weights are published, under which licence, and how accurate they are.

The figures are those of the official model page for `mobilenet_v1_2018_08_02` (Apache-2.0): accuracy
on the 50,000 pictures of the ImageNet validation set, single crop.
"""

from dataclasses import dataclass

OFFICIAL_BASE_URL = "https://storage.googleapis.com/download.tensorflow.org/models"
OFFICIAL_RELEASE = "mobilenet_v1_2018_08_02"
OFFICIAL_LICENCE = "Apache-2.0"
PUBLISHED_DATASET = "ImageNet validation, 50,000 pictures"

# Along the accuracy/latency frontier: what `model-store pull imagenet` fetches.
DEFAULT_CHECKPOINTS: tuple[str, ...] = ("1.0_224", "0.75_192", "0.5_160", "0.25_128")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One official checkpoint; accuracies in percent, as published."""

    alpha: float
    resolution: int
    quantized: bool
    million_mult_adds: int
    million_parameters: float
    top1: float
    top5: float

    @property
    def name(self) -> str:
        """As in the official table: `0.5_160`, or `0.5_160_quant`."""
        return f"{self.alpha}_{self.resolution}" + ("_quant" if self.quantized else "")

    @property
    def archive(self) -> str:
        return f"mobilenet_v1_{self.name}.tgz"

    @property
    def member_suffix(self) -> str:
        """The one file of the archive that holds what we need."""
        return ".tflite" if self.quantized else "_frozen.pb"

    def url(self, base_url: str = OFFICIAL_BASE_URL) -> str:
        return f"{base_url.rstrip('/')}/{OFFICIAL_RELEASE}/{self.archive}"


# alpha, resolution, million mult-adds, million parameters, then top-1 and top-5 of the float and of
# the quantised checkpoint.
_TABLE: tuple[tuple[float, int, int, float, float, float, float, float], ...] = (
    (1.0, 224, 569, 4.24, 70.9, 89.9, 69.7, 89.5),
    (1.0, 192, 418, 4.24, 70.0, 89.2, 69.0, 88.9),
    (1.0, 160, 291, 4.24, 68.0, 87.7, 67.3, 87.7),
    (1.0, 128, 186, 4.24, 65.2, 85.8, 64.0, 85.5),
    (0.75, 224, 317, 2.59, 68.4, 88.2, 67.9, 88.1),
    (0.75, 192, 233, 2.59, 67.2, 87.3, 66.2, 87.1),
    (0.75, 160, 162, 2.59, 65.3, 86.0, 63.9, 85.5),
    (0.75, 128, 104, 2.59, 62.1, 83.9, 59.8, 82.8),
    (0.5, 224, 150, 1.34, 63.3, 84.9, 62.2, 84.5),
    (0.5, 192, 110, 1.34, 61.7, 83.6, 60.4, 83.2),
    (0.5, 160, 77, 1.34, 59.1, 81.9, 57.7, 81.3),
    (0.5, 128, 49, 1.34, 56.3, 79.4, 54.9, 78.9),
    (0.25, 224, 41, 0.47, 49.8, 74.2, 48.2, 73.8),
    (0.25, 192, 34, 0.47, 47.7, 72.3, 45.8, 71.9),
    (0.25, 160, 21, 0.47, 45.5, 70.3, 43.5, 69.1),
    (0.25, 128, 14, 0.47, 41.5, 66.3, 39.9, 65.8),
)

OFFICIAL_CHECKPOINTS: tuple[Checkpoint, ...] = tuple(
    Checkpoint(alpha, resolution, False, mult_adds, parameters, top1, top5)
    for alpha, resolution, mult_adds, parameters, top1, top5, _, _ in _TABLE
) + tuple(
    Checkpoint(alpha, resolution, True, mult_adds, parameters, top1, top5)
    for alpha, resolution, mult_adds, parameters, _, _, top1, top5 in _TABLE
)

CHECKPOINTS_BY_NAME: dict[str, Checkpoint] = {c.name: c for c in OFFICIAL_CHECKPOINTS}


@dataclass(frozen=True, slots=True)
class IndexSource:
    """A source archive of a Python package index that carries official weights unchanged."""

    project: str
    version: str
    sha256: str
    member: str
    alpha: float
    trained_resolution: int
    licence: str

    @property
    def filename(self) -> str:
        return f"{self.project}-{self.version}.tar.gz"


# The retrained graph of this package is Google's MobilenetV1 1.0_224 with its 1001-class logits,
# under a small head of the package's own that the importer leaves behind. None of its code is run.
FALLBACK_SOURCE = IndexSource(
    project="nudity",
    version="0.2.3",
    sha256="d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f",
    member="nudity-0.2.3/nudity/files/retrained_graph.pb",
    alpha=1.0,
    trained_resolution=224,
    licence="Apache-2.0 (weights, Google), MIT (package)",
)


@dataclass(frozen=True, slots=True)
class NpmSource:
    """A package of the npm registry that carries weights in TensorFlow.js's form."""

    package: str
    version: str
    sha256: str
    manifest: str
    shards: tuple[str, ...]
    licence: str

    @property
    def spec(self) -> str:
        return f"{self.package}@{self.version}"

    @property
    def filename(self) -> str:
        """As `npm pack` calls it."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# TensorFlow's SSD with a MobileNet v1 body, trained on the faces of WIDER FACE.
FACE_DETECTOR_SOURCE = NpmSource(
    package="@vladmandic/face-api",
    version="1.7.15",
    sha256="0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    manifest="package/model/ssd_mobilenetv1_model-weights_manifest.json",
    shards=("package/model/ssd_mobilenetv1_model.bin",),
    licence="MIT",
)
