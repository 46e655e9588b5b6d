"""`model-store`: what it prints, what it leaves in the store, and its exit codes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from bench import random_store
from model_store import build, cli, commands, published, tasks
from model_store.architecture import MobileNetSpec
from model_store.imaging import decode
from model_store.manifest import Accuracy, Preprocessing
from model_store.runtime import ModelUnusable, OnnxSession
from model_store.sources import OFFICIAL_CHECKPOINTS
from model_store.store import ModelStore
from tests.model_store.console import Console, command_line, program, without_privileges
from tests.model_store.training.networks import random_trained
from tests.model_store.weight_files import write_keras
from tests.networks import RandomNetwork

ID = "mobilenet_v1_0.25_128_fp32"
OTHER_ID = "mobilenet_v1_0.25_160_fp32"
NOWHERE = "http://127.0.0.1:9"  # a port on which nothing listens


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random variants; tests copy it."""
    root = tmp_path_factory.mktemp("cli") / "store"
    random_store.fill(root, ((0.25, 128), (0.25, 160)))
    return root


@pytest.fixture
def root(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one's own, which MOBILENET_STORE names."""
    root = tmp_path / "store"
    shutil.copytree(filled, root)
    monkeypatch.setenv("MOBILENET_STORE", str(root))
    return root


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "empty"
    monkeypatch.setenv("MOBILENET_STORE", str(root))
    return root


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


def damage(root: Path, id: str = ID) -> None:
    model = root / "imagenet" / id / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])


def set_fields(root: Path, id: str = ID, **fields: object) -> None:
    path = root / "imagenet" / id / "variant.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# list


def test_an_empty_store_says_how_to_fill_it(empty: Path, console: Console) -> None:
    out, err = console("list")
    assert out == [f"The store {empty} is empty; `model-store pull imagenet` fills it."]
    assert err == []
    assert console.json("list") == {"store": str(empty), "variants": []}
    assert not empty.exists()


def test_a_store_that_is_a_file_is_none(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    _, err = console("list", "--store", file, code=1)
    assert f"{file} is a file; --store names a folder" in err[-1]


@pytest.mark.parametrize("where", [".", "imagenet"])
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_store_that_may_not_be_read_is_not_empty(where: str, mode: int, root: Path) -> None:
    command = [*without_privileges(), *command_line("list")]
    (root / where).chmod(mode)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    (root / where).chmod(0o755)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"model-store: the store cannot be read: {root}")
    assert line.endswith(": Permission denied")


def test_list_shows_each_variant_with_its_figures(root: Path, console: Console) -> None:
    out, _ = console("list")
    titles, *rows = [line.split() for line in out]
    assert titles == ["task", "variant", "M", "mult-adds", "M", "parameters", "top-1", "%", "MB", "origin"]
    spec = MobileNetSpec(0.25, 128)
    model = root / "imagenet" / ID / "1" / "model.onnx"
    assert rows[0][:6] == [
        "imagenet", ID, f"{spec.mult_adds / 1e6:.0f}", f"{spec.parameters / 1e6:.1f}", "-",
        f"{model.stat().st_size / 1e6:.1f}",
    ]  # fmt: skip
    assert out[1].endswith("random, random_store.py, trained at 224")
    assert [row[1] for row in rows] == [ID, OTHER_ID]
    listed = console.json("list", "imagenet")["variants"]
    assert [v["id"] for v in listed] == [ID, OTHER_ID]
    assert listed[0]["mult_adds"] == spec.mult_adds


def test_list_marks_what_was_measured_not_published(root: Path, console: Console) -> None:
    for id, source in ((ID, "published"), (OTHER_ID, "measured")):
        accuracy = {"top1": 0.415, "top5": 0.663, "source": source, "dataset": "some", "pictures": 510}
        set_fields(root, id, accuracy=accuracy)
    out, _ = console("list")
    assert [line.split()[4] for line in out[1:3]] == ["41.5", "~41.5"]
    assert out[3].startswith("~ measured")
    set_fields(root, OTHER_ID, accuracy=None)
    assert len(console("list")[0]) == 3


