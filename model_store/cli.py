"""`model-store`: fill, look at and check a model store.

Exit codes: 0 done, 1 the work failed (one line on stderr), 2 wrong usage.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from model_store import commands, delivery_commands, fill_commands, train_commands
from model_store.architecture import RESOLUTIONS
from model_store.cli_output import printable
from model_store.sources import OFFICIAL_BASE_URL
from model_store.store import ModelStore, StoreError

DEFAULT_STORE = ".store"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code is returned, and is that of the console script."""
    _open_closed_streams()
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "±" on a terminal that is not UTF-8
    code = _run(options)
    try:
        sys.stdout.flush()  # here and not at exit, where no one can catch what it raises
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            return _fail(_text(error))
    return code


def _open_closed_streams() -> None:
    """Whoever closes a stream (`>&-`) wants to see nothing of it. Left closed, its number would go to the
    next file that is opened, here or in a child."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, errors="replace")  # noqa: SIM115  (for as long as the process)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _run(options: argparse.Namespace) -> int:
    try:
        if options.store.is_file():
            raise StoreError(f"{options.store} is a file; --store names a folder, which is made if need be")
        return int(options.command(ModelStore(options.store), options))
    except BrokenPipeError:  # `model-store table | head`
        return 0
    except commands.UsageError as error:
        _fail(_text(error))
        return 2
    except commands.FAILURES as error:
        return _fail(_text(error))
    except KeyboardInterrupt:
        return _fail("interrupted")


def _fail(reason: str) -> int:
    print(f"model-store: {printable(reason)}", file=sys.stderr)
    return 1


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="model-store", description="Fill, look at and check a store of MobileNet v1 variants."
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_list(subparsers)
    _add_pull(subparsers)
    _add_import(subparsers)
    _add_quantize(subparsers)
    _add_export(subparsers)
    _add_verify(subparsers)
    _add_evaluate(subparsers)
    _add_profile(subparsers)
    _add_table(subparsers)
    _add_train(subparsers)
    return parser


def _add_list(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser("list", help="what the store holds")
    command.add_argument("task", type=_task, nargs="?", help="only this task")
    _common(command)
    command.set_defaults(command=commands.list_variants)


def _add_pull(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "pull",
        help="fetch official weights",
        description="Fetches official weights; for imagenet, by default four along the accuracy/latency "
        "frontier; for faces, the networks that come with the product, and their detector through npm.",
    )
    command.add_argument("task", type=_task, choices=["imagenet", "faces"])
    command.add_argument(
        "checkpoints",
        nargs="*",
        default=[],  # or argparse calls it required
        metavar="CHECKPOINT",
        help="as in the official table: 0.5_160, or 0.5_160_quant (int8, as it is)",
    )
    command.add_argument("--all", action="store_true", help="all 16 float checkpoints")
    command.add_argument(
        "--if-empty", action="store_true", help="do nothing when the store has a sound variant"
    )
    command.add_argument(
        "--base-url",
        default=os.environ.get("MOBILENET_SOURCE_URL", OFFICIAL_BASE_URL),
        help="a mirror of the same layout (or MOBILENET_SOURCE_URL)",
    )
    _common(command)
    command.set_defaults(command=fill_commands.pull)


def _add_import(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "import",
        help="bring in weights that you have, or an export",
        description="Imports .pb, .tflite, .h5, TensorFlow.js model.json, or an .onnx that fits; or installs "
        "what `export` wrote, all of it or nothing.",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "file",
        nargs="?",
        help="the weights, or the folder of a TensorFlow.js model; or an export: a folder, an archive, or "
        "the http(s) address of one",
    )
    source.add_argument("--rollback", action="store_true", help="bring back what the last export replaced")
    command.add_argument("--task", type=_task, help="what they answer (default: imagenet)")
    command.add_argument("--resolution", type=int, choices=RESOLUTIONS, help="when not the trained one")
    command.add_argument(
        "--dequantize",
        action="store_true",
        help="of a quantised .tflite, the fp32 variant that it stands for",
    )
    command.add_argument("--licence", help="of the weights, for the manifest (default: unknown)")
    command.add_argument("--origin", help="where they come from, for the manifest (default: the file's name)")
    _common(command)
    command.set_defaults(command=delivery_commands.import_any)


def _add_quantize(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "quantize",
        help="make int8 variants from fp32 ones",
        description="Makes int8 variants from fp32 ones, without pictures: of all that have none of other "
        "origin, or of those that you name.",
    )
    command.add_argument("variants", nargs="*", default=[], metavar="VARIANT", help="of fp32; default: all")
    command.add_argument(
        "--task", type=_task, default="imagenet", help="what they answer (default: imagenet)"
    )
    _common(command)
    command.set_defaults(command=fill_commands.quantize)


def _add_export(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "export",
        help="write variants to carry to a device",
        description="Writes variants with labels, manifests and checksums to a new folder or an archive, "
        "which `import` installs elsewhere.",
    )
    command.add_argument("target", type=Path, help="a new folder, or a name that ends in .tar or .tar.gz")
    command.add_argument("--edge", action="store_true", help="four variants that suit a small device")
    command.add_argument("--variant", action="append", metavar="ID", help="this one (repeatable)")
    command.add_argument("--task", type=_task, help="only this task")
    _common(command)
    command.set_defaults(command=delivery_commands.export_variants)


def _add_verify(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser("verify", help="check every byte and run every variant")
    command.add_argument("task", type=_task, nargs="?", help="only this task")
    _common(command)
    command.set_defaults(command=commands.verify)


def _add_evaluate(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "evaluate",
        help="measure accuracy on labelled pictures",
        description="The folder has labels.csv with the columns file and index (0-based class); for faces, "
        "celeba.zip, celeba_attributes.csv and utkface.zip, whose validation pictures count.",
    )
    command.add_argument("task", type=_task)
    command.add_argument("--images", type=Path, required=True, metavar="DIR")
    command.add_argument("--variant", action="append", metavar="ID", help="only this one (repeatable)")
    command.add_argument("--dataset", help="name of the pictures, for the manifest")
    command.add_argument("--dry-run", action="store_true", help="report only; leave manifests as they are")
    _common(command)
    command.set_defaults(command=commands.evaluate)


def _add_profile(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser("profile", help="measure latency on this device")
    command.add_argument("task", type=_task, nargs="?", help="only this task")
    _common(command)
    command.set_defaults(command=commands.profile)


def _add_table(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser("table", help="the paper's figures beside the computed ones")
    _common(command)
    command.set_defaults(command=commands.table)


def _add_train(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = subparsers.add_parser(
        "train",
        help="train the networks of a task",
        description="Trains the whole grid of face networks, 1.5 to 4 hours on two idle cores; needs "
        "the extra `train`. Stopped or killed, the same command goes on where it was.",
    )
    command.add_argument("task", type=_task, choices=["faces"])
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="with celeba.zip, celeba_attributes.csv and utkface.zip",
    )
    command.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="for decoded pictures, checkpoints, weights"
    )
    _common(command)
    command.set_defaults(command=train_commands.train)


def _task(text: str) -> str:
    """A task's name, without the slash that a shell adds when it completes the name of a folder."""
    return text.rstrip("/") or text


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store",
        type=Path,
        default=Path(os.environ.get("MOBILENET_STORE", DEFAULT_STORE)),
        metavar="DIR",
        help=f"the store (default: MOBILENET_STORE, or {DEFAULT_STORE})",
    )
    command.add_argument("--json", action="store_true", help="machine-readable output")


if __name__ == "__main__":
    sys.exit(main())
