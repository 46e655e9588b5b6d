"""One variant in ONNX Runtime: its interface is checked, its answers do not depend on how it is asked."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from model_store.graph import build_classifier
from model_store.runtime import ModelUnusable, OnnxSession
from model_store.weights import SYMMETRIC_SCALING, LayerWeights, NetworkWeights
from tests.networks import RandomNetwork, pictures


@pytest.fixture(scope="module")
def model(network: RandomNetwork) -> bytes:
    layers = []
    for layer in network.convolutions:
        kernel, bias = layer.folded(network.epsilon)
        axes = (2, 3, 0, 1) if layer.kind == "depthwise" else (3, 2, 0, 1)
        layers.append(LayerWeights(np.ascontiguousarray(kernel.transpose(axes)), bias))
    layers.append(LayerWeights(np.ascontiguousarray(network.head.T), network.head_bias))
    return build_classifier(NetworkWeights(0.25, tuple(layers), SYMMETRIC_SCALING, False, 128))


def tiny(image: list[object], scores: list[object]) -> bytes:
    """The mean colour as scores: the right names and types, with these declared shapes."""
    nodes = [helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT)]
    if len(image) == 4:
        nodes.append(helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=[1, 2], keepdims=0))
    else:
        nodes.append(helper.make_node("Identity", ["pixels"], ["scores"]))
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, image)]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def test_what_the_model_shows_of_itself(model: bytes) -> None:
    session = OnnxSession(model)
    assert (session.resolution, session.classes) == (None, 1000)
    assert OnnxSession(model, resolution=128).resolution == 128
    assert session.provider == "CPUExecutionProvider"


def test_a_name_that_is_no_text_is_refused() -> None:
    damaged = tiny(["N", 32, 32, 3], ["N", 3]).replace(b"scores", b"\xffcores")
    with pytest.raises(ModelUnusable, match="UTF-8"):
        OnnxSession(damaged)


def test_a_batch_answers_as_its_pictures_do_alone(model: bytes) -> None:
    session = OnnxSession(model)
    together = session.run(pictures(3))
    alone = np.concatenate([session.run(picture[np.newaxis]) for picture in pictures(3)])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_threads_change_no_answer(model: bytes) -> None:
    one, two = (OnnxSession(model, threads).run(pictures(1)) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells the affinity of threads")
def test_a_thread_that_helps_has_the_cpu_that_it_was_given(model: bytes) -> None:
    cpu = max(os.sched_getaffinity(0))
    before = {thread.name for thread in Path("/proc/self/task").iterdir()}
    session = OnnxSession(model, threads=2, cpus=[cpu])
    (helper,) = {thread.name for thread in Path("/proc/self/task").iterdir()} - before
    session.run(np.zeros((1, 128, 128, 3), np.uint8))
    assert os.sched_getaffinity(int(helper)) == {cpu}
    assert os.sched_getaffinity(0) != {cpu} or os.cpu_count() == 1


def test_a_session_is_asked_from_several_threads(model: bytes) -> None:
    session = OnnxSession(model)
    expected = session.run(pictures(4))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: session.run(pictures(4)[i : i + 1])[0], range(4)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("bytes_", [b"", b"not a model", b"\x08\x08" * 100])
def test_bytes_that_are_no_model(bytes_: bytes) -> None:
    with pytest.raises(ModelUnusable, match="refuses"):
        OnnxSession(bytes_)


def test_a_tiny_model_of_the_right_shapes_is_taken() -> None:
    """Guards the next test, where each shape differs from this in one thing."""
    assert OnnxSession(tiny(["N", 128, 128, 3], ["N", 3])).classes == 3
    assert OnnxSession(tiny(["N", "H", "W", 3], ["N", 3])).classes == 3


@pytest.mark.parametrize(
    ("image", "scores"),
    [
        (["N", 3, 128, 128], ["N", 128]),  # planes first
        (["N", 128, 96, 3], ["N", 3]),  # not square
        (["N", "H", 128, 3], ["N", 3]),  # of any height
        (["N", 128, 128, 1], ["N", 1]),  # grey
        ([4, 128, 128, 3], [4, 3]),  # of one batch only
        (["N", 3], ["N", 3]),
        ([], []),
    ],
)
def test_shapes_that_are_not_the_stores(image: list[object], scores: list[object]) -> None:
    with pytest.raises(ModelUnusable, match=r"expected `image` uint8 \[N, H, W, 3\]"):
        OnnxSession(tiny(image, scores))