def test_list_shows_what_is_broken_and_why(root: Path, console: Console) -> None:
    (root / "imagenet" / ID / "1" / "model.onnx").unlink()
    (root / "imagenet" / OTHER_ID / "variant.json").write_text("{")
    (root / "imagenet" / "notes").mkdir()
    out, _ = console("list")
    rows = {line.split()[1]: line for line in out[1:]}
    assert rows[ID].endswith("REFUSED: model.onnx is missing")
    assert "REFUSED: variant.json cannot be read: Invalid JSON" in rows[OTHER_ID]
    assert "REFUSED: 'notes' is not a variant id" in rows["notes"]
    problems = {v["id"]: v["problem"] for v in console.json("list")["variants"]}
    assert problems[ID] == "model.onnx is missing"


def test_list_keeps_a_row_in_a_line_whatever_a_manifest_holds(root: Path, console: Console) -> None:
    origin = {"format": "\x1b[31mONNX", "location": "a\nb [bold]", "sha256": "0" * 64}
    set_fields(root, origin=origin)
    out, _ = console("list")
    assert len(out) == 3
    assert out[1].endswith("?[31mONNX, a?b [bold]")


@pytest.mark.parametrize("command", ["list", "verify", "profile", "evaluate --images ."])
def test_an_unknown_task_is_named_beside_the_known_ones(command: str, root: Path, console: Console) -> None:
    name, *options = command.split()
    assert "no task 'plants'; it has: imagenet" in console.failure(name, "plants", *options)


@pytest.mark.parametrize("command", ["list", "verify", "profile", "evaluate --images ."])
def test_a_path_is_no_task(command: str, root: Path, console: Console) -> None:
    shutil.copytree(root, root.parent / "other")
    name, *options = command.split()
    line = console.failure(name, "../other/imagenet", *options)
    assert line == "model-store: the store has no task '../other/imagenet'; it has: imagenet"
    assert "no task '/'" in console.failure(name, "/", *options)


def test_a_task_may_end_in_a_slash_as_a_shell_completes_it(root: Path, console: Console) -> None:
    assert console("list", "imagenet/") == console("list", "imagenet")
    assert console("verify", "imagenet/") == console("verify", "imagenet")
    out, _ = console("pull", "imagenet/", "--if-empty", "--base-url", NOWHERE)
    assert out == [f"The store {root} already has variants of imagenet."]


# verify


def test_verify_says_ok_of_each_variant(root: Path, console: Console) -> None:
    out, err = console("verify")
    assert out == [f"ok      imagenet/{ID}", f"ok      imagenet/{OTHER_ID}"]
    assert err == []
    found = console.json("verify", "imagenet")
    assert found["ok"] is True
    assert [(v["id"], v["ok"], v["problem"]) for v in found["variants"]] == [
        (ID, True, None),
        (OTHER_ID, True, None),
    ]


def test_verify_refuses_what_is_damaged_and_passes_the_rest(root: Path, console: Console) -> None:
    damage(root)
    out, err = console("verify", code=1)
    assert out[0].startswith(f"REFUSED imagenet/{ID}: model.onnx does not match its manifest: sha256 ")
    assert out[1] == f"ok      imagenet/{OTHER_ID}"
    assert err == ["model-store: 1 of 2 variants refused"]
    found = console.json("verify", code=1)
    assert found["ok"] is False
    assert [v["ok"] for v in found["variants"]] == [False, True]
    assert found["variants"][0]["problem"].startswith("model.onnx does not match")


def test_verify_refuses_what_does_not_run_or_does_not_fit_the_labels(root: Path, console: Console) -> None:
    store = ModelStore(root)
    manifest, _ = store.open("imagenet", ID)
    sha256 = hashlib.sha256(b"no model").hexdigest()
    store.install(manifest.model_copy(update={"sha256": sha256}), b"no model")
    out, _ = console("verify", code=1)
    assert out[0] == f"REFUSED imagenet/{ID}: ONNX Runtime refuses the model"
    labels = (root / "imagenet" / "labels.txt").read_text().splitlines()[:999]
    store.install_task(tasks.IMAGENET.model_copy(update={"classes": 999, "synsets": None}), labels, None)
    out, _ = console("verify", code=1)
    assert out[1] == f"REFUSED imagenet/{OTHER_ID}: 1000 classes, but 999 labels"


