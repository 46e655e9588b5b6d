"""All networks of a task, one after the other: a teacher from labels, and pupils from what it answers.

    <work>/pictures/            the data, decoded
    <work>/plan.json            what this folder trains; another plan needs another folder
    <work>/teacher/             checkpoint.pt, history.json, and when done trained.npz and metrics.json
    <work>/answers.npz          what the teacher answers on all training pictures
    <work>/<alpha>/             as teacher/, of each pupil
    <work>/curves.svg           learning curves

What is done is not done again: after a kill, the same call goes on.
"""

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_store import atomic
from model_store.device import keep_all_freed_memory
from model_store.faces import OUTPUTS
from model_store.graph import build_classifier
from model_store.progress import track
from model_store.runtime import OnnxSession
from model_store.trained import TrainedNetwork, load, save_bytes
from model_store.training.augment import plain, resized
from model_store.training.curves import draw_curves
from model_store.training.head import with_fitted_head
from model_store.training.labels import DataError
from model_store.training.loop import Source, Trainer, evaluate, fit, rows_of_step
from model_store.training.network import MobileNet, copied, from_trained, start_from, to_trained
from model_store.training.pictures import FaceSet, load_faces
from model_store.training.plan import Plan, Training
from model_store.training.slicing import slice_width
from model_store.training.targets import Targets, distilled, from_labels
from model_store.weights import NetworkWeights

_START_PICTURES = 256
_START_RESOLUTION = 128
_ANSWER_BATCH = 16


def train_faces(
    plan: Plan, data: Path, work: Path, starts: Mapping[float, NetworkWeights]
) -> dict[float, Path]:
    """Trains, or goes on with, the grid of `plan`; by alpha the file of `trained` that is kept.

    `starts` are trained networks whose bodies are taken over, by alpha: the teacher needs one, a pupil
    without one starts from the teacher's most important channels, and one as wide as the teacher from the
    teacher as it is. Raises DataError.
    """
    _claim(work, plan)
    keep_all_freed_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it; a fifth of the time
    faces = load_faces(data, work / "pictures", plan.seed)
    labels = [from_labels(f.attributes, f.ages) for f in faces]
    if plan.teacher.alpha not in starts:
        raise DataError(f"the teacher starts from weights of alpha {plan.teacher.alpha}: they are missing")
    start = partial(_started, plan, plan.teacher, starts[plan.teacher.alpha], faces)
    teacher = _train_one(plan, plan.teacher, start, faces, labels, labels, work / "teacher")
    files = {plan.teacher.alpha: teacher}
    if plan.pupils:
        trained = load(teacher)
        answers = _teacher_answers(plan, trained, faces, work / "answers.npz")
        targets = [distilled(*pair) for pair in zip(labels, answers, strict=True)]
        for training in plan.pupils:
            start = partial(_pupil, plan, training, trained, starts, faces)
            folder = work / str(training.alpha)
            files[training.alpha] = _train_one(plan, training, start, faces, labels, targets, folder)
    return files


def _started(
    plan: Plan, training: Training, weights: NetworkWeights, faces: tuple[FaceSet, ...]
) -> MobileNet:
    network = MobileNet(training.alpha, training.dropout)
    start_from(network, weights, _start_pictures(faces, plan.seed), plan.seed)
    return network


def _pupil(
    plan: Plan,
    training: Training,
    teacher: TrainedNetwork,
    starts: Mapping[float, NetworkWeights],
    faces: tuple[FaceSet, ...],
) -> MobileNet:
    alpha, resolution = training.alpha, teacher.resolutions[-1]
    if alpha == teacher.alpha:
        return copied(teacher, resolution, training.dropout)
    return _started(plan, training, starts.get(alpha) or slice_width(teacher.at(resolution), alpha), faces)


