"""What the store says about variants: ids, accuracies, unknown keys."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.manifest import (
    Precision,
    TaskManifest,
    VariantManifest,
    is_variant_id,
    parse_variant_id,
    variant_id,
)
from model_store.ssd import DETECTOR_RESOLUTIONS
from tests.model_store.manifests import accuracy, variant

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_ids_are_read_as_they_are_written(alpha: float, resolution: int, precision: Precision) -> None:
    text = variant_id(alpha, resolution, precision)
    assert is_variant_id(text)
    assert parse_variant_id(text) == (alpha, resolution, precision, "mobilenet_v1")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("resolution", DETECTOR_RESOLUTIONS)
def test_a_detectors_id_names_its_family(resolution: int, precision: Precision) -> None:
    text = variant_id(1.0, resolution, precision, "ssd_mobilenet_v1")
    assert text == f"ssd_mobilenet_v1_1.0_{resolution}_{precision}"
    shape = parse_variant_id(text)
    assert (shape.id, shape.family, shape.spec().rho) == (text, "ssd_mobilenet_v1", resolution / 224)


def test_the_id_is_that_of_the_contract() -> None:
    assert variant_id(0.5, 160, "int8") == "mobilenet_v1_0.5_160_int8"
    assert variant_id(1, 224, "fp32") == "mobilenet_v1_1.0_224_fp32"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mobilenet_v1_1_224_fp32",
        "mobilenet_v1_0.50_160_fp32",
        "mobilenet_v1_0.3_160_fp32",
        "mobilenet_v1_0.5_161_fp32",
        "mobilenet_v1_0.5_160_fp16",
        "mobilenet_v1_0x5_160_fp32",
        "mobilenet_v1_0.5_160_fp32\n",
        "../mobilenet_v1_0.5_160_fp32",
        "MobileNet_v1_0.5_160_fp32",
        "mobilenet_v1_1.0_512_fp32",
        "ssd_mobilenet_v1_1.0_192_fp32",
        "ssd_mobilenet_v1_0.5_512_fp32",
    ],
)
def test_what_is_no_variant_id(text: str) -> None:
    assert not is_variant_id(text)
    with pytest.raises(ValueError, match="mobilenet_v1_<alpha>"):
        parse_variant_id(text)


@given(st.text())
def test_a_text_either_is_an_id_and_round_trips_or_is_refused(text: str) -> None:
    if is_variant_id(text):
        assert variant_id(*parse_variant_id(text)) == text
    else:
        with pytest.raises(ValueError, match="not a variant id"):
            parse_variant_id(text)


@pytest.mark.parametrize(("alpha", "resolution"), [(0.3, 224), (1.0, 225), (2.0, 224)])
def test_there_is_no_id_for_other_shapes(alpha: float, resolution: int) -> None:
    with pytest.raises(ValueError, match="there is no variant"):
        variant_id(alpha, resolution, "fp32")


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.5},
        {"resolution": 192},
        {"precision": "int8"},
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"mult_adds": 0},
        {"licence": None},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VariantManifest.model_validate(variant().model_dump() | change)


def test_an_older_reader_opens_a_newer_store() -> None:
    newer = variant().model_dump() | {"calibration": {"pictures": 100}}
    newer["origin"]["signed_by"] = "someone"
    assert VariantManifest.model_validate(newer) == variant()
    task = {"name": "imagenet", "title": "ImageNet", "head": "classification", "classes": 1000, "more": 1}
    assert TaskManifest.model_validate(task).preprocessing.central_fraction == 0.875


@pytest.mark.parametrize("name", ["", "Imagenet", "../x", "a/b", "1a"])
def test_a_task_name_is_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ValidationError):
        TaskManifest(name=name, title="t", head="classification", classes=2)


@pytest.mark.parametrize("field", ["labels", "synsets"])
@pytest.mark.parametrize("name", ["", "/etc/hostname", "../x", "a/b", "..", ".lock", "a\n", "a\\b"])
def test_labels_and_synsets_are_plain_file_names(field: str, name: str) -> None:
    task = {"name": "pets", "title": "t", "head": "classification", "classes": 2}
    assert TaskManifest.model_validate(task | {field: "pets-2.txt"})
    with pytest.raises(ValidationError):
        TaskManifest.model_validate(task | {field: name})


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_an_accuracy_is_a_fraction(share: float) -> None:
    with pytest.raises(ValidationError):
        accuracy(share)


def test_a_measurement_never_replaces_a_published_accuracy() -> None:
    ours, published = accuracy(0.8, "measured"), accuracy(0.709)
    evaluated = variant(quoted=published).with_measured(ours)
    assert (evaluated.accuracy, evaluated.measured) == (published, ours)
    first = accuracy(0.6, "measured")
    evaluated = variant(quoted=first, measured=first).with_measured(ours)
    assert (evaluated.accuracy, evaluated.measured) == (ours, ours)


def test_an_older_manifest_says_nothing_of_quantising() -> None:
    older = variant().model_dump()
    del older["quantized_from"]
    assert VariantManifest.model_validate(older).quantized_from is None
