"""A part of a store as a folder or an archive of its own, to be carried to a device.

    SHA256SUMS                               of every other file, as `sha256sum -c` reads it
    <task>/task.json, labels.txt, ...        as in the store

The folder is a store; the archive is a .tar or .tar.gz of it, the same bytes for the same content. A model
that several variants share is in the archive once; the others are hard links to it.
"""

import gzip
import hashlib
import io
import math
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_store import atomic
from model_store.manifest import VariantManifest
from model_store.opening import checked_task
from model_store.ranking import expected_accuracies
from model_store.store import MODEL_PATH, ModelStore, StoreError, as_json

SUMS = "SHA256SUMS"
ARCHIVES = (".tar", ".tar.gz", ".tgz")
EDGE_VARIANTS = 4


def is_archive(name: str) -> bool:
    return name.endswith(ARCHIVES)


def edge_variants(manifests: Sequence[VariantManifest]) -> list[VariantManifest]:
    """At most `EDGE_VARIANTS` of one task for a small device: quantised ones where there are any, none that
    another beats in both accuracy and mult-adds, from the cheapest to the most accurate in even steps."""
    small = [m for m in manifests if m.precision == "int8"] or list(manifests)
    top1 = expected_accuracies(list(manifests))
    frontier: list[VariantManifest] = []
    for m in sorted(small, key=lambda m: (m.mult_adds, -top1[m.id])):
        if not frontier or top1[m.id] > top1[frontier[-1].id]:
            frontier.append(m)
    if len(frontier) <= EDGE_VARIANTS:
        return frontier
    low, high = (math.log(frontier[i].mult_adds) for i in (0, -1))
    found: list[VariantManifest] = []
    for step in range(EDGE_VARIANTS):
        wanted = low + (high - low) * step / (EDGE_VARIANTS - 1)
        left = [m for m in frontier if m not in found]
        found.append(min(left, key=lambda m: abs(math.log(m.mult_adds) - wanted)))
    return sorted(found, key=lambda m: m.mult_adds)


def export(store: ModelStore, chosen: Mapping[str, Sequence[str]], target: Path) -> int:
    """Writes the chosen variants, by task, to `target`, whole or not at all; returns the bytes it takes.

    A name that ends in .tar, .tar.gz or .tgz becomes an archive, every other one a folder, which must not be
    there or be empty. Raises StoreError for a task that `import` would refuse, VariantCorrupt for a variant
    whose bytes are not what they should be.
    """
    if not is_archive(target.name) and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is there already: name a new folder, or an archive as in {target}.tar.gz")
    files = _files(store, chosen)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_archive(target.name):
        data = _archive(files, compressed=not target.name.endswith(".tar"))
        atomic.write(target, data)
        return len(data)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        for name, data in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write(staging / name, data)
        atomic.put_folder(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sum(len(data) for data in files.values())


def _files(store: ModelStore, chosen: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """By name, the sums first."""
    files: dict[str, bytes] = {}
    for task, variants in chosen.items():
        manifest = checked_task(store, task)
        for name in ("task.json", manifest.labels, *([manifest.synsets] if manifest.synsets else [])):
            files[f"{task}/{name}"] = (store.root / task / name).read_bytes()
        for variant in variants:
            # Read together, so that the two agree even if the variant is replaced meanwhile.
            found, model = store.open(task, variant)
            files[f"{task}/{variant}/variant.json"] = as_json(found)
            files[f"{task}/{variant}/{MODEL_PATH}"] = model
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    return {SUMS: sums.encode(), **files}


def _archive(files: Mapping[str, bytes], *, compressed: bool) -> bytes:
    buffer = io.BytesIO()
    names: dict[bytes, str] = {}  # by what the file holds
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            first = names.setdefault(data, name)
            if first == name:
                info.size = len(data)
            else:
                info.type, info.linkname = tarfile.LNKTYPE, first
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0) if compressed else buffer.getvalue()
