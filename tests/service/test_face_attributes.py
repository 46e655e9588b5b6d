"""`POST /v1/face-attributes` on a real server: the real detector, and random networks for what it finds."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from bench.server import RunningServer, running_server
from model_store import build, tasks
from model_store.store import ModelStore
from tests.model_store.training.networks import random_trained
from tests.service.pictures import encode

SMALL, LARGE = "mobilenet_v1_0.25_128_fp32", "mobilenet_v1_0.5_160_fp32"
PATH = "/v1/face-attributes"


def add_networks(root: Path) -> None:
    store = ModelStore(root)
    task = tasks.ensure_task(store, "faces")
    provenance = build.Provenance(build.TRAINED_FORMAT, "trained.npz", "0" * 64, tasks.FACES_LICENCE)
    for alpha, resolution in ((0.25, 128), (0.5, 160)):
        network = random_trained(alpha, (resolution,)).rounded()
        build.install_trained(store, task, network, provenance, measured={})


@pytest.fixture(scope="module")
def server(face_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("faces")
    store = Path(shutil.copytree(face_store.root, folder / "store"))
    add_networks(store)
    with running_server(store, folder / "state") as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def photo(shared: Path) -> bytes:
    """Of four people, 275 pixels high."""
    return (shared / "images" / "photos" / "face.jpg").read_bytes()


def test_each_face_of_a_photo_has_a_box_an_age_and_attributes(client: httpx.Client, photo: bytes) -> None:
    answer = client.post(PATH, content=photo)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["task"], found["decision"]) == ("faces", "unbounded")
    assert found["variant"]["id"] == LARGE
    assert found["detector"]["id"].startswith("ssd_mobilenet_v1_1.0_512_")
    assert len(found["faces"]) == found["faces_found"] == 4
    assert found["limited_by"] is None
    width, height = Image.open(io.BytesIO(photo)).size
    for face in found["faces"]:
        box, age = face["box"], face["age"]
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert 0 <= box["y"] < box["y"] + box["height"] <= height
        assert 0.3 < face["score"] <= 1
        assert 1 <= age["low"] <= age["years"] <= age["high"] <= 100
        assert set(face["attributes"]) == set(tasks.FACES.returned)
        assert "Attractive" not in face["attributes"]
        assert all(0 <= p <= 1 for p in face["attributes"].values())
    scores = [face["score"] for face in found["faces"]]
    assert scores == sorted(scores, reverse=True)
    assert found["latency"]["met"] is True
    assert "inference;dur=" in answer.headers["Server-Timing"]


def test_boxes_are_those_of_the_upright_picture(client: httpx.Client, photo: bytes) -> None:
    image = Image.open(io.BytesIO(photo))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    upright = io.BytesIO()
    image.save(upright, "PNG")
    one, other = (client.post(PATH, content=data.getvalue()).json() for data in (upright, turned))
    assert one["faces"] == other["faces"]
    width, height = image.size
    assert one["image"] == other["image"] == {"width": width, "height": height}
    cropped = client.post(f"{PATH}?faces=cropped", content=turned.getvalue()).json()
    assert cropped["image"] == {"width": width, "height": height}
    assert cropped["faces"][0]["box"] == {"x": 0, "y": 0, "width": width, "height": height}


def test_a_picture_without_a_face_is_answered_with_none(client: httpx.Client) -> None:
    answer = client.post(PATH, content=encode("PNG"))
    assert answer.status_code == 200
    assert answer.json()["faces"] == []
    assert answer.json()["faces_found"] == 0
    assert answer.json()["detector"] is not None


def test_no_more_faces_than_asked_for_the_surest_first(client: httpx.Client, photo: bytes) -> None:
    every = client.post(PATH, content=photo).json()["faces"]
    found = client.post(PATH, params={"max_faces": 2}, content=photo).json()
    assert found["limited_by"] == "max_faces"
    assert found["faces_found"] == 4
    assert found["faces"] == every[:2]


def test_a_picture_may_be_one_aligned_face(client: httpx.Client, photo: bytes) -> None:
    found = client.post(PATH, params={"faces": "cropped", "variant": SMALL}, content=photo).json()
    (face,) = found["faces"]
    width, height = Image.open(io.BytesIO(photo)).size
    assert face["box"] == {"x": 0, "y": 0, "width": width, "height": height}
    assert face["score"] is None
    assert found["detector"] is None
    assert (found["variant"]["id"], found["decision"]) == (SMALL, "pinned")
    assert set(face["attributes"]) == set(tasks.FACES.returned)


def test_a_smaller_budget_takes_a_faster_pair(client: httpx.Client, photo: bytes) -> None:
    best = client.post(PATH, content=photo).json()
    least = client.post(PATH, params={"latency_budget_ms": 1}, content=photo).json()
    assert least["decision"] == "infeasible"
    assert least["latency"]["met"] is False
    assert least["variant"]["id"] == SMALL
    assert least["detector"]["resolution"] == 160
    assert best["decision"] == "unbounded"
    refused = client.post(PATH, params={"latency_budget_ms": 1, "on_miss": "reject"}, content=photo)
    assert refused.status_code == 422
    assert refused.json()["fastest_ms"] > 1


def test_a_pinned_variant_runs_whatever_it_takes(client: httpx.Client, photo: bytes) -> None:
    found = client.post(PATH, params={"variant": SMALL, "latency_budget_ms": 1000}, content=photo).json()
    assert (found["variant"]["id"], found["decision"]) == (SMALL, "pinned")
    unknown = client.post(PATH, params={"variant": "mobilenet_v1_1.0_224_fp32"}, content=photo)
    assert unknown.status_code == 404
    assert unknown.json()["known"] == [LARGE, SMALL]


@pytest.mark.parametrize(
    "query", [{"max_faces": "0"}, {"max_faces": "101"}, {"faces": "all"}, {"top_k": "5"}, {"task": "faces"}]
)
def test_parameters_are_checked(client: httpx.Client, query: dict[str, str]) -> None:
    answer = client.post(PATH, params=query, content=b"")
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":invalid-parameter")


def test_a_picture_that_breaks_off_is_told_so(client: httpx.Client, photo: bytes) -> None:
    answer = client.post(PATH, content=photo[: len(photo) // 2])
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":unreadable-image")


def test_faces_are_no_classification(client: httpx.Client, photo: bytes) -> None:
    for task in ("faces", "face-detection"):
        answer = client.post("/v1/classify", params={"task": task}, content=photo)
        assert answer.status_code == 404
        assert answer.json()["known"] == []


def test_networks_and_detectors_are_listed_with_their_own_accuracies(client: httpx.Client) -> None:
    listed = client.get("/v1/variants").json()["variants"]
    assert {v["task"] for v in listed} == {"faces", "face-detection"}
    finders = client.get("/v1/variants", params={"task": "face-detection"}).json()["variants"]
    assert len(finders) == 8
    assert all(v["accuracy"]["recall"] > 0.5 for v in finders)
    assert all(v["latency_ms"]["p50"] > 0 and v["loaded"] for v in listed)
    networks = client.get("/v1/variants", params={"task": "faces"}).json()["variants"]
    assert [v["id"] for v in networks] == [LARGE, SMALL]
    assert all("non-commercial" in v["licence"] for v in networks)


def test_tiers_tell_both_stages(client: httpx.Client) -> None:
    tiers = client.get("/v1/tiers", params={"task": "faces"}).json()["tiers"]
    relaxed = next(tier for tier in tiers if tier["name"] == "relaxed")
    assert relaxed["variant"] == LARGE
    assert relaxed["detector"].startswith("ssd_mobilenet_v1_1.0_512_")


def test_without_a_detector_only_cropped_faces_are_answered(tmp_path: Path) -> None:
    add_networks(tmp_path / "store")
    with running_server(tmp_path / "store", tmp_path / "state") as running:
        picture = encode("JPEG")
        cropped = httpx.post(running.base_url + PATH, params={"faces": "cropped"}, content=picture)
        assert cropped.status_code == 200
        photo = httpx.post(running.base_url + PATH, content=picture)
        assert photo.status_code == 503
        assert photo.json()["type"].endswith(":not-ready")
        assert "faces=cropped" in photo.json()["detail"]
        tiers = httpx.get(running.base_url + "/v1/tiers").json()["tiers"]
        assert tiers[-1]["variant"] == LARGE, "the only task needs no name"


def test_a_service_without_networks_of_faces_says_so(store_dir: Path, state_dir: Path) -> None:
    with running_server(store_dir, state_dir) as running:
        answer = httpx.post(running.base_url + PATH, content=encode("JPEG"))
        assert answer.status_code == 503
        assert "no network of face attributes" in answer.json()["detail"]
