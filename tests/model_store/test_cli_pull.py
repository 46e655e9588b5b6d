"""`model-store pull` against a server of this machine: output, exit codes, and Ctrl-C."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import cli, fill_commands
from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.store import ModelStore
from tests.model_store.console import Console, command_line
from tests.model_store.servers import Fault, Server, official, tar_gz
from tests.model_store.weight_files import write_frozen
from tests.networks import RandomNetwork

NAME = "mobilenet_v1_0.25_128"
ID = f"{NAME}_fp32"
PATH = f"/mobilenet_v1_2018_08_02/{NAME}.tgz"
INT8 = f"{NAME}_int8"
INSTALLED = [
    f"installed imagenet/{ID}, top-1 41.5 % (frozen GraphDef, {NAME}.tgz)",
    f"installed imagenet/{INT8} (frozen GraphDef, {NAME}.tgz, quantised)",
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, network_1001: RandomNetwork) -> bytes:
    graph = write_frozen(tmp_path_factory.mktemp("graph") / "graph.pb", network_1001)
    return tar_gz(official(graph.read_bytes(), NAME))


@pytest.fixture
def server(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Has one checkpoint; MOBILENET_SOURCE_URL names it."""
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        server.put(PATH, archive)
        monkeypatch.setenv("MOBILENET_SOURCE_URL", server.url)
        yield server


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No store yet; MOBILENET_STORE names it."""
    root = tmp_path / "store"
    monkeypatch.setenv("MOBILENET_STORE", str(root))
    return root


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


@pytest.mark.usefixtures("root")
def test_pull_says_what_it_fetches_and_what_it_installed(server: Server, console: Console) -> None:
    out, err = console("pull", "imagenet", "0.25_128")
    assert out == INSTALLED
    assert err == [f"0.25_128: fetching {server.url}{PATH}"]
    assert console("verify")[0] == [f"ok      imagenet/{id}" for id in (ID, INT8)]
    row = console("list")[0][1].split()
    assert (row[1], row[4]) == (ID, "41.5")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["1.0_224", "0.75_192", "0.5_160", "0.25_128"]),
        (["--all"], [f"{alpha}_{size}" for alpha in ALPHAS for size in RESOLUTIONS]),
        (["0.5_160", "1.0_128_quant"], ["0.5_160", "1.0_128_quant"]),
    ],
)
def test_which_checkpoints_are_pulled(arguments: list[str], names: list[str]) -> None:
    options = cli._parser().parse_args(["pull", "imagenet", *arguments])
    assert sorted(c.name for c in fill_commands._checkpoints(options)) == sorted(names)


@pytest.mark.usefixtures("root")
def test_a_mirror_as_option_goes_before_the_variable(
    server: Server, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILENET_SOURCE_URL", f"{server.url}/elsewhere")
    found = console.json("pull", "imagenet", "0.25_128", "--base-url", server.url)
    assert [v["id"] for v in found["installed"]] == [ID, INT8]
    assert found["installed"][0]["accuracy"]["source"] == "published"
    assert found["fallback"] is False


def test_pull_if_empty_fills_a_store_in_which_nothing_is_sound(
    server: Server, root: Path, console: Console
) -> None:
    pull = ("pull", "imagenet", "0.25_128", "--if-empty")
    assert console(*pull)[0] == INSTALLED
    assert console(*pull)[0] == [f"The store {root} already has variants of imagenet."]
    for id in (ID, INT8):
        (root / "imagenet" / id / "variant.json").write_text("{")
    assert console(*pull)[0] == INSTALLED
    for id in (ID, INT8):
        model = root / "imagenet" / id / "1" / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1])
    assert console(*pull)[0] == INSTALLED
    assert len(server.received) == 3


def test_a_checkpoint_that_is_not_there_is_a_failure(server: Server, root: Path, console: Console) -> None:
    out, err = console("pull", "imagenet", "0.25_128", "0.25_160", code=1)
    missing = f"{server.url}/mobilenet_v1_2018_08_02/mobilenet_v1_0.25_160.tgz"
    assert out == []
    assert err[1:] == [f"0.25_160: fetching {missing}", f"model-store: {missing} answered 404 Not Found"]
    assert [v.id for v in ModelStore(root).variants()] == [ID, INT8]  # what came before stays


def test_interrupted_it_says_so_and_goes_on_later(server: Server, root: Path, console: Console) -> None:
    server.faults = [Fault(stall_after=10_000)]
    command = command_line("pull", "imagenet", "0.25_128")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # in a shell's background it is ignored
    ) as process:
        server.wait_for_request()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines() == [f"0.25_128: fetching {server.url}{PATH}", "model-store: interrupted"]
    assert ModelStore(root).variants() == []
    assert console("pull", "imagenet", "0.25_128")[0] == INSTALLED
