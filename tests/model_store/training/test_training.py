"""Training itself; skipped where its extra is not installed, as on every run of `make test`."""

import json
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.faces import OUTPUTS
from model_store.graph import build_classifier
from model_store.runtime import OnnxSession
from model_store.trained import TrainedNetwork, load
from tests.model_store.training.networks import random_trained, random_weights
from tests.model_store.training.tiny_run import make_data
from tests.networks import pictures

torch = pytest.importorskip("torch", reason="needs the extra `train`, which brings torch along")
pytest.importorskip("matplotlib", reason="needs the extra `train`")

from model_store.training import augment, network  # noqa: E402
from model_store.training.head import with_fitted_head  # noqa: E402
from model_store.training.losses import loss  # noqa: E402
from model_store.training.pictures import load_faces  # noqa: E402
from model_store.training.targets import from_labels  # noqa: E402

DEADLINE_S = 300
_SHIPPED = Path(str(files("model_store"))) / "tasks" / "faces" / "weights"


@pytest.mark.parametrize("resolution", [128, 160])
def test_torch_and_the_runtime_answer_the_same(resolution: int) -> None:
    trained = random_trained(0.25)
    images = pictures(3, resolution)
    with torch.no_grad():
        found = network.scores(network.from_trained(trained, resolution), augment.plain(images, resolution))
    model = build_classifier(trained.at(resolution), head="attributes")
    scores = OnnxSession(model).run(images)
    assert scores.shape == (3, OUTPUTS)
    np.testing.assert_allclose(scores, found.numpy(), atol=1e-5)
    assert scores.std(axis=0).max() > 0.01  # another picture, another answer


def test_a_start_is_the_network_that_it_starts_from() -> None:
    weights = random_weights(0.25, classes=1000)
    images = augment.plain(pictures(8), 128)
    net = network.MobileNet(0.25)
    network.start_from(net, weights, images, seed=0)
    net.eval()
    maps = images
    with torch.no_grad():
        for convolution, layer in zip(net.convolutions, weights.layers[:-1], strict=True):
            convolution.weight.copy_(torch.from_numpy(layer.kernel))
            bias = torch.from_numpy(layer.bias).reshape(1, -1, 1, 1)
            maps = (network.convolve(convolution, maps) + bias).clamp(0, 6)
        torch.testing.assert_close(net.features(images), maps.mean(dim=(2, 3)), atol=1e-3, rtol=1e-3)
        # With the statistics of these pictures, as in training, too.
        net.train()
        torch.testing.assert_close(net.features(images), maps.mean(dim=(2, 3)), atol=1e-3, rtol=1e-3)


def test_plain_pictures_are_those_that_are_served(tmp_path: Path) -> None:
    from PIL import Image

    picture = pictures(1, 200)[0]
    served = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BILINEAR))
    found = (augment.plain(picture[np.newaxis], 128)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(found.numpy() - served).max() <= 1.01  # rounding


def test_varied_pictures_depend_on_the_generator_alone() -> None:
    images = pictures(4, 200)
    zoom = augment.ZOOMS["utkface"]
    one, same, other = (
        augment.varied(images, 64, zoom, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert one.min() >= -1
    assert one.max() <= 1


def test_rows_without_labels_do_not_count() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, OUTPUTS, generator=rng)
    attributes, ages = torch.rand(4, 40, generator=rng), torch.rand(4, 100, generator=rng).softmax(1)
    known = torch.tensor([1.0, 1.0, 0.0, 0.0])
    whole = loss(logits, attributes, known, ages, 1 - known)
    changed = logits.clone()
    changed[2:, :40], changed[:2, 40:] = 9, 9
    assert torch.equal(whole, loss(changed, attributes, known, ages, 1 - known))
    assert loss(changed, attributes, 1 - known, ages, known) > whole
    assert torch.isfinite(loss(logits, attributes, 0 * known, ages, 0 * known))


def test_products_of_bfloat16_answer_and_learn_nearly_the_same() -> None:
    """Of every layer, the depthwise ones of stride 2, which stay in float32, too."""
    trained = load(_SHIPPED / "0.25.npz")
    images = augment.plain(pictures(8), 128)

    def gradients(bfloat16: bool) -> Any:
        net = network.from_trained(trained, 128)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features = net.features(images)
        features.float().square().mean().backward()
        return features.detach().float(), [c.weight.grad for c in net.convolutions]

    (exact, exact_gradients), (near, near_gradients) = gradients(False), gradients(True)
    assert not torch.equal(near, exact)
    assert torch.nn.functional.cosine_similarity(near.flatten(), exact.flatten(), dim=0) > 0.999
    for found, wanted in zip(near_gradients, exact_gradients, strict=True):
        assert found.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.9


def test_a_fitted_head_answers_the_training_pictures_better_at_each_resolution(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    faces = load_faces(tmp_path / "data", tmp_path / "pictures", seed=0)
    labels = [from_labels(f.attributes, f.ages) for f in faces]
    before = random_trained(0.25, (64, 32))
    after = with_fitted_head(before, faces, labels, "0.25")
    assert after.convolutions is before.convolutions

    def error(trained: TrainedNetwork, resolution: int) -> float:
        net = network.from_trained(trained, resolution)
        parts = []
        for f, t in zip(faces, labels, strict=True):
            images = np.ascontiguousarray(f.images[f.training_rows])
            parts.append((augment.plain(images, resolution), *map(torch.from_numpy, t.of(f.training_rows))))
        images, *targets = map(torch.cat, zip(*parts, strict=True))
        with torch.no_grad():
            return float(loss(net(images), *targets))

    for resolution in after.resolutions:
        assert error(after, resolution) < 0.9 * error(before, resolution)


def test_a_killed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert _started(tmp_path / "data", unbroken).wait(DEADLINE_S) == 0
    for name in ("teacher", "0.25"):
        process = _started(tmp_path / "data", killed)
        _kill_when(killed / name / "checkpoint.pt", process)
        assert not (killed / name / "trained.npz").exists()
    assert _started(tmp_path / "data", killed).wait(DEADLINE_S) == 0
    for name in ("teacher", "0.25", "0.5"):
        for file in ("trained.npz", "history.json", "metrics.json"):
            assert (killed / name / file).read_bytes() == (unbroken / name / file).read_bytes()
    found = load(unbroken / "0.25" / "trained.npz")
    assert found.resolutions == (64, 32)
    teacher, again = (json.loads((unbroken / n / "history.json").read_text()) for n in ("teacher", "0.5"))
    assert [point["step"] for point in teacher] == [3, 6, 8]
    assert [point["step"] for point in again] == [2]
    assert (unbroken / "curves.svg").read_text().count("alpha 0.25") >= 1
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PLAN, tmp_path / "data", unbroken],
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert "holds another training" in other.stderr


_OTHER_PLAN = """
import sys; from pathlib import Path
from model_store.training.grid import train_faces
from model_store.training.plan import full_grid
train_faces(full_grid(), Path(sys.argv[1]), Path(sys.argv[2]), {})
"""


def _command(data: Path, work: Path) -> list[str]:
    return [sys.executable, "-m", "tests.model_store.training.tiny_run", str(data), str(work)]


def _started(data: Path, work: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(_command(data, work))


def _kill_when(file: Path, process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL as soon as `file` is there."""
    give_up = time.monotonic() + DEADLINE_S
    while not file.exists():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
