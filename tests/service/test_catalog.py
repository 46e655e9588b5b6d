"""What is loaded: plans with several threads, and what happens where there is none."""

from pathlib import Path

import pytest

from bench.random_store import IDS
from model_store.manifest import VariantManifest
from model_store.store import ModelStore, StoreError
from service.catalog import Catalog


def threads_of(catalog: Catalog) -> list[tuple[str, int]]:
    return [(plan.variant.id, plan.threads) for plan in catalog.plans()]


def test_only_the_most_accurate_variant_has_a_plan_with_all_threads(store_dir: Path) -> None:
    found = Catalog.load(ModelStore(store_dir), threads=2)
    assert threads_of(found) == [(IDS[0], 1), (IDS[0], 2), (IDS[1], 1), (IDS[2], 1)]
    (task,) = found.tasks.values()
    assert task.top1 == tuple(plan.variant.top1 for plan in task.plans)
    assert len({plan.key for plan in task.plans}) == 4


@pytest.mark.parametrize(("fast_ms", "kept"), [(8.0, True), (8.1, False)])
def test_a_plan_that_several_threads_hardly_speed_up_is_left_out(
    store_dir: Path, fast_ms: float, kept: bool
) -> None:
    found = Catalog.load(ModelStore(store_dir), threads=2)
    inference_ms = {plan.key: 10.0 if plan.threads == 1 else fast_ms for plan in found.plans()}
    worthwhile = found.worthwhile(inference_ms)
    assert ((IDS[0], 2) in threads_of(worthwhile)) is kept
    (task,) = worthwhile.tasks.values()
    assert len(task.top1) == len(task.plans) == (4 if kept else 3)


class ReplacedMeanwhile(ModelStore):
    """The largest variant is gone when it is opened for the second time."""

    opened = 0

    def open(self, task: str, variant: str) -> tuple[VariantManifest, bytes]:
        if variant == IDS[0]:
            self.opened += 1
            if self.opened > 1:
                raise StoreError("it is being replaced")
        return super().open(task, variant)


def test_a_second_session_that_cannot_be_made_costs_only_its_plan(
    store_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = Catalog.load(ReplacedMeanwhile(store_dir), threads=2)
    assert threads_of(found) == [(name, 1) for name in IDS]
    assert not found.refused
    assert "one thread only: it is being replaced" in caplog.text
