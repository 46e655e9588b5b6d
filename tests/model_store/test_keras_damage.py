"""Keras configurations and TensorFlow.js manifests that make no sense, or are of another network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model_store.refusals import refusal
from tests.model_store.weight_files import keras_config, write_keras, write_tfjs
from tests.networks import RandomNetwork


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    model = json.loads(path.read_text())
    change(model)
    path.write_text(json.dumps(model))


@pytest.mark.parametrize("padding", [[[1, 1], [1, 1]], [[1, 0], [1, 0]]])
def test_padding_that_the_checkpoints_were_not_trained_with(
    padding: list[list[int]], network: RandomNetwork, tmp_path: Path
) -> None:
    """PyTorch's conversions pad both sides: the weights are of another network."""
    keras = write_keras(tmp_path / "model.h5", network, config=keras_config(network, padding))
    assert "conv_pad_2" in refusal(keras)
    assert "conv_pad_2" in refusal(write_tfjs(tmp_path / "tfjs", network, padding=padding))


def test_keras_layers_that_differ_in_epsilon(network: RandomNetwork, tmp_path: Path) -> None:
    config = keras_config(network)
    config["config"]["layers"][2]["config"]["epsilon"] = 1e-5
    assert "epsilon" in refusal(write_keras(tmp_path / "model.h5", network, config=config))


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"config": 3},
        {"config": {"layers": None}},
        {"config": {"layers": [{"config": {"epsilon": "small"}}]}},
        {"config": {"layers": [{"config": {"epsilon": 10**400}}]}},
        {"config": {"layers": [{"config": {"batch_input_shape": [None, "wide", "wide", 3]}}]}},
        {"config": {"layers": [{"config": {"batch_input_shape": [None, -7, -7, 3]}}]}},
        "text",
    ],
)
def test_a_keras_configuration_that_makes_no_sense(
    config: Any, network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_keras(tmp_path / "model.h5", network, config=config or [1])
    refusal(path)
    model = write_tfjs(tmp_path / "tfjs", network)
    change_json(model, lambda m: m["modelTopology"].update(model_config=config))
    refusal(model)


def test_a_missing_shard_is_named(network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    shard = sorted(path.parent.glob("*shard*"))[1]
    shard.unlink()
    assert shard.name in refusal(path)


@pytest.mark.parametrize("change", [-4, 4])
def test_a_shard_of_another_length(change: int, network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    shard = sorted(path.parent.glob("*shard*"))[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:change] if change < 0 else data + bytes(change))
    assert ("too many" if change > 0 else "all of them") in refusal(path)


@pytest.mark.parametrize("where", ["../secret", "/etc/hostname", "a/../../secret", "link"])
def test_a_shard_outside_the_folder_is_not_read(where: str, network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    (tmp_path / "secret").write_bytes(b"secret")
    (path.parent / "link").symlink_to(tmp_path / "secret")
    change_json(path, lambda m: m["weightsManifest"][0]["paths"].__setitem__(0, where))
    assert "outside" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("weightsManifest"),
        lambda m: m.update(weightsManifest={"paths": []}),
        lambda m: m.update(weightsManifest=[]),
        lambda m: m.update(modelTopology=None),
        lambda m: m["weightsManifest"][0].pop("weights"),
        lambda m: m["weightsManifest"][0].update(paths=[7]),
        lambda m: m["weightsManifest"][0].update(paths=["a\0b"]),
        lambda m: m["weightsManifest"][0]["weights"][0].update(dtype="string"),
        lambda m: m["weightsManifest"][0]["weights"][0].update(dtype="complex64"),
        lambda m: m["weightsManifest"][0]["weights"][0].update(dtype="object"),
        lambda m: m["weightsManifest"][0]["weights"][0].update(shape=[-1]),
        lambda m: m["weightsManifest"][0]["weights"][0].update(shape=[10**30]),
        lambda m: m["weightsManifest"][0]["weights"][0].update(shape="3x3"),
        lambda m: m["weightsManifest"][0]["weights"][0].update(quantization={"dtype": "uint8", "scale": "x"}),
        lambda m: m["weightsManifest"][0]["weights"][0].update(name=None),
    ],
)
def test_a_tfjs_manifest_that_makes_no_sense(
    change: Callable[[dict[str, Any]], object], network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    change_json(path, change)
    refusal(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_model_json_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    assert "model.json" in refusal(path)
