"""`model-store export` and `import` of what it wrote: all of it or nothing, resumed, and back again."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import random_store
from model_store import atomic, build, tasks, update
from model_store.export import SUMS, edge_variants
from model_store.manifest import official_top1
from model_store.store import ModelStore
from tests.detectors import random_detector
from tests.model_store.console import Console
from tests.model_store.servers import Fault, Server

IDS = ["mobilenet_v1_0.25_128_fp32", "mobilenet_v1_0.25_160_fp32"]
OLD_ID = "mobilenet_v1_0.25_192_fp32"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random variants. Read only."""
    root = tmp_path_factory.mktemp("delivery") / "store"
    random_store.fill(root, ((0.25, 128), (0.25, 160)), alike=False)
    return root


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a device had before. Read only."""
    root = tmp_path_factory.mktemp("delivery") / "old"
    random_store.fill(root, ((0.25, 192),))
    return root


@pytest.fixture
def device(old: Path, tmp_path: Path) -> ModelStore:
    return ModelStore(shutil.copytree(old, tmp_path / "device"))


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


@pytest.fixture
def archive(filled: Path, tmp_path: Path, console: Console) -> Path:
    target = tmp_path / "edge.tar.gz"
    console("export", target, "--store", filled)
    return target


def ids(store: ModelStore) -> list[str]:
    """Of the sound variants."""
    return [v.id for v in store.variants() if v.problem is None and store.open(v.task, v.id)]


# export


@pytest.mark.parametrize("name", ["edge", "edge.tar", "edge.tar.gz", "edge.tgz"])
def test_what_was_exported_installs_elsewhere(
    name: str, filled: Path, tmp_path: Path, console: Console
) -> None:
    target, there = tmp_path / name, tmp_path / "there"
    out, _ = console("export", target, "--store", filled)
    assert out[:2] == [f"exported imagenet/{id}" for id in IDS]
    assert f"`model-store import {target}` installs it" in out[2]
    out, _ = console("import", target, "--store", there)
    assert out[:2] == [f"installed imagenet/{id}" for id in IDS]
    assert ids(ModelStore(there)) == IDS
    assert ModelStore(there).digest() == ModelStore(filled).digest()
    console("verify", "--store", there)


def test_a_folder_is_a_store_that_sha256sum_checks(filled: Path, tmp_path: Path, console: Console) -> None:
    target = tmp_path / "new" / "edge"
    console("export", target, "--variant", IDS[1], "--store", filled)
    assert ids(ModelStore(target)) == [IDS[1]]
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=target, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert len((target / SUMS).read_text().splitlines()) == sum(p.is_file() for p in target.rglob("*")) - 1


def test_the_same_content_is_the_same_archive(filled: Path, tmp_path: Path, console: Console) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    console("export", one, "--store", filled)
    copy = shutil.copytree(filled, tmp_path / "copy", copy_function=shutil.copyfile)
    console("export", other, "--store", copy)
    assert one.read_bytes() == other.read_bytes()


def test_a_model_that_variants_share_is_sent_once(tmp_path: Path, console: Console) -> None:
    """As hard links, which tar unpacks too; on the device they are the same file."""
    store = random_store.fill(tmp_path / "store", ((0.25, 128), (0.25, 160)))
    archive, there, by_hand = (tmp_path / name for name in ("edge.tar", "there", "by_hand"))
    console("export", archive, "--store", store.root)
    with tarfile.open(archive) as tar:
        models = [member for member in tar if member.name.endswith("model.onnx")]
    assert [member.islnk() for member in models] == [False, True]
    console("import", archive, "--store", there)
    assert ids(ModelStore(there)) == IDS
    one, other = (there / "imagenet" / id / "1" / "model.onnx" for id in IDS)
    assert one.samefile(other)
    by_hand.mkdir()
    subprocess.run(["tar", "-xf", archive], cwd=by_hand, check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", SUMS], cwd=by_hand, check=True)


@pytest.mark.parametrize("leads_to", ["/etc/hostname", "../secret", "imagenet/none"])
def test_a_link_to_what_was_not_unpacked_is_no_file(
    leads_to: str, archive: Path, tmp_path: Path, device: ModelStore, console: Console
) -> None:
    (tmp_path / "secret").write_text("secret")
    linked = tmp_path / "linked.tar"
    with tarfile.open(archive) as source, tarfile.open(linked, "w") as target:
        for member in source:
            if member.name == "imagenet/labels.txt":
                member.type, member.linkname, member.size = tarfile.LNKTYPE, leads_to, 0
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    told = console.failure("import", linked, "--store", device.root)
    assert "imagenet/labels.txt is missing; nothing was changed" in told
    assert ids(device) == [OLD_ID]


def test_nothing_is_written_over_or_left_behind(filled: Path, tmp_path: Path, console: Console) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "is there already" in console.failure("export", tmp_path / "mine", "--store", filled)
    broken = Path(shutil.copytree(filled, tmp_path / "broken"))
    model = broken / "imagenet" / IDS[0] / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    for name in ("edge", "edge.tar"):
        assert IDS[0] in console.failure("export", tmp_path / name, "--store", broken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "mine"]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_export_says_what_is_wrong(filled: Path, tmp_path: Path, console: Console) -> None:
    target = tmp_path / "edge"
    assert "no variants to export" in console.failure("export", target, "--store", tmp_path / "nothing")
    assert OLD_ID in console.failure("export", target, "--variant", OLD_ID, "--store", filled)
    assert "not both" in console.misuse("export", target, "--edge", "--variant", IDS[0], "--store", filled)
    assert "it has: imagenet" in console.failure("export", target, "--task", "pets", "--store", filled)
    assert not target.exists()


def edit_task(root: Path, **changes: object) -> None:
    path = root / "imagenet" / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("field", ["labels", "synsets"])
def test_no_file_outside_the_store_is_exported(
    field: str, filled: Path, tmp_path: Path, console: Console
) -> None:
    store, target = Path(shutil.copytree(filled, tmp_path / "store")), tmp_path / "edge"
    (tmp_path / "secret.txt").write_text("secret\n" * 1000)
    for name in (tmp_path / "secret.txt", "../../secret.txt"):
        edit_task(store, **{field: str(name)})
        told = console.failure("export", target, "--store", store)
        assert f"task.json of 'imagenet' cannot be read: {field}: " in told
    assert not target.exists()


def shorten(file: Path) -> None:
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: shorten(f / "labels.txt"), "labels.txt of 'imagenet': 999 lines, 1000 classes"),
        (lambda f: shorten(f / "synsets.txt"), "synsets.txt of 'imagenet': 999 lines, 1000 classes"),
        (lambda f: (f / "synsets.txt").unlink(), "synsets.txt of 'imagenet' cannot be read"),
        (lambda f: edit_task(f.parent, name="pets"), "task.json of 'imagenet' is that of 'pets'"),
    ],
)
def test_export_and_verify_refuse_the_tasks_that_import_refuses(
    change: Callable[[Path], None],
    told: str,
    archive: Path,
    filled: Path,
    device: ModelStore,
    console: Console,
) -> None:
    def in_export(folder: Path) -> None:
        change(folder / "imagenet")
        sum_again(folder)

    store = Path(shutil.copytree(filled, archive.parent / "store"))
    change(store / "imagenet")
    assert told in console.failure("export", archive.with_name("edge"), "--store", store)
    out, _ = console("verify", "--store", store, code=1)
    assert [line.startswith("REFUSED") and told in line for line in out] == [True, True]
    assert told in console.failure("import", repacked(archive, in_export), "--store", device.root)


def test_a_task_without_variants_is_left_out(filled: Path, tmp_path: Path, console: Console) -> None:
    store = ModelStore(Path(shutil.copytree(filled, tmp_path / "store")))
    tasks.ensure_task(store, "face-detection")
    for options in ([], ["--edge"]):
        told = console.json("export", tmp_path / "edge.tar", *options, "--store", store.root)
        assert told["variants"] == {"imagenet": IDS}
    told = console.misuse("export", tmp_path / "x", "--variant", IDS[0], "--store", store.root)
    assert "--task face-detection | imagenet" in told
    told = console.failure("export", tmp_path / "x", "--task", "face-detection", "--store", store.root)
    assert "no variants to export" in told


def test_edge_takes_four_along_the_frontier(tmp_path: Path, console: Console) -> None:
    shapes = ((1.0, 224), (1.0, 128), (0.75, 192), (0.5, 192), (0.5, 128), (0.25, 224), (0.25, 128))
    random_store.fill(tmp_path / "store", shapes)
    manifests = [v.manifest for v in ModelStore(tmp_path / "store").variants() if v.manifest]
    chosen = edge_variants(manifests)
    assert len(chosen) == 4
    assert (chosen[0].id, chosen[-1].id) == ("mobilenet_v1_0.25_128_fp32", "mobilenet_v1_1.0_224_fp32")
    tops = [official_top1(m.alpha, m.resolution, m.precision) for m in chosen]
    assert tops == sorted(tops)  # by mult-adds, and each buys accuracy
    told = console.json("export", "--edge", tmp_path / "edge.tar", "--store", tmp_path / "store")
    assert told["variants"] == {"imagenet": [m.id for m in chosen]}
    assert told["bytes"] == (tmp_path / "edge.tar").stat().st_size
    int8 = [m.model_copy(update={"precision": "int8", "id": m.id.replace("fp32", "int8")}) for m in manifests]
    assert {m.precision for m in edge_variants([*manifests, *int8[:3]])} == {"int8"}


def test_edge_takes_quantised_detectors(tmp_path: Path, console: Console) -> None:
    store = ModelStore(tmp_path / "store")
    task, weights = tasks.ensure_task(store, tasks.FACE_DETECTION.name), random_detector()
    provenance = build.Provenance("random", "tests", "0" * 64, "none")
    for resolution in (224, 160):
        manifest = build.install_detector(store, task, weights, provenance, resolution=resolution)
        build.quantize_variant(store, task, manifest.id)
    told = console.json("export", "--edge", tmp_path / "edge.tar", "--store", store.root)
    assert told["variants"] == {task.name: [f"ssd_mobilenet_v1_1.0_{size}_int8" for size in (160, 224)]}


# import


def test_an_update_replaces_the_task_and_can_be_taken_back(
    archive: Path, device: ModelStore, console: Console
) -> None:
    console("import", archive, "--store", device.root)
    assert ids(device) == IDS
    out, _ = console("import", "--rollback", "--store", device.root)
    assert out[0] == f"brought back imagenet/{OLD_ID}"
    assert ids(device) == [OLD_ID]
    assert console.json("import", "--rollback", "--store", device.root) == {"brought_back": {"imagenet": IDS}}
    assert ids(device) == IDS


def test_other_tasks_stay(archive: Path, device: ModelStore, console: Console) -> None:
    other = device.root / "pets"
    shutil.copytree(device.root / "imagenet", other)
    manifest = json.loads((other / "task.json").read_text())
    (other / "task.json").write_text(json.dumps(manifest | {"name": "pets"}))
    console("import", archive, "--store", device.root)
    assert (other / OLD_ID).is_dir()
    assert not (device.root / "imagenet" / OLD_ID).exists()


def test_without_an_update_there_is_nothing_to_go_back_to(
    archive: Path, device: ModelStore, tmp_path: Path, console: Console
) -> None:
    assert "keeps nothing" in console.failure("import", "--rollback", "--store", device.root)
    out, _ = console("import", archive, "--store", device.root)
    assert out[-1].endswith("restart it. --rollback goes back.")
    out, _ = console("import", archive, "--store", tmp_path / "new")
    assert out[-1].endswith("restart it.")
    assert "keeps nothing" in console.failure("import", "--rollback", "--store", tmp_path / "new")
    assert ids(ModelStore(tmp_path / "new")) == IDS


def repacked(archive: Path, change: Callable[[Path], None]) -> Path:
    """The archive after `change` of its unpacked files, with sums first as before."""
    folder = archive.parent / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    change(folder)
    target = archive.with_name("changed.tar")
    with tarfile.open(target, "w") as tar:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):  # capitals sort first
            tar.add(path, path.relative_to(folder))
    return target


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def sum_again(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n"
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != SUMS
    ]
    (folder / SUMS).write_text("".join(lines))


def another_model(folder: Path) -> None:
    """Its sums agree, and it does not run."""
    variant = folder / "imagenet" / IDS[1]
    (variant / "1" / "model.onnx").write_bytes(b"not a model")
    manifest = json.loads((variant / "variant.json").read_text())
    manifest["sha256"] = hashlib.sha256(b"not a model").hexdigest()
    (variant / "variant.json").write_text(json.dumps(manifest))
    sum_again(folder)


def outside(folder: Path) -> None:
    with (folder / SUMS).open("a") as sums:
        sums.write(f"{'0' * 64}  ../../outside\n")


def one_label_less(folder: Path) -> None:
    shorten(folder / "imagenet" / "labels.txt")
    sum_again(folder)


def extra(folder: Path) -> None:
    (folder / "imagenet" / "more.txt").write_text("more")


def no_variants(folder: Path) -> None:
    for id in IDS:
        shutil.rmtree(folder / "imagenet" / id)
    sum_again(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: flip(f / "imagenet" / IDS[0] / "1" / "model.onnx"), "is not what SHA256SUMS says"),
        (lambda f: (f / "imagenet" / "labels.txt").unlink(), "imagenet/labels.txt is missing"),
        (lambda f: (f / SUMS).unlink(), "does not begin with SHA256SUMS"),
        (extra, "imagenet/more.txt is not in SHA256SUMS"),
        (outside, "a line of SHA256SUMS cannot be read"),
        (one_label_less, "999 lines"),
        (another_model, f"{IDS[1]} of imagenet: ONNX Runtime refuses the model"),
        (no_variants, "has no variants"),
    ],
)  # fmt: skip
def test_a_bad_export_changes_nothing(
    change: Callable[[Path], None], told: str, archive: Path, device: ModelStore, console: Console
) -> None:
    before = sorted(device.root.rglob("*"))
    assert told in console.failure("import", repacked(archive, change), "--store", device.root)
    assert ids(device) == [OLD_ID]
    assert [p for p in sorted(device.root.rglob("*")) if p.name != ".update.lock"] == before


@pytest.mark.parametrize(
    "damage", [lambda d: d[: len(d) // 2], lambda d: d[:5000] + bytes(100) + d[5100:], lambda _: b""]
)
def test_a_damaged_archive_changes_nothing(
    damage: Callable[[bytes], bytes], archive: Path, device: ModelStore, console: Console
) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    assert str(archive) in console.failure("import", archive, "--store", device.root)
    assert ids(device) == [OLD_ID]


def test_when_a_later_task_fails_the_earlier_ones_are_as_before(
    archive: Path, device: ModelStore, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(folder: Path) -> None:
        shutil.copytree(folder / "imagenet", folder / "pets")
        for path in (folder / "pets").rglob("*.json"):
            path.write_text(path.read_text().replace('"imagenet"', '"pets"'))
        sum_again(folder)

    both = repacked(archive, second)
    put = atomic.put_folder

    def full_disk(staging: Path, target: Path) -> None:
        if target.name == "pets":
            raise OSError(28, "No space left on device")
        put(staging, target)

    monkeypatch.setattr(atomic, "put_folder", full_disk)
    assert "No space left" in console.failure("import", both, "--store", device.root)
    assert ids(device) == [OLD_ID]
    monkeypatch.undo()
    console("import", both, "--store", device.root)
    assert ids(device) == IDS * 2


def test_what_a_killed_update_left_goes_with_the_next(
    archive: Path, device: ModelStore, console: Console
) -> None:
    (device.root / ".update-killed" / "imagenet").mkdir(parents=True)
    console("import", archive, "--store", device.root)
    assert not (device.root / ".update-killed").exists()


def test_one_who_waited_for_the_lock_writes_into_the_new_folder(archive: Path, device: ModelStore) -> None:
    """The lock is still the same one after the folders have changed places."""
    with device.locked("imagenet"):
        pass
    before = (device.root / "imagenet" / ".lock").stat().st_ino
    update.install(device, archive)
    assert (device.root / "imagenet" / ".lock").stat().st_ino == before
    assert (device.root / ".previous" / "imagenet" / ".lock").stat().st_ino == before
    device.install(*device.open("imagenet", IDS[0]))
    assert ids(device) == IDS


def test_an_update_over_a_slow_link_resumes(archive: Path, device: ModelStore, console: Console) -> None:
    body = archive.read_bytes()
    with Server() as server:
        url = server.put("/releases/edge.tar.gz", body)
        server.faults = [Fault(cut_after=len(body) // 2), *[Fault(status=503)] * 5]
        assert "run the same command to continue" in console.failure("import", url, "--store", device.root)
        assert ids(device) == [OLD_ID]
        server.faults.clear()
        console("import", url, "--store", device.root)
        assert ids(device) == IDS
        assert server.body_bytes == len(body)  # no byte twice
    assert list((device.root / ".downloads").iterdir()) == []


def test_a_wrong_file_at_the_address_is_not_kept(device: ModelStore, console: Console) -> None:
    with Server() as server:
        url = server.put("/edge.tar", b"<html>sign in</html>")
        assert "cannot be read as an archive" in console.failure("import", url, "--store", device.root)
        assert "not the address of an export" in console.failure(
            "import", f"{server.url}/model.onnx", "--store", device.root
        )
    assert list((device.root / ".downloads").iterdir()) == []


def test_options_for_weights_do_not_fit_an_export(
    archive: Path, device: ModelStore, console: Console
) -> None:
    options = [
        ["--resolution", "128"], ["--dequantize"], ["--task", "imagenet"], ["--origin", "x"],
        ["--licence", "MIT"],
    ]  # fmt: skip
    for option in options:
        for source in (
            archive,
            archive.with_name("missing.tar"),
            "http://127.0.0.1:9/edge.tar",
            "--rollback",
        ):
            told = console.misuse("import", source, *option, "--store", device.root)
            assert f"{option[0]} is for weights" in told
    missing = archive.with_name("missing.tar")
    assert f"there is no file {missing}" in console.failure("import", missing, "--store", device.root)
    assert "not allowed with" in console.usage_error("import", str(archive), "--rollback")


def test_where_folders_cannot_be_exchanged_the_old_one_is_kept_all_the_same(
    archive: Path, device: ModelStore, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    console("import", archive, "--store", device.root)
    assert ids(device) == IDS
    console("import", "--rollback", "--store", device.root)
    assert ids(device) == [OLD_ID]
    assert not [p for p in os.listdir(device.root) if p.startswith(".old")]