def test_nothing_to_verify_is_a_failure(empty: Path, console: Console) -> None:
    assert console.failure("verify") == f"model-store: the store {empty} has no variants to verify"
    assert console.json("verify", code=1) == {"store": str(empty), "ok": False, "variants": []}


# import


def test_import_installs_a_file_that_verifies(
    empty: Path, tmp_path: Path, network: RandomNetwork, console: Console
) -> None:
    weights = write_keras(tmp_path / "mine.h5", network)
    out, err = console("import", weights, "--licence", "MIT", "--origin", "https://host/path/mine.h5")
    assert out == [f"installed imagenet/{ID} (Keras HDF5, mine.h5)"]
    assert err == []
    (listed,) = console.json("list")["variants"]
    assert (listed["licence"], listed["origin"]["location"]) == ("MIT", "https://host/path/mine.h5")
    assert console("verify")[0] == [f"ok      imagenet/{ID}"]
    installed = console.json("import", weights, "--resolution", "192")
    assert [v["id"] for v in installed["installed"]] == ["mobilenet_v1_0.25_192_fp32"]
    assert (installed["installed"][0]["licence"], installed["fallback"]) == ("unknown", False)
    onnx = empty / "imagenet" / ID / "1" / "model.onnx"
    assert "pictures of any size: say which with --resolution" in console.failure("import", onnx)
    again = console.json("import", onnx, "--resolution", "160")
    assert [v["id"] for v in again["installed"]] == ["mobilenet_v1_0.25_160_fp32"]


