"""One network from its start to its last step, over as many runs as it takes.

What happens in a step depends on the seed and the step alone, so that a run that was killed and goes on from
its checkpoint ends where an unbroken one does.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_store import atomic
from model_store.device import multiplies_bfloat16
from model_store.faces import OUTPUTS
from model_store.progress import track
from model_store.training.augment import ZOOMS, plain, varied
from model_store.training.losses import loss
from model_store.training.metrics import FaceMetrics, measure
from model_store.training.network import MobileNet, fit_statistics, scores
from model_store.training.pictures import FaceSet
from model_store.training.plan import Plan, Training
from model_store.training.targets import Targets

_BETAS = (0.9, 0.99)
_EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set and what is to be learnt of it."""

    faces: FaceSet
    targets: Targets


class Trainer:
    """Trains `network`; the weights' moving average, which is what is kept, is `average`.

    Where the CPU has instructions for it, a step's products are of bfloat16, in 0.55 to 0.73 of the time.
    Weights, their sums and all that is measured stay in float32.
    """

    def __init__(
        self, plan: Plan, training: Training, sources: Sequence[Source], network: MobileNet, folder: Path
    ) -> None:
        self._plan, self._training, self._sources = plan, training, sources
        self._checkpoint = folder / "checkpoint.pt"
        self._network = network.to(memory_format=torch.channels_last)
        self.average = MobileNet(training.alpha).to(memory_format=torch.channels_last)
        self.average.load_state_dict(network.state_dict())
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(network, training.weight_decay), lr=training.rate(0), betas=_BETAS
        )
        self._bfloat16 = multiplies_bfloat16()
        self._step = 0
        self._losses: list[float] = []  # since the last validation
        self.history: list[dict[str, Any]] = []

    def run(self, on_progress: Callable[[list[dict[str, Any]]], None] = lambda history: None) -> None:
        """To the last step, from the checkpoint where there is one; `on_progress` gets the curve so far."""
        if self._checkpoint.is_file():
            self._restore()
        saved, total = time.monotonic(), self._training.steps
        with track(f"train {self._checkpoint.parent.name}", total, unit="steps") as tracker:
            while self._step < total:
                tracker.update(self._step)
                self._losses.append(self._one_step())
                self._step += 1
                if self._step % self._plan.validate_every == 0 or self._step == total:
                    self._validate()
                    on_progress(self.history)
                if time.monotonic() - saved >= self._plan.checkpoint_every_s or self._step == total:
                    self._save()
                    saved = time.monotonic()

    def _one_step(self) -> float:
        seed, step, training = self._plan.seed, self._step, self._training
        generator = torch.Generator().manual_seed(_mixed(seed, 2, round(100 * training.alpha), step))
        torch.manual_seed(_mixed(seed, 3, round(100 * training.alpha), step))  # dropout
        resolution = training.resolution(step, seed)
        pictures, *targets = _joined(
            [self._batch(which, resolution, generator) for which in range(len(self._sources))]
        )
        for group in self._optimizer.param_groups:
            group["lr"] = training.rate(step)
        self._network.train()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(pictures)
        error = loss(logits.float(), *targets)
        error.backward()
        self._optimizer.step()
        self._follow()
        return float(error.detach())

    def _batch(self, which: int, resolution: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        source = self._sources[which]
        count = self._plan.batch // len(self._sources)
        rows = rows_of_step(source.faces, self._step, count, self._plan.seed)
        images = np.ascontiguousarray(source.faces.images[rows])
        return (
            varied(images, resolution, ZOOMS[source.faces.name], generator),
            *map(torch.from_numpy, source.targets.of(rows)),
        )

    def _follow(self) -> None:
        """The average goes a little towards the network; at the start, faster."""
        share = 1 - min(self._training.averaging, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            torch._foreach_lerp_(
                [p.data for p in self.average.parameters()],
                [p.data for p in self._network.parameters()],
                share,
            )

    def _validate(self) -> None:
        faces = [source.faces for source in self._sources]
        resolution = self._plan.validation_resolution
        fit(self.average, faces, resolution, self._plan)
        found = evaluate(self.average, faces, resolution, self._plan.validation_pictures)
        self.history.append(
            {
                "step": self._step,
                "loss": round(float(np.mean(self._losses)), 4),
                "mean_accuracy": found.mean_accuracy,
                "mean_average_precision": found.mean_average_precision,
                "age_error_years": found.age_error_years,
            }
        )
        self._losses.clear()

    def _save(self) -> None:
        buffer = io.BytesIO()
        state = {
            "step": self._step,
            "losses": self._losses,
            "history": self.history,
            "network": self._network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, buffer)
        atomic.write(self._checkpoint, buffer.getvalue())

    def _restore(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self._network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._losses, self.history = state["step"], state["losses"], state["history"]


def fit(network: MobileNet, faces: Sequence[FaceSet], resolution: int, plan: Plan) -> None:
    """Fits BatchNorm's statistics at `resolution` on training pictures of all sets, always the same ones."""
    count = plan.batch // len(faces)

    def batches() -> Iterator[torch.Tensor]:
        for step in range(plan.statistics_batches):
            parts = [f.images[rows_of_step(f, step, count, plan.seed)] for f in faces]
            yield torch.cat([plain(np.ascontiguousarray(part), resolution) for part in parts]).contiguous(
                memory_format=torch.channels_last
            )

    fit_statistics(network, batches())


def evaluate(
    network: MobileNet, faces: Sequence[FaceSet], resolution: int, most: int | None = None
) -> FaceMetrics:
    """On validation pictures, or on `most` of them, spread evenly over the sets."""
    answers, attributes, ages = [], [], []
    for f in faces:
        rows = f.validation_rows
        if most is not None:
            rows = rows[:: max(1, len(rows) * len(faces) // most)]
        answers.append(answer(network, f.images, rows, resolution))
        attributes.append(f.attributes[rows])
        ages.append(f.ages[rows])
    return measure(np.concatenate(answers), np.concatenate(attributes), np.concatenate(ages))


def answer(
    network: MobileNet,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    resolution: int,
) -> npt.NDArray[np.float32]:
    """[rows, outputs] probabilities of plain pictures."""
    found = np.empty((len(rows), OUTPUTS), np.float32)
    network.eval()
    with torch.no_grad():
        for start in range(0, len(rows), _EVALUATION_BATCH):
            part = rows[start : start + _EVALUATION_BATCH]
            pictures = plain(np.ascontiguousarray(images[part]), resolution)
            found[start : start + len(part)] = scores(network, pictures).numpy()
    return found


def rows_of_step(faces: FaceSet, step: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Training rows of one step: each epoch takes all pictures once, in an order of its own, but for what
    does not fill a batch."""
    rows = faces.training_rows
    per_epoch = max(1, len(rows) // count)
    epoch, part = divmod(step, per_epoch)
    order = _order(len(rows), seed, epoch)
    return np.sort(rows[order[part * count : (part + 1) * count]])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 0, count, epoch]).permutation(count)


def _joined(batches: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    pictures, *targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return [pictures.contiguous(memory_format=torch.channels_last), *targets]


def _parameter_groups(network: MobileNet, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for kernels, save depthwise ones, which have few weights (the paper, section 3)."""
    decayed = [p for p in network.parameters() if p.ndim > 1 and p.shape[1:] != (1, 3, 3)]
    chosen = {id(p) for p in decayed}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _mixed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
