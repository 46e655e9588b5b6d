"""The Open Inference Protocol on a real server: addresses, tensors in and out, and its errors."""

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.random_store import IDS
from bench.server import RunningServer, running_server
from model_store.imaging import decode
from model_store.manifest import Preprocessing
from model_store.store import ModelStore
from service import errors
from service.open_inference import InputTensor, raw_pictures
from tests.service import pictures
from tests.service.test_start import wait_until_it_has_failed

PICTURE = pictures.encode("JPEG", 640, 480)
SMALL = IDS[2]
SIDE = 128


def _text(data: bytes = PICTURE) -> str:
    return base64.b64encode(data).decode()


def _encoded(picture: bytes = PICTURE, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_text(picture)]}
    return {"inputs": [tensor | changes]}


def _raw(pixels: np.ndarray, *, nested: bool = False, **changes: Any) -> dict[str, Any]:
    data = pixels.tolist() if nested else pixels.ravel().tolist()
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": data}
    return {"inputs": [tensor | changes]}


def _pixels(count: int = 1, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def _infer(client: httpx.Client, model: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(f"/v2/models/{model}/infer", json=body)


def _scores(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"]) == ("scores", "FP32")
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_the_server_tells_its_name_and_that_it_has_no_extensions(client: httpx.Client) -> None:
    found = client.get("/v2").json()
    assert found["name"] == "mobilenet-service"
    assert found["version"]
    assert found["extensions"] == []


def test_health(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize(
    ("model", "datatype", "shape"),
    [("imagenet", "BYTES", [1]), (SMALL, "UINT8", [-1, SIDE, SIDE, 3])],
)
def test_models_are_a_task_and_its_variants(
    model: str, datatype: str, shape: list[int], version: str, client: httpx.Client
) -> None:
    found = client.get(f"/v2/models/{model}{version}").json()
    assert (found["name"], found["versions"], found["platform"]) == (model, ["1"], "onnxruntime_onnx")
    (image,) = found["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", datatype, shape)
    assert found["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 1000]}]
    ready = client.get(f"/v2/models/{model}{version}/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": model, "ready": True})


def test_a_task_answers_as_classify_does(client: httpx.Client) -> None:
    answer = _infer(
        client, "imagenet", _encoded() | {"id": "till-7", "parameters": {"latency_budget_ms": 5000}}
    )
    scores = _scores(answer)
    assert scores.shape == (1, 1000)
    expected = client.post("/v1/classify?latency_budget_ms=5000", content=PICTURE).json()
    for prediction in expected["predictions"]:
        assert scores[0, prediction["index"]] == pytest.approx(prediction["score"], abs=1e-5)
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("imagenet", "1", "till-7")
    parameters = body["parameters"]
    assert (parameters["variant"], parameters["decision"]) == (IDS[0], "fits")
    assert (parameters["budget_ms"], parameters["met"]) == (5000, True)
    phases = ("receive_ms", "queue_ms", "decode_ms", "inference_ms")
    assert sum(parameters[p] for p in phases) <= parameters["total_ms"]
    assert f"total;dur={parameters['total_ms']}" in answer.headers["server-timing"]


def test_the_budget_chooses_the_variant(client: httpx.Client) -> None:
    def chosen(**parameters: object) -> tuple[str, str, bool]:
        found = _infer(client, "imagenet", _encoded() | {"parameters": parameters}).json()["parameters"]
        return found["variant"], found["decision"], found["met"]

    assert chosen() == (IDS[0], "unbounded", True)
    assert chosen(tier="relaxed") == (IDS[0], "fits", True)
    assert chosen(latency_budget_ms=0.01) == (IDS[2], "infeasible", False)


def test_without_id_and_budget_the_answer_has_neither(client: httpx.Client) -> None:
    body = _infer(client, "imagenet", _encoded()).json()
    assert "id" not in body
    assert "budget_ms" not in body["parameters"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_variant_takes_pixels_and_gives_the_scores_of_its_decoded_picture(
    nested: bool, client: httpx.Client, store_dir: Path
) -> None:
    preprocessing: Preprocessing = ModelStore(store_dir).task("imagenet").preprocessing
    pixels = decode(PICTURE, SIDE, preprocessing)[np.newaxis]
    raw, encoded = _infer(client, SMALL, _raw(pixels, nested=nested)), _infer(client, SMALL, _encoded())
    np.testing.assert_allclose(_scores(raw), _scores(encoded), atol=1e-5)
    for answer in (raw, encoded):
        assert answer.json()["parameters"]["variant"] == SMALL
        assert answer.json()["parameters"]["decision"] == "pinned"


def test_a_batch_is_its_pictures_one_by_one(client: httpx.Client) -> None:
    pixels = _pixels(8)
    batch = _scores(_infer(client, SMALL, _raw(pixels)))
    assert batch.shape == (8, 1000)
    for i in (0, 7):
        alone = _scores(_infer(client, SMALL, _raw(pixels[i : i + 1])))
        np.testing.assert_allclose(batch[i], alone[0], atol=1e-5)


def test_what_clients_send_along_does_no_harm(client: httpx.Client) -> None:
    body = _encoded(shape=[1, 1], data=[[_text()]], parameters={"content_type": "base64"})
    body["outputs"] = [{"name": "scores", "parameters": {"binary_data": False}}]
    assert _scores(_infer(client, "imagenet", body)).shape == (1, 1000)


def _wished(**parameters: object) -> dict[str, Any]:
    return _encoded() | {"parameters": parameters}


BAD: list[tuple[str, str, Any, int, str]] = [
    ("no such model", "dogs", _encoded(), 404, "imagenet"),
    ("not an object", "imagenet", [], 422, "body"),
    ("no inputs", "imagenet", {}, 422, "inputs"),
    ("two inputs", "imagenet", {"inputs": _encoded()["inputs"] * 2}, 422, "inputs"),
    ("input of another name", "imagenet", _encoded(name="picture"), 422, "inputs.0.name"),
    ("unknown datatype", "imagenet", _encoded(datatype="FP32"), 422, "inputs.0.datatype"),
    ("no data", "imagenet", {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, 422, "data"),
    ("two pictures", "imagenet", _encoded(shape=[2], data=[_text()] * 2), 422, "shape [1]"),
    ("numbers for BYTES", "imagenet", _encoded(data=[1]), 422, "base64"),
    ("no base64", "imagenet", _encoded(data=["not base64!"]), 422, "base64"),
    ("text in base64", "imagenet", _encoded(b"I am a text.\n" * 20), 415, "another type"),
    ("empty picture", "imagenet", _encoded(b""), 422, "empty"),
    ("truncated picture", "imagenet", _encoded(pictures.truncated("JPEG")), 422, "JPEG"),
    ("too many pixels", "imagenet", _encoded(pictures.png_header(65000, 65000)), 413, "50000000"),
    ("pixels for a task", "imagenet", _raw(_pixels()), 422, "name a variant"),
    ("another size", SMALL, _raw(_pixels(side=96)), 422, "[N, 128, 128, 3]"),
    ("too large a batch", SMALL, _raw(np.zeros((9, 2, 2, 3))) | {}, 422, "up to 8"),
    ("no batch at all", SMALL, _raw(_pixels()[0]), 422, "[N, 128, 128, 3]"),
    ("fewer values", SMALL, _raw(_pixels(), data=[0, 1, 2]), 422, "3 values"),
    ("ragged", SMALL, _raw(_pixels(), data=[[0, 1], [2]]), 422, "unevenly"),
    ("a value over 255", SMALL, _raw(_pixels().astype(int) + 256), 422, "0 to 255"),
    ("a value below 0", SMALL, _raw(_pixels().astype(int) - 256), 422, "0 to 255"),
    ("fractions", SMALL, _raw(_pixels() + 0.5), 422, "0 to 255"),
    ("booleans", SMALL, _raw(_pixels() > 9), 422, "0 to 255"),
    ("text for numbers", SMALL, _raw(_pixels().astype(str)), 422, "0 to 255"),
    ("a number past 64 bits", SMALL, _raw(_pixels(), data=[1 << 70] * SIDE * SIDE * 3), 422, "0 to 255"),
    ("more values than a batch has", SMALL, _raw(_pixels(), data=[0] * 1_300_000), 413, "2000000"),
    ("objects", "imagenet", _encoded(parameters={"a": [{}] * 200}), 422, "100 objects"),
    ("nested without end", SMALL, _raw(_pixels(), data=json.loads("[" * 150 + "1" + "]" * 150)), 422, ""),
    ("unknown tier", "imagenet", _wished(tier="warp"), 422, "realtime"),
    ("tier and budget", "imagenet", _wished(tier="relaxed", latency_budget_ms=5), 422, "not both"),
    ("no positive budget", "imagenet", _wished(latency_budget_ms=0), 422, "greater than 0"),
    ("misspelt budget", "imagenet", _wished(latency_budget=5), 422, "parameters.latency_budget"),
    ("impossible", "imagenet", _wished(latency_budget_ms=0.01, on_miss="reject"), 422, "at least"),
    (
        "impossible with pixels",
        SMALL,
        _raw(_pixels()) | {"parameters": {"latency_budget_ms": 0.01, "on_miss": "reject"}},
        422,
        "at least",
    ),
    ("binary output", "imagenet", _encoded() | {"parameters": {"binary_data_output": True}}, 422, "binary"),
    (
        "binary data",
        "imagenet",
        _encoded() | {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]},
        422,
        "binary_data",
    ),
    ("unknown output", "imagenet", _encoded() | {"outputs": [{"name": "logits"}]}, 422, "outputs.0.name"),
]


@pytest.mark.parametrize(
    ("model", "body", "status", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_request_is_refused_in_the_form_of_the_protocol(
    model: str, body: Any, status: int, says: str, client: httpx.Client
) -> None:
    answer = _infer(client, model, body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert client.get("/livez").status_code == 200


def test_a_long_text_among_numbers_does_not_make_them_all_as_long() -> None:
    data = ["x" * 1_000_000, *range(99)]
    tensor = InputTensor(name="image", shape=[1, 100, 1, 1], datatype="UINT8", data=data)
    tracemalloc.start()
    try:
        with pytest.raises(errors.InvalidParameter, match="0 to 255"):
            raw_pictures(tensor)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xd8\xff\xe0", b"[" * 100_000])
def test_what_is_no_json_is_malformed(body: bytes, client: httpx.Client) -> None:
    answer = client.post("/v2/models/imagenet/infer", content=body)
    assert (answer.status_code, answer.json()) == (400, {"error": "the body is not JSON"})


def test_the_binary_form_is_refused_by_name(client: httpx.Client) -> None:
    headers = {"Inference-Header-Content-Length": "10"}
    answer = client.post("/v2/models/imagenet/infer", content=b"{}        \0\0", headers=headers)
    assert answer.status_code == 415
    assert "binary tensor extension" in answer.json()["error"]


def test_unknown_versions_are_unknown(client: httpx.Client) -> None:
    answer = client.get("/v2/models/imagenet/versions/2")
    assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_more_values_than_any_batch_has_are_not_parsed(store_dir: Path, state_dir: Path) -> None:
    with running_server(store_dir, state_dir) as server:
        body = json.dumps(_raw(_pixels(), data=[0] * 1_300_000)).encode()
        answer = httpx.post(f"{server.base_url}/v2/models/{SMALL}/infer", content=body, timeout=30)
    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    assert "8 pictures" in answer.json()["error"]


def test_a_key_is_asked_for_where_one_is_set(store_dir: Path, state_dir: Path) -> None:
    with (
        running_server(store_dir, state_dir, api_key="s3cret") as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        refused = _infer(http, "imagenet", _encoded())
        assert (refused.status_code, set(refused.json())) == (401, {"error"})
        assert refused.headers["www-authenticate"] == "Bearer"
        assert http.get("/").status_code == 200
        assert http.get("/v2/health/ready").status_code == 200
        http.headers["X-API-Key"] = "s3cret"
        assert _infer(http, "imagenet", _encoded()).status_code == 200


def test_an_empty_store_is_live_and_not_ready(tmp_path: Path) -> None:
    with running_server(tmp_path / "none", tmp_path / "state", wait_ready=False) as server:
        assert httpx.get(f"{server.base_url}/v2/health/live").status_code == 200
        ready = httpx.get(f"{server.base_url}/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        model = httpx.get(f"{server.base_url}/v2/models/imagenet/ready")
        assert (model.status_code, model.json()) == (503, {"name": "imagenet", "ready": False})
        wait_until_it_has_failed(server.base_url)
        answers = [
            httpx.get(f"{server.base_url}/v2/models/imagenet"),
            httpx.post(f"{server.base_url}/v2/models/imagenet/infer", json=_encoded()),
        ]
        assert [each.status_code for each in answers] == [503, 503]
        assert all("could not start" in each.json()["error"] for each in answers)


def test_a_picture_in_the_protocol_counts_for_the_operator(server: RunningServer) -> None:
    def answered() -> float:
        text = httpx.get(f"{server.base_url}/metrics").text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("mobilenet_answers_total")
        )

    before = answered()
    with httpx.Client(base_url=server.base_url) as http:
        _scores(_infer(http, "imagenet", _encoded()))
    assert answered() == before + 1
