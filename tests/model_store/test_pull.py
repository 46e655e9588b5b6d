"""`pull_official` from a server of this machine: what is installed, and what never is."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.download import DownloadError, Unreachable, fetch
from model_store.manifest import Accuracy, VariantManifest, official_top1
from model_store.pull import Pulled, pull_official
from model_store.ranking import expected_accuracies
from model_store.runtime import OnnxSession
from model_store.sources import CHECKPOINTS_BY_NAME, FALLBACK_SOURCE, OFFICIAL_LICENCE
from model_store.store import ModelStore
from model_store.weights import WeightsError
from tests.model_store.console import Console
from tests.model_store.servers import Fault, Page, Server, closed_address, official, tar_gz
from tests.model_store.weight_files import write_frozen
from tests.networks import RandomNetwork, pictures

NAME = "mobilenet_v1_0.25_128"
VARIANT = f"{NAME}_fp32"
INT8 = f"{NAME}_int8"
BOTH = [VARIANT, INT8]
PATH = f"/mobilenet_v1_2018_08_02/{NAME}.tgz"
SHORT_S = 0.5


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No pauses, and an index that nothing listens at: no test leaves this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(fetch.__kwdefaults__ or {}, "sleep", lambda _: None)
    with closed_address() as closed:
        monkeypatch.setenv("PIP_INDEX_URL", f"{closed}/simple")
        yield


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch.__kwdefaults__ or {}, "timeout_s", SHORT_S)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def frozen(folder: Path, network: RandomNetwork) -> bytes:
    return write_frozen(folder / "graph.pb", network, gamma=False).read_bytes()


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory, network_1001: RandomNetwork) -> bytes:
    """A frozen graph with background class, as the official ones are."""
    return write_frozen(tmp_path_factory.mktemp("graph") / "graph.pb", network_1001).read_bytes()


@pytest.fixture(scope="session")
def archive(graph: bytes) -> bytes:
    return tar_gz(official(graph, NAME))


def pull(
    store: ModelStore, base_url: str, *names: str, say: Callable[[str], None] = lambda _: None
) -> Pulled:
    checkpoints = [CHECKPOINTS_BY_NAME[name] for name in names or ("0.25_128",)]
    return pull_official(store, checkpoints, base_url=base_url, say=say)


def installed(store: ModelStore) -> dict[str, VariantManifest]:
    """By id; every variant there is opens and matches its manifest."""
    return {v.id: store.open(v.task, v.id)[0] for v in store.variants()}


def checksums(store: ModelStore) -> dict[str, str]:
    path = store.root / "checksums.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def left_over(store: ModelStore) -> list[str]:
    return sorted(path.name for path in (store.root / ".downloads").iterdir() if path.name != ".lock")


def test_an_official_checkpoint(
    server: Server, store: ModelStore, archive: bytes, network_1001: RandomNetwork
) -> None:
    server.put(PATH, archive)
    pulled = pull(store, server.url)
    manifest, quantised = pulled.variants
    assert not pulled.fallback
    assert installed(store) == {VARIANT: manifest, INT8: quantised}
    assert quantised.quantized_from is not None
    assert quantised.quantized_from.accuracy == manifest.accuracy
    assert quantised.accuracy is None  # what is published is not of this network
    assert isinstance(manifest.accuracy, Accuracy)
    assert (manifest.accuracy.top1, manifest.accuracy.top5) == pytest.approx((0.415, 0.663))
    assert (manifest.accuracy.source, manifest.accuracy.pictures) == ("published", 50_000)
    assert manifest.measured is None
    assert manifest.licence == OFFICIAL_LICENCE
    assert manifest.origin.location == f"{server.url}{PATH}"
    assert manifest.origin.sha256 == hashlib.sha256(archive).hexdigest()
    assert manifest.origin.trained_resolution == 128
    assert checksums(store) == {PATH[1:]: manifest.origin.sha256}
    assert left_over(store) == []
    _, model = store.open("imagenet", VARIANT)
    images = pictures()
    expected = network_1001.probabilities(images)[:, 1:]
    np.testing.assert_allclose(OnnxSession(model).run(images), expected, atol=1e-5)


def test_what_is_fetched_is_said(server: Server, store: ModelStore, archive: bytes) -> None:
    server.put(PATH, archive)
    said: list[str] = []
    pull(store, f"{server.url}/", say=said.append)
    assert said == [f"0.25_128: fetching {server.url}{PATH}"]


def test_a_cut_connection_is_continued(server: Server, store: ModelStore, archive: bytes) -> None:
    server.put(PATH, archive)
    server.faults = [Fault(cut_after=len(archive) // 5)] * 4
    pull(store, server.url)
    assert list(installed(store)) == BOTH
    assert server.body_bytes == len(archive)


@pytest.mark.usefixtures("_impatient")
def test_a_pull_that_failed_midway_is_continued_by_the_next(
    server: Server, store: ModelStore, archive: bytes
) -> None:
    server.put(PATH, archive)
    server.faults = [Fault(cut_after=100_000), Fault(stall_after=0)] + [Fault(status=503)] * 3
    with pytest.raises(DownloadError, match="continue"):
        pull(store, server.url)
    assert installed(store) == {}
    pull(store, server.url)
    assert list(installed(store)) == BOTH
    assert server.body_bytes == len(archive)


def test_what_a_killed_pull_had_fetched_is_not_fetched_again(
    server: Server, store: ModelStore, archive: bytes
) -> None:
    folder = store.root / ".downloads"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.tgz").write_bytes(archive)
    (folder / f"{NAME}_frozen.pb").write_bytes(b"half of it")
    pull(store, server.url)
    assert server.received == []
    assert list(installed(store)) == BOTH
    assert left_over(store) == []


def of_another_resolution(folder: Path, network: RandomNetwork) -> bytes:
    return tar_gz(official(frozen(folder, replace(network, resolution=160)), NAME))


def a_layer_short(folder: Path, _: RandomNetwork) -> bytes:
    return tar_gz(official(frozen(folder, RandomNetwork.make(classes=1001).with_layer(3, None)), NAME))


WRONG: dict[str, Callable[[Path, RandomNetwork], bytes]] = {
    "no archive": lambda *_: b"<html>Please log in to the network</html>",
    "empty": lambda *_: b"",
    "no frozen graph": lambda *_: tar_gz({"./a_info.txt": b"Model"}),
    "no graph": lambda *_: tar_gz(official(b"not a graph", NAME)),
    "another resolution": of_another_resolution,
    "a layer short": a_layer_short,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_bytes_install_nothing_and_do_not_stay(
    server: Server,
    store: ModelStore,
    archive: bytes,
    network_1001: RandomNetwork,
    tmp_path: Path,
    wrong: str,
) -> None:
    server.put(PATH, WRONG[wrong](tmp_path, network_1001))
    with pytest.raises((DownloadError, WeightsError)):
        pull(store, server.url)
    assert installed(store) == {}
    assert left_over(store) == []
    assert checksums(store) == {}
    server.put(PATH, archive)  # mended: neither the bad archive nor its checksum is in the way
    pull(store, server.url)
    assert list(installed(store)) == BOTH


def test_an_archive_of_another_alpha_is_refused(server: Server, store: ModelStore, graph: bytes) -> None:
    name = "mobilenet_v1_0.5_128"
    server.put(f"/mobilenet_v1_2018_08_02/{name}.tgz", tar_gz(official(graph, name)))
    with pytest.raises(DownloadError, match=r"alpha 0\.25"):
        pull(store, server.url, "0.5_128")
    assert installed(store) == {}
    assert checksums(store) == {}


def test_an_archive_that_changed_is_refused(
    server: Server, store: ModelStore, archive: bytes, tmp_path: Path
) -> None:
    server.put(PATH, archive)
    pull(store, server.url)
    before = installed(store), checksums(store)
    changed = tar_gz(official(frozen(tmp_path, RandomNetwork.make(classes=1001, seed=7)), NAME))
    server.put(PATH, changed)
    with pytest.raises(DownloadError, match=r"not what it was.*checksums\.json"):
        pull(store, server.url)
    assert (installed(store), checksums(store)) == before
    (store.root / "checksums.json").write_text("{}")  # what the message says to do
    pull(store, server.url)
    assert checksums(store) == {PATH[1:]: hashlib.sha256(changed).hexdigest()}
    assert installed(store) != before[0]


def test_the_checksum_holds_for_every_mirror(server: Server, store: ModelStore, archive: bytes) -> None:
    server.put(PATH, archive)
    pull(store, server.url)
    server.put(f"/mirror{PATH}", archive + b"more")
    with pytest.raises(DownloadError, match="not what it was"):
        pull(store, f"{server.url}/mirror")


@pytest.mark.parametrize("text", ["{", "null", "[1]", ""])
def test_checksums_that_cannot_be_read_are_not_passed_over(
    server: Server, store: ModelStore, archive: bytes, text: str
) -> None:
    server.put(PATH, archive)
    store.root.mkdir()
    (store.root / "checksums.json").write_text(text)
    with pytest.raises(DownloadError, match=r"checksums\.json .* cannot be read"):
        pull(store, server.url)
    assert installed(store) == {}


def test_a_pull_waits_for_another_of_the_same_store(
    server: Server, store: ModelStore, archive: bytes
) -> None:
    """Two that write one file at a time would leave a mix of both."""
    server.put(PATH, archive)
    lock = store.root / ".downloads" / ".lock"
    lock.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = pool.submit(pull, store, server.url)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=SHORT_S)
            assert server.received == []
        assert [v.id for v in waiting.result().variants] == BOTH


def test_names_that_lead_out_of_the_store_lead_nowhere(
    server: Server, store: ModelStore, graph: bytes, tmp_path: Path
) -> None:
    evil = {"../../../evil": b"evil", f"{tmp_path}/evil": b"evil", "../../../../evil_frozen.pb": graph}
    links = {"./out": str(tmp_path), f"./{NAME}_frozen.pb": "../../evil"}
    server.put(PATH, tar_gz({**evil, "./out/evil": b"evil", **official(graph, NAME)}, links=links))
    pull(store, server.url)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert sorted(path.name for path in store.root.iterdir()) == [".downloads", "checksums.json", "imagenet"]
    assert left_over(store) == []
    assert list(installed(store)) == BOTH


def test_a_missing_checkpoint_is_no_reason_for_the_fallback(
    server: Server, index: Server, store: ModelStore
) -> None:
    with pytest.raises(DownloadError, match="404"):
        pull(store, server.url)
    assert index.received == []


@pytest.mark.usefixtures("_impatient")
def test_a_server_that_goes_away_leaves_what_is_installed(
    server: Server, index: Server, store: ModelStore, archive: bytes
) -> None:
    server.put(PATH, archive)
    server.faults = [Fault(), Fault(silent=True)]
    with pytest.raises(Unreachable):
        pull(store, server.url, "0.25_128", "0.25_160")
    assert list(installed(store)) == BOTH
    assert index.received == []  # the user asked for others than the fallback has


LISTING, FILE = "/simple/nudity/", "/files/nudity-0.2.3.tar.gz"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The package index that pip is configured with."""
    with Server() as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/simple")
        index.pages[LISTING] = Page(f'<a href="{FILE}#sha256=00">nudity</a>'.encode(), "text/html")
        yield index


