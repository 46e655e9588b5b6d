"""The store on disk: whatever dies or happens at once, readers see whole variants or a named refusal."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_store.manifest import TaskManifest
from model_store.store import ModelStore, StoreError, VariantCorrupt
from tests.model_store.store_writer import (
    DIED,
    ID,
    LABELS,
    MEASURED,
    OTHER_ID,
    TASK,
    UNDISTURBED,
    Writers,
    content,
    install,
    manifest,
    writers,
)

MODEL = Path(ID) / "1" / "model.onnx"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """The task, and version 0 of two variants."""
    store = ModelStore(tmp_path / "store")
    store.install_task(TASK, LABELS, None)
    install(store, 0)
    install(store, 0, OTHER_ID)
    return store


@pytest.fixture
def folder(store: ModelStore) -> Path:
    return store.root / TASK.name


@pytest.fixture
def processes(store: ModelStore) -> Iterator[Writers]:
    with writers(store.root) as started:
        yield started


def paths(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def leftovers(folder: Path) -> set[str]:
    """Hidden names other than the lock."""
    return {p.name for p in folder.rglob(".*")} - {".lock"}


def is_version(store: ModelStore, version: int, id: str = ID) -> bool:
    return store.open(TASK.name, id) == (manifest(version, id), content(version))


# What is where.


def test_the_layout_is_the_documented_one(store: ModelStore, folder: Path) -> None:
    variants = {f"{id}/{file}" for id in (ID, OTHER_ID) for file in ("variant.json", "1/model.onnx")}
    assert paths(folder) == {"task.json", "labels.txt", ".lock"} | variants
    assert (folder / "labels.txt").read_text() == "cat\ndog\nlynx\n"
    assert json.loads((folder / "task.json").read_text())["classes"] == 3
    assert json.loads((folder / ID / "variant.json").read_text())["sha256"] == manifest(0).sha256
    assert (folder / MODEL).read_bytes() == content(0)


def test_every_user_can_read_what_was_installed(folder: Path) -> None:
    for path in [folder / ID, *(folder / ID).rglob("*"), folder / "task.json", folder / "labels.txt"]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_what_was_installed_is_listed_and_opened(store: ModelStore) -> None:
    assert store.tasks() == [TASK.name]
    assert store.task(TASK.name) == TASK
    assert store.labels(TASK) == LABELS
    assert store.synsets(TASK) is None
    assert [(v.task, v.id, v.manifest, v.problem) for v in store.variants()] == [
        (TASK.name, id, manifest(0, id), None) for id in (ID, OTHER_ID)
    ]
    assert store.variants(TASK.name) == store.variants()
    assert is_version(store, 0)


def test_synsets_are_kept_beside_the_labels(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    task = TASK.model_copy(update={"synsets": "synsets.txt"})
    synsets = ["n02121808", "n02084071", "n02127052"]
    store.install_task(task, LABELS, synsets)
    assert store.synsets(store.task(TASK.name)) == synsets


def test_no_folder_is_an_empty_store_and_reading_makes_none(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "none")
    assert store.tasks() == []
    assert store.variants() == []
    with pytest.raises(StoreError, match=r"no task 'animals'; it has: none"):
        store.task("animals")
    with pytest.raises(VariantCorrupt, match=f"{ID} of animals: there is no such variant"):
        store.open("animals", ID)
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_or_in_a_circle_is_no_empty_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for path, reason in (("file", "Not a dir"), ("file/store", "Not a dir"), ("circle", "Too many levels")):
        with pytest.raises(StoreError, match=rf"store cannot be read: {tmp_path / path}: {reason}"):
            ModelStore(tmp_path / path).variants()


def test_a_task_that_cannot_be_looked_at_hides_no_other(store: ModelStore, folder: Path) -> None:
    (store.root / "lost+found").mkdir()
    (store.root / "plants").mkdir()
    for name in ("lost+found", "plants"):
        (store.root / name / "task.json").symlink_to("task.json")
    assert store.tasks() == [TASK.name]
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match=r"store cannot be read: .*/plants/task\.json: Too many levels"):
        store.tasks()
    shutil.rmtree(store.root / "plants")
    assert store.tasks() == []


def test_a_task_installed_again_keeps_its_variants(store: ModelStore) -> None:
    task = TASK.model_copy(update={"title": "Three other animals"})
    store.install_task(task, ["owl", "hen", "tern"], None)
    assert store.task(TASK.name).title == "Three other animals"
    assert store.labels(task) == ["owl", "hen", "tern"]
    assert [v.id for v in store.variants()] == [ID, OTHER_ID]


def test_replacing_leaves_the_new_version_and_the_other_variant(store: ModelStore, folder: Path) -> None:
    (folder / ID / "1" / "of-the-old-version").touch()
    before = store.digest()
    install(store, 1)
    assert is_version(store, 1)
    assert is_version(store, 0, OTHER_ID)
    assert {p for p in paths(folder) if p.startswith(ID)} == {f"{ID}/variant.json", f"{ID}/1/model.onnx"}
    assert store.digest() != before
    assert leftovers(folder) == set()


def test_update_writes_what_was_measured_and_leaves_the_model(store: ModelStore) -> None:
    before = store.digest()
    store.update(manifest(0).with_measured(MEASURED))
    found, model = store.open(TASK.name, ID)
    assert found.accuracy == found.measured == MEASURED
    assert model == content(0)
    assert store.digest() == before


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_update_writes_nothing_once_the_variant_is_another(
    change: str, store: ModelStore, folder: Path
) -> None:
    measured = manifest(0).with_measured(MEASURED)
    if change == "replaced":
        install(store, 1)
    else:
        shutil.rmtree(folder / ID)
    with pytest.raises(StoreError, match=f"{ID} has changed in the meantime"):
        store.update(measured)
    if change == "replaced":
        assert is_version(store, 1)
    else:
        assert not (folder / ID).exists()


def test_a_model_that_is_not_its_manifests_is_not_installed(store: ModelStore, folder: Path) -> None:
    with pytest.raises(StoreError, match=f"model of {ID} does not match"):
        store.install(manifest(1), content(2))
    assert is_version(store, 0)
    assert leftovers(folder) == set()


def test_labels_that_do_not_fit_the_task_are_not_installed(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="animals has 3 classes, not 2"):
        store.install_task(TASK, ["cat", "dog"], None)
    assert store.labels(TASK) == LABELS


# Damage is refused by name, and the rest still opens.


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "does not match its manifest: sha256 "),
        (truncate, "does not match its manifest: sha256 "),
        (Path.unlink, "model.onnx is missing"),
        (replace_by_folder, "model.onnx is missing"),
    ],
)
def test_a_damaged_model_is_refused_by_name(
    damage: Callable[[Path], None], reason: str, store: ModelStore, folder: Path
) -> None:
    damage(folder / MODEL)
    with pytest.raises(VariantCorrupt, match=f"^{ID} of animals: .*{reason}"):
        store.open(TASK.name, ID)
    assert is_version(store, 0, OTHER_ID)
    install(store, 1)
    assert is_version(store, 1)


def of_another_variant(path: Path) -> None:
    path.write_bytes((path.parents[1] / OTHER_ID / "variant.json").read_bytes())


def of_another_task(path: Path) -> None:
    edit(path, task="plants")


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "variant.json is missing"),
        (lambda p: p.write_bytes(b""), "variant.json cannot be read: .*JSON"),
        (truncate, None),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "variant.json cannot be read: .*JSON"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "variant.json cannot be read: .*JSON"),
        (lambda p: p.write_text("[]"), "variant.json cannot be read"),
        (lambda p: p.write_text("{}"), "variant.json cannot be read: id: Field required"),
        (lambda p: edit(p, sha256="abc"), "variant.json cannot be read: sha256: "),
        (lambda p: edit(p, alpha=0.3), "there is no variant of alpha 0.3"),
        (lambda p: edit(p, alpha=0.5), "does not match alpha, resolution and precision"),
        (replace_by_folder, "variant.json cannot be read: "),
        (of_another_variant, f"its manifest is that of animals/{OTHER_ID}"),
        (of_another_task, f"its manifest is that of plants/{ID}"),
    ],
)
def test_a_broken_manifest_is_refused_by_name(
    damage: Callable[[Path], None], reason: str | None, store: ModelStore, folder: Path
) -> None:
    damage(folder / ID / "variant.json")
    (listed,) = [v for v in store.variants() if v.id == ID]
    if reason is None:  # only the last newline went
        assert is_version(store, 0)
        return
    assert listed.manifest is None
    with pytest.raises(VariantCorrupt, match=f"^{ID} of animals: .*{reason}") as refusal:
        store.open(TASK.name, ID)
    assert "\n" not in str(refusal.value)
    assert is_version(store, 0, OTHER_ID)
    install(store, 1)
    assert is_version(store, 1)


def test_a_manifest_of_a_newer_release_is_read(store: ModelStore, folder: Path) -> None:
    edit(folder / ID / "variant.json", latency_of_the_future={"ms": 1})
    assert is_version(store, 0)


def test_a_folder_that_is_no_variant_is_refused_by_name(store: ModelStore, folder: Path) -> None:
    (folder / "my-notes").mkdir()
    (listed,) = [v for v in store.variants() if v.manifest is None]
    assert listed.id == "my-notes"
    assert listed.problem is not None
    assert "'my-notes' is not a variant id" in listed.problem


def test_hidden_names_and_plain_files_are_passed_over(store: ModelStore, folder: Path) -> None:
    before = store.digest()
    shutil.copytree(folder / ID, folder / ".staging-x")
    (folder / "notes.txt").touch()
    shutil.copytree(folder, store.root / ".animals")
    (store.root / "checksums.json").write_text("{}")
    (store.root / "not-a-task").mkdir()
    assert store.tasks() == [TASK.name]
    assert [v.id for v in store.variants()] == [ID, OTHER_ID]
    assert store.digest() == before


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("task.json", b"{", r"task.json of 'animals' cannot be read: .*JSON"),
        ("task.json", b"{}", r"task.json of 'animals' cannot be read: name: Field required"),
        ("labels.txt", b"cat\ndog\n", "labels.txt of 'animals': 2 lines, 3 classes"),
        ("labels.txt", b"\xff\n\xff\n\xff\n", "labels.txt of 'animals' cannot be read"),
        ("labels.txt", None, "labels.txt of 'animals' cannot be read"),
    ],
)
def test_a_broken_task_is_refused_by_name(
    file: str, content: bytes | None, reason: str, store: ModelStore, folder: Path
) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(StoreError, match=reason):
        store.labels(store.task(TASK.name))


def test_labels_are_lines_whatever_else_is_in_them(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    labels = ["crème brûlée", "猫, cat", "a\u2028b"]
    store.install_task(TASK, labels, None)
    assert store.labels(TASK) == labels


# Writers that die.


def each_death(processes: Writers, action: str) -> Iterator[int]:
    """Numbers of the steps at which the writer died, until it was through."""
    step = 1
    while (code := processes.run("die", action, step)) == DIED:
        yield step
        step += 1
    assert code == UNDISTURBED


def test_a_death_while_replacing_leaves_the_old_or_the_new(
    store: ModelStore, folder: Path, processes: Writers
) -> None:
    seen = []
    for _ in each_death(processes, "replace"):
        seen.append(is_version(store, 1))
        assert seen[-1] or is_version(store, 0)
        assert is_version(store, 0, OTHER_ID)
        assert [v.problem for v in store.variants()] == [None, None]
        install(store, 0)
        assert leftovers(folder) == set()
    assert is_version(store, 1)
    assert seen == sorted(seen)  # old up to the one step, new from there on
    assert seen.count(False) > 20
    assert seen.count(True) > 3


def test_a_death_while_adding_leaves_nothing_or_all(
    store: ModelStore, folder: Path, processes: Writers
) -> None:
    shutil.rmtree(folder / OTHER_ID)
    seen = []
    for _ in each_death(processes, "add"):
        seen.append([v.id for v in store.variants()] == [ID, OTHER_ID])
        assert seen[-1] == (folder / OTHER_ID).exists()
        if seen[-1]:
            assert is_version(store, 1, OTHER_ID)
            shutil.rmtree(folder / OTHER_ID)
        install(store, 0)
        assert leftovers(folder) == set()
    assert is_version(store, 1, OTHER_ID)
    assert seen == sorted(seen)
    assert seen.count(False) > 20
    assert seen.count(True) > 0


def test_a_death_while_updating_leaves_the_old_or_the_new_manifest(
    store: ModelStore, folder: Path, processes: Writers
) -> None:
    seen = []
    for _ in each_death(processes, "update"):
        found, model = store.open(TASK.name, ID)
        assert model == content(0)
        assert found in (manifest(0), manifest(0).with_measured(MEASURED))
        seen.append(found.measured is not None)
        install(store, 0)
        assert leftovers(folder) == set()
    assert store.open(TASK.name, ID)[0].measured == MEASURED
    assert seen == sorted(seen)
    assert {False, True} == set(seen)


SIZES = (0, 1, 100, 4096, 35_000, 69_999)  # bytes of a model of 70,000; of a manifest the first three


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("how", "code"), [("die-at-byte", -signal.SIGXFSZ), ("full-at-byte", DIED)])
def test_a_write_that_ends_at_any_byte_leaves_the_old(
    how: str, code: int, size: int, store: ModelStore, folder: Path, processes: Writers
) -> None:
    """Killed in the middle of it, or out of room, which it says and tidies up."""
    assert processes.run(how, "replace", size) == code
    assert is_version(store, 0)
    assert [v.id for v in store.variants()] == [ID, OTHER_ID]
    assert bool(leftovers(folder)) == (how == "die-at-byte")
    install(store, 1)
    assert is_version(store, 1)
    assert leftovers(folder) == set()


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize(("how", "code"), [("die-at-byte", -signal.SIGXFSZ), ("full-at-byte", DIED)])
def test_a_manifest_that_ends_at_any_byte_leaves_the_old(
    how: str, code: int, size: int, store: ModelStore, processes: Writers
) -> None:
    assert processes.run(how, "update", size) == code
    assert is_version(store, 0)
    store.update(manifest(0).with_measured(MEASURED))
    assert store.open(TASK.name, ID)[0].measured == MEASURED


def test_a_death_while_installing_a_task_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    seen = []
    with writers(tmp_path) as processes:
        for _ in each_death(processes, "task"):
            seen.append(store.tasks() == [TASK.name])
            if seen[-1]:
                assert store.labels(store.task(TASK.name)) == LABELS
            shutil.rmtree(tmp_path / TASK.name, ignore_errors=True)
    assert store.labels(store.task(TASK.name)) == LABELS
    assert {False, True} == set(seen)


# Writers and readers at once.


def overtaken_at_each_step(processes: Writers, action: str) -> Iterator[int]:
    step = 1
    while (code := processes.run("overtaken", action, step)) == 0:
        yield step
        step += 1
    assert code == UNDISTURBED, f"{action} failed when another writer came before step {step}"
    assert step > 2


@pytest.mark.parametrize(("action", "id"), [("replace", ID), ("add", OTHER_ID)])
def test_a_writer_that_is_overtaken_at_any_step_installs_its_variant(
    action: str, id: str, store: ModelStore, folder: Path, processes: Writers
) -> None:
    for _ in overtaken_at_each_step(processes, action):
        assert is_version(store, 1, id)
        assert [v.problem for v in store.variants() if v.problem] == []
        assert leftovers(folder) == set()
        install(store, 0, id)


def test_a_writer_that_is_overtaken_at_any_step_updates_its_variant(
    store: ModelStore, folder: Path, processes: Writers
) -> None:
    for _ in overtaken_at_each_step(processes, "update"):
        assert store.open(TASK.name, ID)[0].measured == MEASURED
        assert leftovers(folder) == set()
        install(store, 0)


def test_a_reader_that_is_overtaken_at_any_step_gets_a_whole_version(
    store: ModelStore, processes: Writers
) -> None:
    for _ in overtaken_at_each_step(processes, "read"):
        assert is_version(store, 2)
        install(store, 0)


@pytest.mark.parametrize("times", [2, 3, 4, 9])
def test_a_reader_that_is_overtaken_again_and_again_gets_a_whole_version(
    times: int, processes: Writers
) -> None:
    assert processes.run("overtaken-often", "read", times) == 0


def test_eight_writers_at_once_all_succeed(store: ModelStore, folder: Path, processes: Writers) -> None:
    processes.start("crowd")
    assert processes.codes() == [0] * 8
    assert leftovers(folder) == set()
    found = store.variants()
    assert len(found) == 4
    for v in found:
        opened, model = store.open(v.task, v.id)
        assert hashlib.sha256(model).hexdigest() == opened.sha256
        assert is_version(store, opened.parameters - 1, v.id)


def test_a_reader_beside_a_writer_sees_whole_versions_in_order(store: ModelStore, processes: Writers) -> None:
    times = 50
    contents = {manifest(version).sha256: version for version in range(times + 1)}
    processes.start("replace-often", times)
    seen = [0]
    while not processes.finished():
        assert [(v.id, v.problem) for v in store.variants()] == [(ID, None), (OTHER_ID, None)]
        found, model = store.open(TASK.name, ID)
        version = contents[found.sha256]
        assert hashlib.sha256(model).hexdigest() == found.sha256
        assert found.parameters == version + 1
        assert version >= seen[-1]
        seen.append(version)
    assert processes.codes() == [0]
    assert is_version(store, times)
    assert len(set(seen)) > 1


def test_a_task_name_outside_the_store_is_no_task() -> None:
    with pytest.raises(ValueError, match="name"):
        TaskManifest(name="../elsewhere", title="", head="classification", classes=1)


@pytest.mark.parametrize("name", ["../elsewhere/animals", "animals/", "./animals", ".previous", "..", "."])
def test_a_path_to_a_task_is_no_task(name: str, store: ModelStore, folder: Path) -> None:
    shutil.copytree(store.root, store.root.parent / "elsewhere")
    shutil.copytree(folder, store.root / ".previous")
    (store.root / "task.json").write_bytes((folder / "task.json").read_bytes())
    with pytest.raises(StoreError, match=r"no task '.*'; it has: animals$"):
        store.task(name)