def _train_one(
    plan: Plan,
    training: Training,
    start: Callable[[], MobileNet],
    faces: tuple[FaceSet, ...],
    labels: list[Targets],
    targets: list[Targets],
    folder: Path,
) -> Path:
    """Trains one network on `targets`, and its head once more on `labels`; its file."""
    folder.mkdir(exist_ok=True)
    finished = folder / "trained.npz"
    if finished.is_file():
        return finished
    sources = [Source(f, t) for f, t in zip(faces, targets, strict=True)]
    trainer = Trainer(plan, training, sources, start(), folder)

    def show(history: list[dict[str, Any]]) -> None:
        atomic.write(folder / "history.json", (json.dumps(history, indent=1) + "\n").encode())
        draw_curves(folder.parent)

    trainer.run(show)
    average = trainer.average
    trained = to_trained(average, plan.resolutions, lambda resolution: fit(average, faces, resolution, plan))
    trained = with_fitted_head(trained.rounded(), faces, labels, folder.name)
    metrics = _metrics(trained.rounded(), faces, folder.name)
    atomic.write(folder / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    atomic.write(finished, save_bytes(trained))  # last: it says that the rest is there
    return finished


def _metrics(trained: TrainedNetwork, faces: tuple[FaceSet, ...], name: str) -> dict[str, Any]:
    """On all validation pictures, by resolution, with the weights as they are stored."""
    found = {}
    with track(f"evaluate {name}", len(trained.resolutions), unit="resolutions") as tracker:
        for done, resolution in enumerate(trained.resolutions, start=1):
            network = from_trained(trained, resolution)
            found[str(resolution)] = evaluate(network, faces, resolution).as_dict()
            tracker.update(done)
    return found


def _teacher_answers(
    plan: Plan, teacher: TrainedNetwork, faces: tuple[FaceSet, ...], file: Path
) -> list[npt.NDArray[np.float32]]:
    """[N, outputs] of each set, the mean over resolutions and mirror images; 0 for validation pictures, which
    nothing learns from."""
    if not file.is_file():
        # The runtime that serves takes a third of the time that the framework does which trains.
        threads = torch.get_num_threads()
        sessions = {
            resolution: OnnxSession(build_classifier(teacher.at(resolution), "attributes"), threads)
            for resolution in plan.soft_resolutions
        }
        found = {f.name: _answers(sessions, f) for f in faces}
        buffer = io.BytesIO()
        np.savez(buffer, **found)  # type: ignore[arg-type]
        atomic.write(file, buffer.getvalue())
    with np.load(file) as answers:
        return [answers[f.name].astype(np.float32) for f in faces]


def _answers(sessions: Mapping[int, OnnxSession], faces: FaceSet) -> npt.NDArray[np.float16]:
    rows = faces.training_rows
    found = np.zeros((len(faces.images), OUTPUTS), np.float16)
    with track(f"teacher's answers, {faces.name}", len(rows), unit="pictures") as tracker:
        for start in range(0, len(rows), _ANSWER_BATCH):
            part = rows[start : start + _ANSWER_BATCH]
            images = np.ascontiguousarray(faces.images[part])
            answers = []
            for resolution, session in sessions.items():
                pictures = resized(images, resolution)
                answers += [session.run(pictures), session.run(np.ascontiguousarray(pictures[:, :, ::-1]))]
            found[part] = np.mean(answers, axis=0)
            tracker.update(start + len(part))
    return found


def _start_pictures(faces: tuple[FaceSet, ...], seed: int) -> torch.Tensor:
    count = _START_PICTURES // len(faces)
    parts = [f.images[rows_of_step(f, 0, min(count, len(f.training_rows)), seed)] for f in faces]
    return torch.cat([plain(np.ascontiguousarray(part), _START_RESOLUTION) for part in parts])


def _claim(work: Path, plan: Plan) -> None:
    work.mkdir(parents=True, exist_ok=True)
    file, mine = work / "plan.json", json.dumps(asdict(plan), indent=1)
    if file.is_file():
        if json.loads(file.read_text()) != json.loads(mine):
            raise DataError(f"{work} holds another training; choose another folder, or remove it")
        return
    atomic.write(file, mine.encode())
