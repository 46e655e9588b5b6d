"""The commands that carry variants from store to store: `export`, and `import` of what it wrote."""

import argparse
from pathlib import Path

from model_store import export, fill_commands, update
from model_store.cli_output import print_json
from model_store.commands import UsageError, chosen
from model_store.store import ModelStore, StoreError


def export_variants(store: ModelStore, options: argparse.Namespace) -> int:
    if options.edge and options.variant:
        raise UsageError("name variants, or give --edge; not both")
    if options.variant and not options.task and len(store.tasks()) > 1:
        raise UsageError(f"say of which task the variants are: --task {' | '.join(store.tasks())}")
    wanted = {}
    for task in [options.task] if options.task else store.tasks():
        store.task(task)  # says which tasks there are
        variants = chosen(store, task, options.variant) if options.variant else _all(store, task)
        if options.edge:
            manifests = [v.manifest for v in store.variants(task) if v.manifest]
            variants = [m.id for m in export.edge_variants(manifests)]
        if variants:
            wanted[task] = variants
    if not wanted:
        raise StoreError(f"the store {store.root} has no variants to export")
    size = export.export(store, wanted, options.target)
    if options.json:
        print_json({"target": str(options.target), "bytes": size, "variants": wanted})
        return 0
    for task, variants in wanted.items():
        print("\n".join(f"exported {task}/{variant}" for variant in variants))
    print(f"{options.target}: {size / 1e6:.1f} MB; `model-store import {options.target}` installs it")
    return 0


def import_any(store: ModelStore, options: argparse.Namespace) -> int:
    """`import`: weights, an export, or the way back from one."""
    if not options.rollback and not update.is_url(options.file) and not update.is_export(Path(options.file)):
        return fill_commands.import_file(store, options)
    given = {
        "--task": options.task, "--resolution": options.resolution, "--dequantize": options.dequantize,
        "--licence": options.licence, "--origin": options.origin,
    }  # fmt: skip
    if wrong := [name for name, value in given.items() if value]:
        raise UsageError(f"{wrong[0]} is for weights; an export is installed as it is")
    if options.rollback:
        return _report(store, update.roll_back(store), options, "brought back")
    if update.is_url(options.file):
        archive = update.download(store, options.file)
        try:
            tasks = update.install(store, archive)
        finally:
            archive.unlink()
    else:
        if not Path(options.file).exists():
            raise StoreError(f"there is no file {options.file}")
        tasks = update.install(store, Path(options.file))
    return _report(store, tasks, options, "installed")


def _all(store: ModelStore, task: str) -> list[str]:
    return [v.id for v in store.variants(task)]


def _report(store: ModelStore, tasks: list[str], options: argparse.Namespace, done: str) -> int:
    variants = {task: [v.id for v in store.variants(task)] for task in tasks}
    if options.json:
        print_json({done.replace(" ", "_"): variants})
        return 0
    for task, ids in variants.items():
        print("\n".join(f"{done} {task}/{id}" for id in ids))
    back = " --rollback goes back." if update.can_roll_back(store) else ""
    print(f"A service that runs goes on with what it has loaded: restart it.{back}")
    return 0
