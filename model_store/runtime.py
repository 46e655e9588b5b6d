"""One variant of any head, on an execution provider. The only importer of onnxruntime in what serves.

The CPU provider runs everything. Others may be faster: those built into the installed onnxruntime, and those
of plugin packages beside it. `candidates.py` tells which deserve it.
"""

import functools
import importlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_store.imaging import UInt8Array
from model_store.manifest import Head

log = logging.getLogger(__name__)

Scores = npt.NDArray[np.float32]
RUNTIME_VERSION = f"onnxruntime-{ort.__version__}"
CPU = "CPUExecutionProvider"
# Names of the sizes that a model of this store leaves open: it takes square pictures of any resolution.
SIDES = ("H", "W")


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


class Detector(Protocol):
    """As `Session`, for detectors."""

    provider: str

    def run(self, images: UInt8Array) -> Predictions:
        """uint8 [N, H, W, 3]. Safe to call from several threads."""
        ...


def _openvino_options(threads: int, callers: int) -> dict[str, str]:
    # A stream runs one picture, on a thread of its own while the caller waits. Pinned, that thread would
    # share a core with another caller's decoding while the caller's own core is free.
    # Left to itself it computes floats in bfloat16 where the CPU can: scores differ by 0.0014, which is more
    # than counts as the same answer.
    cpu = {
        "NUM_STREAMS": callers,
        "INFERENCE_NUM_THREADS": threads * callers,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return {"load_config": json.dumps({"CPU": cpu})}


def _thread_options(threads: int, callers: int) -> dict[str, str]:
    return {"intra_op_num_threads": str(threads)}


def _no_options(threads: int, callers: int) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class _Kind:
    """`options` of a session by its threads a picture and the threads that call it at a time. Where `shared`
    is false, the runtime lets one caller in at a time."""

    options: Callable[[int, int], dict[str, str]]
    shared: bool = True


# Providers that need no memory of their own on a device, and whose numbers are close to the CPU provider's.
_KINDS: Mapping[str, _Kind] = {
    "OpenVINOExecutionProvider": _Kind(_openvino_options),
    "CoreMLExecutionProvider": _Kind(_no_options),
    "XnnpackExecutionProvider": _Kind(_thread_options, shared=False),
    "ACLExecutionProvider": _Kind(_no_options, shared=False),
}
# Packages that bring a provider as a library to load (all have the same two functions), and its CPU device.
_PLUGINS = {"onnxruntime_ep_openvino": ("ov_device", "CPU")}


def accelerators(callers: int = 1) -> dict[str, str]:
    """Providers beside the CPU's that can serve `callers` threads at once here; name to version."""
    built_in = {name: "" for name in ort.get_available_providers()}
    plugged = {name: device.ep_metadata.get("version", "") for name, device in _plugged().items()}
    return {
        name: version
        for name, version in sorted((built_in | plugged).items())
        if name in _KINDS and (_KINDS[name].shared or callers == 1)
    }


class _OnnxModel:
    """ONNX Runtime on one provider, with a fixed number of threads."""

    # What the head must answer: by name the axes after N, each of a fixed size, some of this very one.
    _outputs: ClassVar[dict[str, tuple[str | int, ...]]]
    _any_size: ClassVar[bool]  # may it take pictures of any resolution?
    # What it may offer besides, for others to ask for.
    _offered: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        model: bytes,
        threads: int = 1,
        *,
        provider: str = CPU,
        callers: int = 1,
        cpus: Sequence[int] = (),
        resolution: int | None = None,
    ) -> None:
        """`threads` are for one picture, `callers` the threads that run pictures at the same time.
        `cpus` are those of the threads that help the caller, one for each; left to the kernel, a virtual
        machine's above all, they wake on the CPU where the caller waits for them, and nothing is gained.
        `resolution`, in pixels, is for providers that compile a model for one size.

        Raises ModelUnusable when the runtime, or the provider, refuses `model`, or its interface is another.
        """
        self.provider = provider
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning thread takes the core that another request needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if cpus and len(cpus) == threads - 1:
            helpers = ";".join(str(cpu + 1) for cpu in cpus)  # it counts CPUs from 1
            options.add_session_config_entry("session.intra_op_thread_affinities", helpers)
        if resolution is not None:
            for side in SIDES:
                options.add_free_dimension_override_by_name(side, resolution)
        options.log_severity_level = (
            3 if provider == CPU else 4
        )  # what fails elsewhere is told by who tries it
        try:
            self._session = _open(model, options, provider, threads, callers)
        except Exception as error:  # onnxruntime's own classes share no base
            where = "" if provider == CPU else f" on {provider}"
            raise ModelUnusable(f"ONNX Runtime refuses the model{where}") from error
        if provider not in self._session.get_providers():  # it only warns
            raise ModelUnusable(f"{provider} cannot be loaded")
        # It keeps the serialised model for a fallback between providers that nobody wants here.
        self._session._model_bytes = None
        self._check_interface()

    def _check_interface(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        try:
            answers = [v for v in outputs if v.name not in self._offered]
            found = [(v.name, v.type, v.shape) for v in [*inputs, *answers]]
        except UnicodeDecodeError:
            raise ModelUnusable("the model has a name that is not UTF-8") from None
        heads = (f"`{n}` float32 [{', '.join(map(str, ('N', *axes)))}]" for n, axes in self._outputs.items())
        expected = f"expected `image` uint8 [N, H, W, 3] and {', '.join(heads)}"
        floats = [(name, "tensor(float)") for name in self._outputs]
        if [v[:2] for v in found] != [("image", "tensor(uint8)"), *floats]:
            names = ", ".join(f"{name} {kind}" for name, kind, _ in found)
            raise ModelUnusable(f"the model has {names}; {expected}")
        image, *shapes = (v[2] for v in found)
        sizes = image[1:3] if len(image) == 4 else []
        fixed = [isinstance(side, int) for side in sizes]
        square = len(sizes) == 2 and (
            sizes[0] == sizes[1] if all(fixed) else self._any_size and not any(fixed)
        )
        fixed_batch = bool(image) and isinstance(image[0], int)
        if not square or fixed_batch or image[3] != 3 or not all(map(_fits, shapes, self._outputs.values())):
            both = " and ".join(str(shape) for shape in (image, *shapes))
            raise ModelUnusable(f"the model has shapes {both}; {expected}")


class OnnxSession(_OnnxModel):
    """What gives scores, of classes or of attributes and age."""

    _outputs: ClassVar[dict[str, tuple[str | int, ...]]] = {"scores": ("classes",)}
    _offered: ClassVar[frozenset[str]] = frozenset({"features"})  # of networks of faces
    _any_size: ClassVar[bool] = True

    def run(self, images: UInt8Array) -> Scores:
        (scores,) = self._session.run(["scores"], {"image": images})
        return np.asarray(scores, np.float32)

    def features(self, images: UInt8Array) -> Scores:
        """[N, 1024 alpha]: what the head reads, of a model that offers it. uint8 [N, H, W, 3]."""
        (features,) = self._session.run(["features"], {"image": images})
        return np.asarray(features, np.float32)

    @property
    def resolution(self) -> int | None:
        """Side of the square input in pixels; None where it takes any."""
        side = self._session.get_inputs()[0].shape[1]
        return side if isinstance(side, int) else None

    @property
    def classes(self) -> int:
        return next(int(v.shape[1]) for v in self._session.get_outputs() if v.name == "scores")


class OnnxDetector(_OnnxModel):
    """A detector; `boxes` makes boxes of what it predicts."""

    _outputs: ClassVar[dict[str, tuple[str | int, ...]]] = {"offsets": ("anchors", 4), "scores": ("anchors",)}
    _any_size: ClassVar[bool] = False  # its anchors are laid out for one

    def run(self, images: UInt8Array) -> Predictions:
        offsets, scores = self._session.run(list(self._outputs), {"image": images})
        return Predictions(np.asarray(offsets, np.float32), np.asarray(scores, np.float32))

    @property
    def resolution(self) -> int:
        """Side of the square input in pixels."""
        return int(self._session.get_inputs()[0].shape[1])

    @property
    def anchors(self) -> int:
        return int(self._session.get_outputs()[1].shape[1])


def open_model(
    model: bytes, head: Head, threads: int = 1, cpus: Sequence[int] = ()
) -> OnnxSession | OnnxDetector:
    """A session of the kind that `head` needs. Raises ModelUnusable."""
    kind = OnnxDetector if head == "detection" else OnnxSession
    return kind(model, threads, cpus=cpus)


def _fits(shape: list[object], axes: tuple[str | int, ...]) -> bool:
    """Whether the axes after N are as many as are wanted, and fixed."""
    pairs = list(zip(shape[1:], axes, strict=False))
    return len(shape) == len(axes) + 1 and all(
        size == axis if isinstance(axis, int) else isinstance(size, int) for size, axis in pairs
    )


def _open(
    model: bytes, options: ort.SessionOptions, provider: str, threads: int, callers: int
) -> ort.InferenceSession:
    if provider == CPU:
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        return ort.InferenceSession(model, options, providers=[CPU])
    settings = _KINDS[provider].options(threads, callers)
    device = _plugged().get(provider)
    if device is not None:
        options.add_provider_for_devices([device], settings)
        return ort.InferenceSession(model, options, enable_fallback=False)
    return ort.InferenceSession(model, options, providers=[(provider, settings)], enable_fallback=False)


@functools.cache
def _share_memory() -> None:
    """One arena for the activations of all sessions, once a process: few of them run at the same time."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({}))


@functools.cache
def _plugged() -> dict[str, Any]:
    """The devices of installed plugins, by provider. They are loaded once a process and never unloaded."""
    found = {}
    for package, (key, value) in _PLUGINS.items():
        try:
            plugin = importlib.import_module(package)
            ort.register_execution_provider_library(package, plugin.get_library_path())
        except ImportError:
            continue
        except Exception as error:  # onnxruntime's own classes, or one that is too old to know plugins
            log.warning("%s cannot be loaded: %s", package, error)
            continue
        name = plugin.get_ep_name()
        devices = [d for d in ort.get_ep_devices() if d.ep_name == name and d.ep_metadata.get(key) == value]
        if devices:
            found[name] = devices[0]
        else:
            log.info("%s has no device for this processor", package)
    return found