@pytest.fixture
def package(index: Server, tmp_path: Path, network_1001: RandomNetwork) -> bytes:
    """The fallback's archive in the index; its code leaves a file beside the store when it is run."""
    marker = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n".encode()
    graph = write_frozen(tmp_path / "graph.pb", replace(network_1001, resolution=224))
    package = tar_gz(
        {
            "nudity-0.2.3/setup.py": marker,
            "nudity-0.2.3/pyproject.toml": b"[build-system]\nrequires = []\n",
            "nudity-0.2.3/nudity/__init__.py": marker,
            "nudity-0.2.3/nudity/files/other_graph.pb": b"not this one",
            "nudity-0.2.3/nudity/files/retrained_graph.pb": graph.read_bytes(),
        }
    )
    graph.unlink()
    index.put(FILE, package)
    return package


@pytest.fixture
def trusted(package: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the archive were the one that is known; returns its checksum."""
    digest = hashlib.sha256(package).hexdigest()
    source = replace(FALLBACK_SOURCE, sha256=digest, alpha=0.25)
    monkeypatch.setattr("model_store.pull.FALLBACK_SOURCE", source)
    return digest


@pytest.mark.usefixtures("package")
def test_a_fallback_of_other_bytes_is_refused(index: Server, store: ModelStore, tmp_path: Path) -> None:
    with closed_address() as closed, pytest.raises(DownloadError, match="expected d26e1034"):
        pull(store, closed)
    assert [request.path for request in index.received] == [LISTING, FILE]
    assert installed(store) == {}
    assert left_over(store) == []
    assert not (tmp_path / "ran").exists()


def test_the_fallback(store: ModelStore, trusted: str, tmp_path: Path) -> None:
    with closed_address() as closed:
        pulled = pull(store, closed)
    assert pulled.fallback
    assert not (tmp_path / "ran").exists()
    assert installed(store) == {manifest.id: manifest for manifest in pulled.variants}
    variants = {(manifest.resolution, manifest.precision): manifest for manifest in pulled.variants}
    assert sorted(variants) == [(size, p) for size in (128, 160, 192, 224) for p in ("fp32", "int8")]
    for (size, precision), manifest in variants.items():
        assert manifest.origin.sha256 == trusted
        assert manifest.origin.trained_resolution == 224
        assert manifest.origin.location == f"{FALLBACK_SOURCE.filename}:{FALLBACK_SOURCE.member}"
        assert manifest.measured is not None
        assert manifest.measured.source == "measured"
        assert manifest.accuracy is not None
        assert ("below its training resolution of 224" in manifest.accuracy.note) == (size < 224)
        published = size == 224 and precision == "fp32"
        assert manifest.accuracy.source == ("published" if published else "measured")
        assert manifest.accuracy.pictures == (50_000 if published else 510)
    assert left_over(store) == []


@pytest.mark.usefixtures("trusted")
def test_the_command_tells_that_it_took_the_fallback(
    store: ModelStore, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(capsys)
    with closed_address() as closed:
        pull = ("pull", "imagenet", "--store", store.root, "--base-url", closed)
        found = console.json(*pull)
        out, err = console(*pull)
    assert found["fallback"] is True
    assert len(found["installed"]) == 8
    assert "top-1 49.8 %" in out[0]
    assert all("top-1 ~" in line for line in out[1:8])
    assert out[8].startswith("~ measured on a set of its own")
    assert [line for line in err if "package index" in line] == [
        "Taking the official 1.0_224 weights from the package index instead (nudity-0.2.3.tar.gz; none of "
        "its code is run)."
    ]


@pytest.mark.parametrize("asked", [("0.25_128",), ("1.0_224", "0.25_128"), ("--all",)])
def test_who_asks_for_others_than_the_fallback_has_is_told_so(
    asked: tuple[str, ...], index: Server, store: ModelStore, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_address() as closed:
        _, err = Console(capsys)(
            "pull", "imagenet", *asked, "--store", store.root, "--base-url", closed, code=1
        )
    assert "cannot be reached" in err[-1]
    assert "`model-store pull imagenet`, without naming checkpoints, takes those of 1.0_224" in err[-1]
    assert (index.received, installed(store)) == ([], {})


@pytest.mark.usefixtures("trusted")
def test_the_fallback_never_ranks_above_what_was_trained_for_it(store: ModelStore) -> None:
    """The easier pictures alone would put 192 pixels before 224."""
    with closed_address() as closed:
        variants = list(pull(store, closed).variants)
    expected = expected_accuracies(variants)
    ranked = sorted(variants, key=lambda v: expected[v.id], reverse=True)
    sizes = [v.resolution for v in ranked if v.precision == "fp32"]
    assert sizes == [224, 192, 160, 128]
    assert all(expected[v.id] <= official_top1(v.alpha, v.resolution, "fp32") for v in variants[::2])
    for fp32, int8 in zip(variants[::2], variants[1::2], strict=True):
        assert fp32.quantized_from is None
        assert expected[int8.id] < expected[fp32.id]


@pytest.mark.usefixtures("trusted", "_impatient")
def test_a_silent_server_leads_to_the_fallback(server: Server, store: ModelStore) -> None:
    server.faults = [Fault(silent=True)]
    said: list[str] = []
    assert pull(store, server.url, say=said.append).fallback
    assert len(installed(store)) == 8
    assert "cannot be reached" in said[1]
    assert "package index" in said[2]


def test_a_fallback_that_is_cut_is_continued(
    index: Server, store: ModelStore, package: bytes, trusted: str
) -> None:
    index.faults = [Fault(), Fault(cut_after=len(package) // 3), Fault(status=503)]
    with closed_address() as closed:
        pull(store, closed)
    assert len(installed(store)) == 8
    assert index.body_bytes == len(package) + len(index.pages[LISTING].body)


def test_neither_address_answers(store: ModelStore) -> None:
    with closed_address() as closed, pytest.raises(Unreachable, match="package index"):
        pull(store, closed)
    assert installed(store) == {}
    assert store.tasks() == ["imagenet"]