def test_import_of_what_is_no_model_is_one_line(root: Path, tmp_path: Path, console: Console) -> None:
    before = ModelStore(root).digest()
    for suffix in ("pb", "tflite", "h5", "json", "onnx"):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(b"\x08garbage")
        line = console.failure("import", path)
        assert "json" in line if suffix == "json" else "broken" in line
    (tmp_path / "notes.txt").touch()
    line = console.failure("import", tmp_path / "notes.txt")
    assert "notes.txt is of no format that can be imported: .pb, " in line
    assert f"there is no file {tmp_path}/none.pb" in console.failure("import", tmp_path / "none.pb")
    assert "unknown task 'plants'; known: imagenet" in console.misuse(
        "import", tmp_path / "broken.pb", "--task", "plants"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    assert f"the folder {folder} has no model.json" in console.failure("import", folder)
    assert "there is no file a?b.pb" in console.failure("import", "a\nb.pb")
    assert ModelStore(root).digest() == before


@pytest.mark.parametrize("task", ["imagenet", "faces", "face-detection"])
def test_an_import_that_is_refused_leaves_no_task(
    task: str, empty: Path, tmp_path: Path, console: Console
) -> None:
    network = RandomNetwork.make(classes=10)  # as neither task has
    for file in (tmp_path / "broken.npz", write_keras(tmp_path / "mine.h5", network)):
        file.touch()
        console.failure("import", file, "--task", task)
    assert not empty.exists()


def test_a_store_that_cannot_be_written_is_one_line(
    tmp_path: Path, network: RandomNetwork, console: Console
) -> None:
    weights = write_keras(tmp_path / "mine.h5", network)
    (tmp_path / "file").touch()
    line = console.failure("import", weights, "--store", tmp_path / "file" / "store")
    assert line == f"model-store: the store cannot be read: {tmp_path}/file/store: Not a directory"


def test_a_failing_process_shows_no_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pb"
    broken.write_bytes(b"\x08garbage")
    ended = program("import", broken, "--store", tmp_path / "store")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "model-store: broken.pb is not a readable frozen GraphDef\n"


# pull


def test_pull_if_empty_leaves_a_store_that_has_a_sound_variant(root: Path, console: Console) -> None:
    (root / "imagenet" / OTHER_ID / "variant.json").unlink()
    before = ModelStore(root).digest()
    out, err = console("pull", "imagenet", "--if-empty", "--base-url", NOWHERE)
    assert out == [f"The store {root} already has variants of imagenet."]
    assert err == []
    assert ModelStore(root).digest() == before


def test_pull_of_an_unknown_checkpoint_names_the_known(empty: Path, console: Console) -> None:
    line = console.misuse("pull", "imagenet", "1.0_224", "1.5_224", "--base-url", NOWHERE)
    assert "no checkpoint '1.5_224'; known: 1.0_224, " in line
    assert all(c.name in line for c in OFFICIAL_CHECKPOINTS if not c.quantized)
    assert "not both" in console.misuse("pull", "imagenet", "1.0_224", "--all", "--base-url", NOWHERE)
    assert "no checkpoints to choose from" in console.misuse("pull", "faces", "0.5_160")
    assert not empty.exists()


# evaluate


@pytest.fixture
def pictures(root: Path, tmp_path: Path) -> Path:
    """Four pictures, of which the first variant answers three as `labels.csv` has them."""
    folder = tmp_path / "four"
    folder.mkdir()
    session = OnnxSession(ModelStore(root).open("imagenet", ID)[1])
    lines = ["file,index"]
    for name in ("red", "green", "blue", "white"):
        path = folder / f"{name}.png"
        Image.new("RGB", (150, 140), name).save(path)
        scores = session.run(decode(path.read_bytes(), 128, Preprocessing())[np.newaxis])[0]
        index = scores.argmin() if name == "white" else scores.argmax()
        lines.append(f"{path.name},{index}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_evaluate_reports_and_keeps_what_it_measured(root: Path, pictures: Path, console: Console) -> None:
    before = ModelStore(root).digest()
    out, err = console("evaluate", "imagenet", "--images", pictures, "--variant", ID)
    assert out[0].split() == ["variant", "top-1", "%", "±", "top-5", "%"]
    assert out[1].split()[:4] == [ID, "75.0", "42.4", "75.0"]  # 1.96 sqrt(0.75 0.25 / 4)
    assert out[1].endswith("evaluated below its training resolution of 224")
    assert out[2].startswith("4 pictures; ")
    assert len(out) == 3
    assert err == []
    evaluated, other = (ModelStore(root).open("imagenet", id)[0] for id in (ID, OTHER_ID))
    assert evaluated.accuracy == evaluated.measured
    assert isinstance(evaluated.measured, Accuracy)
    assert (evaluated.measured.top1, evaluated.measured.dataset) == (0.75, "four")
    assert other.measured is None
    assert ModelStore(root).digest() == before  # the service need not load it again
    assert console("list")[0][1].split()[4] == "~75.0"


def test_evaluate_of_all_variants_as_json_without_a_trace(
    root: Path, pictures: Path, console: Console
) -> None:
    found = console.json("evaluate", "imagenet", "--images", pictures, "--dataset", "colours", "--dry-run")
    assert (found["task"], found["pictures"]) == ("imagenet", 4)
    assert [v["id"] for v in found["variants"]] == [ID, OTHER_ID]
    assert found["variants"][0]["top1"] == 0.75
    assert found["variants"][0]["dataset"] == "colours"
    assert found["variants"][0]["top1_half_interval"] == pytest.approx(0.42435, abs=1e-5)
    assert [v.manifest.measured for v in ModelStore(root).variants() if v.manifest] == [None, None]


def test_evaluate_keeps_a_published_figure_in_front(root: Path, pictures: Path, console: Console) -> None:
    published_accuracy = Accuracy(top1=0.415, top5=0.663, source="published", dataset="all", pictures=50_000)
    set_fields(root, accuracy=published_accuracy.model_dump())
    console("evaluate", "imagenet", "--images", pictures, "--variant", ID)
    manifest, _ = ModelStore(root).open("imagenet", ID)
    assert manifest.accuracy == published_accuracy
    assert isinstance(manifest.measured, Accuracy)
    assert manifest.measured.top1 == 0.75


def test_evaluate_says_which_file_is_wrong(root: Path, pictures: Path, console: Console) -> None:
    def line(*options: object) -> str:
        return console.failure("evaluate", "imagenet", "--images", pictures, *options)

    assert f"no variant 'big' of imagenet; the store has: {ID}, {OTHER_ID}" in line("--variant", "big")
    (pictures / "red.png").write_bytes(b"no picture")
    assert "red.png cannot be read" in line()
    (pictures / "labels.csv").write_text("file,index\nred.png,1000\n")
    assert "labels.csv has the class 1000; classes are 0 to 999" in line()
    (pictures / "labels.csv").unlink()
    assert "labels.csv cannot be read: No such file or directory" in line()
    assert ModelStore(root).open("imagenet", ID)[0].measured is None


def test_evaluate_names_a_damaged_variant_and_reports_the_others(
    root: Path, pictures: Path, console: Console
) -> None:
    damage(root)
    out, (problem, end) = console("evaluate", "imagenet", "--images", pictures, code=1)
    assert out[1].split()[0] == OTHER_ID
    assert problem.startswith(f"{ID} of imagenet: model.onnx does not match")
    assert end == "model-store: 1 of 2 variants refused"
    assert ModelStore(root).open("imagenet", OTHER_ID)[0].measured is not None
    out, _ = console("evaluate", "imagenet", "--images", pictures, "--variant", ID, code=1)
    assert out == []
    for id in (ID, OTHER_ID):
        shutil.rmtree(root / "imagenet" / id)
    line = console.failure("evaluate", "imagenet", "--images", pictures)
    assert line == f"model-store: imagenet of the store {root} has no variants to measure"


# profile


def test_profile_gives_each_variants_latency_on_this_device(root: Path, console: Console) -> None:
    found = console.json("profile", "imagenet")
    assert f"onnxruntime-{onnxruntime.__version__}" in found["device"]
    assert [(v["task"], v["id"]) for v in found["variants"]] == [("imagenet", ID), ("imagenet", OTHER_ID)]
    assert all(0 < v["latency_ms"]["p50"] <= v["latency_ms"]["p95"] for v in found["variants"])
    shutil.rmtree(root / "imagenet" / OTHER_ID)
    out, _ = console("profile")
    assert out[0].startswith(found["device"])
    assert out[1].split() == ["task", "variant", "provider", "p50", "ms", "p95", "ms"]
    (row,) = [line.split() for line in out[2:]]
    assert row[:3] == ["imagenet", ID, "CPUExecutionProvider"]
    assert 0 < float(row[3]) <= float(row[4])


def test_profile_compares_providers_as_the_tasks_answers_are(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a face 41 distributions, which taken for one are far apart for nothing."""
    store = ModelStore(tmp_path / "faces")
    task = tasks.ensure_task(store, "faces")
    provenance = build.Provenance(build.TRAINED_FORMAT, "trained.npz", "0" * 64, tasks.FACES_LICENCE)
    build.install_trained(store, task, random_trained(0.25, (128,)).rounded(), provenance, measured={})
    heads = []

    def unusable(*_: object, head: str = "classification", **__: object) -> None:
        heads.append(head)
        raise ModelUnusable("not here")

    monkeypatch.setattr(commands, "accelerators", lambda: {"OtherExecutionProvider": "1.0"})
    monkeypatch.setattr(commands, "open_agreeing", unusable)
    console("profile", "--store", store.root)
    assert heads == ["attributes"]


def test_profile_names_a_damaged_variant_and_reports_the_others(
    root: Path, tmp_path: Path, console: Console
) -> None:
    damage(root)
    out, (problem, end) = console("profile", code=1)
    assert [line.split()[1] for line in out[2:]] == [OTHER_ID]
    assert problem.startswith(f"{ID} of imagenet: model.onnx does not match")
    assert end == "model-store: 1 of 2 variants refused"
    assert [v["id"] for v in console.json("profile", code=1)["variants"]] == [OTHER_ID]
    damage(root, OTHER_ID)
    out, err = console("profile", code=1)
    assert out == []
    assert len(err) == 3
    assert "has no variants to measure" in console.failure("profile", "--store", tmp_path / "none")


# table


def test_table_prints_every_figure_and_marks_exactly_what_disagrees(console: Console) -> None:
    out, _ = console("table")
    figures = list(published.compare())
    rows, summary = out[1:-1], out[-1]
    for figure, row in zip(figures, rows, strict=True):
        assert row.startswith(figure.source)
        middle = f"{figure.published:.{figure.digits}f}  "
        assert figure.subject in row
        assert f"{figure.quantity}, {figure.unit}" in row
        assert middle in row
        assert ("DISAGREES" in row) == (not figure.agrees)
        assert row.endswith(f"DISAGREES: {figure.reason}") or figure.agrees
    apart = sum("DISAGREES" in row for row in rows)
    assert summary.startswith(f"{len(rows)} figures, {len(rows) - apart} agree ")
    as_json = console.json("table")
    assert [(f["subject"], f["published"], f["agrees"]) for f in as_json] == [
        (f.subject, f.published, f.agrees) for f in figures
    ]


# Output that goes nowhere


@pytest.fixture
def nobody() -> Iterator[IO[str]]:
    """What a program writes to whose reader has left."""
    readable, writable = os.pipe()
    os.close(readable)
    with open(writable, "w") as stream:
        yield stream


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["table", "table --json", "list"])
def test_a_reader_that_leaves_early_is_no_failure(
    command: str, unbuffered: str, root: Path, nobody: IO[str]
) -> None:
    """As `model-store table | head -1` does, here before the first line."""
    ended = program(*command.split(), stdout=nobody, PYTHONUNBUFFERED=unbuffered)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_failure_is_one_also_when_the_reader_leaves_early(root: Path, nobody: IO[str]) -> None:
    damage(root)
    ended = program("verify", stdout=nobody)
    assert (ended.returncode, ended.stderr) == (1, "model-store: 1 of 2 variants refused\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["list", "table --json"])
def test_a_full_disk_is_a_failure_in_one_line(command: str, root: Path) -> None:
    """Both where the first line and where only the end is written."""
    with open("/dev/full", "w") as full:
        ended = program(*command.split(), stdout=full)
    assert (ended.returncode, ended.stderr) == (1, "model-store: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_hides_no_other_failure(root: Path) -> None:
    damage(root)
    with open("/dev/full", "w") as full:
        ended = program("verify", stdout=full)
    assert (ended.returncode, ended.stderr) == (1, "model-store: 1 of 2 variants refused\n")


@pytest.mark.parametrize(
    ("command", "code", "printed"),
    [
        ("list >&-", 0, ""),
        ("list --json >&-", 0, ""),
        ("list plants >&-", 1, "model-store: the store has no task 'plants'; it has: imagenet"),
        ("list plants 2>&-", 1, ""),
        ("list --yaml 2>&-", 2, ""),
        ("verify <&- >&- 2>&-", 0, ""),
        ("verify 2>&-", 0, f"ok      imagenet/{ID}\nok      imagenet/{OTHER_ID}"),
    ],
)
def test_a_closed_stream_shows_nothing_and_changes_nothing(
    command: str, code: int, printed: str, root: Path
) -> None:
    arguments, *closed = re.split(r" (?=[<>2])", command)
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {" ".join(closed)}', "sh", *command_line(*arguments.split())],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.rstrip()) == (code, printed)


def test_a_terminal_without_the_character_shows_another(root: Path, pictures: Path) -> None:
    ended = program("evaluate", "imagenet", "--images", pictures, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("4 pictures; ? is half the 95 %")


# Every command


def test_the_store_is_the_option_then_the_variable_then_the_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / ".store").mkdir()
    by_variable = json.loads(program("list", "--json").stdout)
    assert by_variable["store"] == str(root)
    assert len(by_variable["variants"]) == 2
    by_option = json.loads(program("list", "--json", "--store", tmp_path / "other").stdout)
    assert by_option == {"store": str(tmp_path / "other"), "variants": []}
    environment = {name: value for name, value in os.environ.items() if name != "MOBILENET_STORE"}
    code = (
        f"import sys; sys.path.insert(0, {os.getcwd()!r}); from model_store.cli import main; main(['list'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert ended.stdout.startswith("The store .store is empty;")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["fetch"], "invalid choice: 'fetch'"),
        (["pull"], "required: task"),
        (["pull", "plants"], "invalid choice: 'plants'"),
        (["import"], "file"),
        (["import", "a.pb", "--resolution", "200"], "invalid choice: 200"),
        (["import", "a.pb", "--resolution", "big"], "invalid int value: 'big'"),
        (["evaluate", "imagenet"], "--images"),
        (["list", "--yaml"], "--yaml"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments: list[str], complaint: str, console: Console) -> None:
    line = console.usage_error(*arguments).splitlines()[-1]
    assert complaint in line
    assert "CHECKPOINT" not in line  # may be left out


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "pull", "import", "verify", "evaluate", "profile", "table"):
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert f"usage: model-store {command}" in text
        assert "--store DIR" in text
