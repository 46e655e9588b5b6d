"""What was tried to make the graphs faster, beside the graph as it is: `python -m bench.graph_candidates`.

One process, one thread; the candidates take turns picture by picture. The processor's time is compared (the
median over the runs), since it is not that of other work on the machine. `docs/graphs.md` has the results.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bench.random_store import random_weights
from model_store.calibration import drawn_pictures
from model_store.graph import build_classifier
from model_store.quantize import quantize
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import RUNTIME_VERSION

_WARM_UP = 5
Change = Callable[[onnx.ModelProto], None]
Options = Callable[[ort.SessionOptions], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    weights = random_weights(options.alpha)
    floats = build_classifier(weights)
    integers = build_quantized_classifier(quantize(weights, drawn_pictures(4, options.resolution)))
    picture = np.random.default_rng(0).integers(
        0, 256, (1, options.resolution, options.resolution, 3), np.uint8
    )
    print(f"{options.alpha}_{options.resolution}, {RUNTIME_VERSION}; milliseconds of the processor")
    for name, model, changes in (("fp32", floats, _FLOAT_CHANGES), ("int8", integers, {})):
        sessions = {"as it is": session(model)}
        sessions |= {label: session(_changed(model, change)) for label, change in changes.items()}
        side = options.resolution
        fixed = {
            "one resolution": _fixed(H=side, W=side),
            "one resolution, one picture at a time": _fixed(N=1, H=side, W=side),
        }
        sessions |= {label: session(model, choose) for label, choose in (fixed | _OPTIONS).items()}
        _report(name, sessions, picture, options.runs)


def session(model: bytes, choose: Options = lambda _: None) -> ort.InferenceSession:
    """As `OnnxSession` opens it, but for what `choose` changes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    choose(options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _report(
    name: str,
    sessions: dict[str, ort.InferenceSession],
    picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    runs: int,
) -> None:
    times: dict[str, list[float]] = {label: [] for label in sessions}
    expected = sessions["as it is"].run(None, {"image": picture})[0]
    for run in range(_WARM_UP + runs):
        for label, each in sessions.items():
            started = time.process_time()
            (found,) = each.run(None, {"image": picture})
            if run >= _WARM_UP:
                times[label].append((time.process_time() - started) * 1e3)
            elif run == 0:
                np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=label)
    base = statistics.median(times["as it is"])
    for label, values in times.items():
        ms = statistics.median(values)
        print(f"  {name}  {label:<44} {ms:6.2f}  {100 * (base / ms - 1):+5.1f} %")


def _changed(model: bytes, change: Change) -> bytes:
    proto = onnx.load_from_string(model)
    change(proto)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _centre_before_transposing(model: onnx.ModelProto) -> None:
    transpose, cast, centre, *_ = nodes = model.graph.node
    cast.input[0], centre.input[0], transpose.input[0] = "image", "pixels", "centred"
    nodes[3].input[0] = "planes"
    order = [cast, centre, transpose, *nodes[3:]]
    copies = [helper.make_node(n.op_type, n.input, n.output) for n in order[:3]]
    copies[0].attribute.extend(cast.attribute)
    copies[2].attribute.extend(transpose.attribute)
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order[3:]]
    del nodes[:]
    nodes.extend([*copies, *rest])


def _pad_instead_of_centring(model: onnx.ModelProto) -> None:
    """Pads with the grey that stands for zero, so that the zero can go into the first bias."""
    centre, stem = model.graph.node[2], model.graph.node[3]
    tensors = {t.name: t for t in model.graph.initializer}
    zero = numpy_helper.to_array(tensors["input_zero"])
    kernel, bias = (numpy_helper.to_array(tensors[name]) for name in stem.input[1:])
    moved = (bias - zero * kernel.sum(axis=(1, 2, 3))).astype(np.float32)
    tensors[stem.input[2]].CopyFrom(numpy_helper.from_array(moved, stem.input[2]))
    pads = next(a for a in stem.attribute if a.name == "pads")
    top, left, bottom, right = pads.ints
    around = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(around, "around"))
    pads.ints[:] = [0, 0, 0, 0]
    centre.op_type = "Pad"
    centre.input[:] = [centre.input[0], "around", "input_zero"]


def _classify_by_convolution(model: onnx.ModelProto) -> None:
    """The classifier as a 1 x 1 convolution before flattening, in the layout of the others."""
    nodes = model.graph.node
    place = next(i for i, n in enumerate(nodes) if n.op_type == "Flatten")
    flatten, gemm = nodes[place], nodes[place + 1]
    kernel = next(t for t in model.graph.initializer if t.name == gemm.input[1])
    shaped = numpy_helper.to_array(kernel)[:, :, np.newaxis, np.newaxis]
    kernel.CopyFrom(numpy_helper.from_array(shaped, kernel.name))
    before, logits = flatten.input[0], gemm.output[0]
    nodes[place].CopyFrom(helper.make_node("Conv", [before, *gemm.input[1:]], ["maps"]))
    nodes[place + 1].CopyFrom(helper.make_node("Flatten", ["maps"], [logits], axis=1))


def _entry(key: str, value: str) -> Options:
    return lambda options: options.add_session_config_entry(key, value)


def _fixed(**sizes: int) -> Options:
    def fix(options: ort.SessionOptions) -> None:
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)

    return fix


def _attribute(name: str, value: object) -> Options:
    return lambda options: setattr(options, name, value)


_FLOAT_CHANGES: dict[str, Change] = {
    "cast and centre before the transpose": _centre_before_transposing,
    "padded with grey in place of centred": _pad_instead_of_centring,
    "classifier as a convolution": _classify_by_convolution,
}
_OPTIONS: dict[str, Options] = {
    "denormals are zero": _entry("session.set_denormal_as_zero", "1"),
    "no memory arena": _attribute("enable_cpu_mem_arena", False),
    "no memory pattern": _attribute("enable_mem_pattern", False),
    "without the layout for this processor": _attribute(
        "graph_optimization_level", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ),
}


if __name__ == "__main__":
    main()
