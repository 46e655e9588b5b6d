"""One variant, ready to run. The only importer of onnxruntime in what serves."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_store.imaging import UInt8Array

Scores = npt.NDArray[np.float32]
RUNTIME_VERSION = f"onnxruntime-{ort.__version__}"


class ModelUnusable(Exception):
    """The runtime refuses the model, or the model does not fit the store's contract."""


class Session(Protocol):
    """What runs one variant; a stub or another backend can stand in."""

    provider: str

    def run(self, images: UInt8Array) -> Scores:
        """uint8 [N, H, W, 3] to float32 [N, classes]. Safe to call from several threads."""
        ...


class OnnxSession:
    """ONNX Runtime on the CPU with a fixed number of threads."""

    provider = "CPUExecutionProvider"

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

    def run(self, images: UInt8Array) -> Scores:
        (scores,) = self._session.run(["scores"], {"image": images})
        return np.asarray(scores, np.float32)

    @property
    def resolution(self) -> int:
        """Side of the square input in pixels."""
        return int(self._session.get_inputs()[0].shape[1])

    @property
    def classes(self) -> int:
        return int(self._session.get_outputs()[0].shape[1])

    def _check_interface(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        # Networks of faces offer their features too, for others to ask for.
        answers = [v for v in outputs if v.name != "features"]
        found = [(v.name, v.type, v.shape) for v in [*inputs, *answers]]
        expected = "expected `image` uint8 [N, H, W, 3] and `scores` float32 [N, classes]"
        if [v[:2] for v in found] != [("image", "tensor(uint8)"), ("scores", "tensor(float)")]:
            names = ", ".join(f"{name} {kind}" for name, kind, _ in found)
            raise ModelUnusable(f"the model has {names}; {expected}")
        image, scores = found[0][2], found[1][2]
        sizes = image[1:3] if len(image) == 4 else []
        square = len(sizes) == 2 and isinstance(sizes[0], int) and sizes[0] == sizes[1]
        fixed_batch = bool(image) and isinstance(image[0], int)
        if not square or fixed_batch or image[3] != 3 or len(scores) != 2 or not isinstance(scores[1], int):
            raise ModelUnusable(f"the model has shapes {image} and {scores}; {expected}")
