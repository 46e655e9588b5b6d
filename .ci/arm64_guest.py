"""What runs on the emulated ARM64 CPU, and for comparison on this one: scores of pictures, then the service.

arm64_guest.py --store DIR --pictures DIR --scores FILE.npz
    [--serve PORT --edge-store DIR --state DIR --python FILE]
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from model_store import profile, resampling
from model_store.imaging import FORMATS, PROGRESSIVE, decode
from model_store.manifest import Preprocessing
from model_store.profile import DecodeCost, DeviceProfile, Quantiles, decode_key
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from service.__main__ import main as serve

# Small ones see all pictures, the largest one alone: emulation takes a second for each of its runs.
ALL_PICTURES, ONE_PICTURE = 128, 224


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--serve", type=int, metavar="PORT")
    parser.add_argument("--edge-store", type=Path, metavar="DIR", help="what is served")
    parser.add_argument("--state", type=Path, metavar="DIR")
    parser.add_argument("--python", help="what starts Python on the same CPU: the kernel cannot")
    options = parser.parse_args()
    # Which no ARM64 has: the same pixels everywhere, so that what is compared is what the cores make of them.
    vars(resampling)["_own"] = None
    say("imported")
    store = ModelStore(options.store)
    pictures = [path.read_bytes() for path in sorted(options.pictures.iterdir())]
    scores = {}
    for resolution, seen in ((ALL_PICTURES, pictures), (ONE_PICTURE, pictures[:1])):
        for precision in ("fp32", "int8"):
            variant = f"mobilenet_v1_1.0_{resolution}_{precision}"
            scores[variant] = score(store, variant, resolution, seen)
            say(f"{variant}: {len(seen)} pictures")
    np.savez(options.scores, **scores)  # type: ignore[arg-type]
    if options.serve is None:
        return 0
    sys.executable = options.python or sys.executable
    write_profile(ModelStore(options.edge_store), options.state)
    os.environ |= {"MOBILENET_STATE_DIR": str(options.state), "MOBILENET_THREADS": "1"}
    return serve(["--port", str(options.serve), "--store", str(options.edge_store)])


def say(what: str) -> None:
    print(f"[{time.process_time():.0f}s of CPU] {what}", flush=True)


def score(store: ModelStore, variant: str, resolution: int, pictures: list[bytes]) -> np.ndarray:
    """float32 [pictures, classes], through the imaging and the runtime that serve."""
    session = OnnxSession(store.open("imagenet", variant)[1])
    images = (decode(picture, resolution, Preprocessing()) for picture in pictures)
    return np.concatenate([session.run(image[np.newaxis]) for image in images])


def write_profile(store: ModelStore, state: Path) -> None:
    """What the first start would measure for minutes here, where times mean nothing."""
    codings = [(coding, scale) for coding in ("JPEG", PROGRESSIVE) for scale in (1, 2, 4, 8)]
    codings += [(format, 1) for format in FORMATS if format != "JPEG"]
    cost = DecodeCost(base_ms=100, per_megapixel_ms=100, per_megabyte_ms=0)
    made = DeviceProfile(
        device=profile.device_name(),
        inference={f"imagenet/{v.id}": Quantiles(p50=1000, p95=1000) for v in store.variants("imagenet")},
        decode={decode_key(coding, scale): cost for coding, scale in codings},
    )
    profile.save(profile.cache_path(state, store.digest()), made)


if __name__ == "__main__":
    sys.exit(main())
