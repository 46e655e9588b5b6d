"""One variant of any head, ready to run. The only importer of onnxruntime in what serves."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_store.imaging import UInt8Array
from model_store.manifest import Head

Scores = npt.NDArray[np.float32]
RUNTIME_VERSION = f"onnxruntime-{ort.__version__}"


class ModelUnusable(Exception):
    """The runtime refuses the model, or the model does not fit the store's contract."""


class Predictions(NamedTuple):
    """What a detector says of N pictures, anchor by anchor (see `boxes`)."""

    offsets: npt.NDArray[np.float32]  # [N, anchors, 4]
    scores: npt.NDArray[np.float32]  # [N, anchors], the probability of a face


class Runnable(Protocol):
    """A model of any head."""

    def run(self, images: UInt8Array) -> object:
        """uint8 [N, H, W, 3] to what the head answers."""
        ...


class Session(Protocol):
    """What runs one variant; a stub or another backend can stand in."""

    provider: str

    def run(self, images: UInt8Array) -> Scores:
        """uint8 [N, H, W, 3] to float32 [N, classes]. Safe to call from several threads."""
        ...


class _OnnxModel:
    """ONNX Runtime on the CPU with a fixed number of threads."""

    provider = "CPUExecutionProvider"
    # What the head must answer: by name the axes after N, each of a fixed size, some of this very one.
    _outputs: ClassVar[dict[str, tuple[str | int, ...]]]

    def __init__(self, model: bytes, threads: int = 1) -> None:
        """Raises ModelUnusable when the runtime refuses `model` or its interface is another."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning thread takes the core that another request needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=[self.provider])
        except Exception as error:  # onnxruntime's own classes share no base
            raise ModelUnusable("ONNX Runtime refuses the model") from error
        # It keeps the serialised model for a fallback between providers that one provider cannot need.
        self._session._model_bytes = None
        self._check_interface()

    @property
    def resolution(self) -> int:
        """Side of the square input in pixels."""
        return int(self._session.get_inputs()[0].shape[1])

    def _check_interface(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(v.name, v.type, v.shape) for v in [*inputs, *outputs]]
        heads = (f"`{n}` float32 [{', '.join(map(str, ('N', *axes)))}]" for n, axes in self._outputs.items())
        expected = f"expected `image` uint8 [N, H, W, 3] and {', '.join(heads)}"
        floats = [(name, "tensor(float)") for name in self._outputs]
        if [v[:2] for v in found] != [("image", "tensor(uint8)"), *floats]:
            names = ", ".join(f"{name} {kind}" for name, kind, _ in found)
            raise ModelUnusable(f"the model has {names}; {expected}")
        image, *answers = (v[2] for v in found)
        sizes = image[1:3] if len(image) == 4 else []
        square = len(sizes) == 2 and isinstance(sizes[0], int) and sizes[0] == sizes[1]
        fixed_batch = bool(image) and isinstance(image[0], int)
        if not square or fixed_batch or image[3] != 3 or not all(map(_fits, answers, self._outputs.values())):
            shapes = " and ".join(str(shape) for shape in (image, *answers))
            raise ModelUnusable(f"the model has shapes {shapes}; {expected}")


class OnnxSession(_OnnxModel):
    """A classifier."""

    _outputs: ClassVar[dict[str, tuple[str | int, ...]]] = {"scores": ("classes",)}

    def run(self, images: UInt8Array) -> Scores:
        (scores,) = self._session.run(["scores"], {"image": images})
        return np.asarray(scores, np.float32)

    @property
    def classes(self) -> int:
        return int(self._session.get_outputs()[0].shape[1])


class OnnxDetector(_OnnxModel):
    """A detector; `boxes` makes boxes of what it predicts."""

    _outputs: ClassVar[dict[str, tuple[str | int, ...]]] = {"offsets": ("anchors", 4), "scores": ("anchors",)}

    def run(self, images: UInt8Array) -> Predictions:
        offsets, scores = self._session.run(list(self._outputs), {"image": images})
        return Predictions(np.asarray(offsets, np.float32), np.asarray(scores, np.float32))

    @property
    def anchors(self) -> int:
        return int(self._session.get_outputs()[1].shape[1])


def open_model(model: bytes, head: Head, threads: int = 1) -> OnnxSession | OnnxDetector:
    """A session of the kind that `head` needs. Raises ModelUnusable."""
    return OnnxDetector(model, threads) if head == "detection" else OnnxSession(model, threads)


def _fits(shape: list[object], axes: tuple[str | int, ...]) -> bool:
    """Whether the axes after N are as many as are wanted, and fixed."""
    pairs = list(zip(shape[1:], axes, strict=False))
    return len(shape) == len(axes) + 1 and all(
        size == axis if isinstance(axis, int) else isinstance(size, int) for size, axis in pairs
    )
