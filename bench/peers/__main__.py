"""This service beside others: `python -m bench.peers --store STORE --photos FOLDER`.

LitServe, BentoML, MLServer, Ray Serve, and FastAPI as it is written by hand, each in an environment of its
own (made on first use in `.peers/`), with the same ONNX file and the same pictures, by `wrk` with 1, 8 and 32
connections: with a usual Pillow pipeline, and with this project's decoding and inference as their handler,
which leaves the server alone to make the difference. All take turns of a few seconds at every point, and
whoever does not have the turn is frozen. Before, each has to name the right class.

Writes JSON after every block (variant and pipeline), and a table and a plot beside it. Run again, it goes on
after the blocks that the file has.
"""

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import photos
from bench.machine import machine
from bench.peers import measure, report
from bench.peers.servers import pipelines
from bench.peers.table import OURS, PEERS, PIPELINES
from bench.server import running_server
from bench.wrk import WrkFailed
from model_store.store import ModelStore

_VARIANTS = ("mobilenet_v1_1.0_224_fp32", "mobilenet_v1_1.0_128_int8")
_ENGINE = ("onnxruntime", "pillow", "simplejpeg", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    pictures = photos.of_sizes(options.photos)
    result = _kept(options)
    wanted = [(v, p) for p in PIPELINES for v in options.variant or _VARIANTS]
    missing = [key for key in wanted if _key(*key) not in result["blocks"]]
    try:
        with tempfile.TemporaryDirectory() as state:
            for variant, pipeline in missing[: options.blocks]:
                print(_key(variant, pipeline), flush=True)
                found = _block(options, Path(state), variant, pipeline, pictures)
                result["blocks"][_key(variant, pipeline)] = found
                options.output.write_text(json.dumps(result, indent=1) + "\n")
    except (measure.PeerFailed, WrkFailed) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    written = report.write(result, options.output)
    print(f"written: {', '.join(str(path) for path in [options.output, *written])}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG pictures")
    parser.add_argument("--variant", action="append", help=f"default: {', '.join(_VARIANTS)}")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--blocks", type=int, help="end after so many; run again for the others")
    parser.add_argument("--fresh", action="store_true", help="measure all blocks anew")
    parser.add_argument("--output", type=Path, default=Path("docs/peers.json"), help="beside it: .md, .svg")
    return parser.parse_args(arguments)


def _key(variant: str, pipeline: str) -> str:
    return f"{variant}/{pipeline}"


def _kept(options: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run has measured, or nothing."""
    if options.output.is_file() and not options.fresh:
        kept: dict[str, Any] = json.loads(options.output.read_text())
        return kept
    return {
        "device": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "engine": {name: version(name) for name in _ENGINE},
        "seconds": options.seconds,
        "variants_loaded": len(ModelStore(options.store).variants("imagenet")),
        "blocks": {},
    }


def _block(
    options: argparse.Namespace, state: Path, variant: str, pipeline: str, pictures: dict[str, bytes]
) -> dict[str, Any]:
    model = options.store / "imagenet" / variant / "1" / "model.onnx"
    with running_server(options.store, state) as ours:
        server = measure.service(ours.base_url, ours.process.pid, variant, pictures)
        expected = _expected(model, pipeline, pictures, server)
        server.processes.freeze()
        try:
            with measure.peers(options.peers, model, pipeline, pictures, expected) as others:
                return measure.block([server, *others], list(pictures), options.seconds)
        finally:
            server.processes.thaw()


def _expected(
    model: Path, pipeline: str, pictures: dict[str, bytes], server: measure.Server
) -> dict[str, int]:
    """The class of each picture by the pipeline itself, without a server. With our functions it has to be the
    one that this service names first; two ways to resize may put two close ones the other way round."""
    classify = pipelines.of(pipeline, model)
    found = {}
    for name, picture in pictures.items():
        found[name] = index = int(classify(picture)[0]["index"])
        said = [p["index"] for p in measure.answer(server.url, server.bodies[name])["predictions"]]
        if index not in said[: 1 if pipeline == OURS else 2]:
            raise measure.PeerFailed(f"this service says {said} of {name}, the pipeline {index}")
    return found


if __name__ == "__main__":
    sys.exit(main())
