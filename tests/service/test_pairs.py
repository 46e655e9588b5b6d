"""Two pictures in one run, where nobody has a budget: the dispatcher, and the scheduler with real models."""

import asyncio
import concurrent.futures
import gc
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bench.random_store import IDS
from bench.server import running_server
from model_store import profile as profiling
from model_store.imaging import probe, sample_picture
from model_store.profile import DeviceProfile, Quantiles
from model_store.store import ModelStore
from service import errors
from service.catalog import Catalog, Plan
from service.classification import Classification
from service.clock import now_ms
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import Expected, LatencyEstimates
from service.loading import load_catalog
from service.metrics import Metrics
from service.outcomes import Outcome, Submission
from service.scheduler import Scheduler
from tests.service.dispatching import EXPECTED, TOP1, admitted, assigned, dispatcher, finished

PAIRS = [replace(e, pairs=True) for e in EXPECTED]


def patient(
    now: float = 0.0,
    *,
    pinned: int | None = None,
    budget: float | None = None,
    expected: list[Expected] = PAIRS,
    payload: object = None,
) -> Job:
    deadline = None if budget is None else now + budget
    return Job(expected, TOP1, now, deadline, 10, pinned, payload=payload)


def busy(d: Dispatcher) -> None:
    """Every worker but one is at something."""
    for _ in range(d.workers - 1):
        admitted(d, [patient(pinned=0)])
        assert assigned(d, 0.0).second is None


def test_two_that_wait_without_a_budget_are_answered_by_one_run() -> None:
    d = dispatcher(2)
    busy(d)
    first, second, third = admitted(d, [patient(), patient(), patient()])
    taken = assigned(d, 0.0)
    assert [part.job for part in taken.parts] == [first, second]
    assert taken.second is not None
    for part in taken.parts:
        assert (part.index, part.decision, part.started) == (0, "unbounded", 0.0)
    # The same is expected of both: the work of both, and the bound beyond it.
    assert (taken.median_ms, taken.bound_ms) == (taken.second.median_ms, taken.second.bound_ms)
    assert taken.median_ms > 2 * EXPECTED[0].service_ms
    assert taken.expected.service_ms == 2 * EXPECTED[0].service_ms
    assert (len(d), d.queued_bytes, d.running) == (1, 10, 2)
    assert not d.cancel(second)
    finished(d, taken, 30.0)
    assert assigned(d, 30.0).job is third
    assert len(d) == 0


def test_pinned_or_not_they_pair_by_the_plan() -> None:
    d = dispatcher(1)
    jobs = [patient(), patient(pinned=0), patient(pinned=2), patient(pinned=3), patient(pinned=3)]
    admitted(d, jobs)
    runs = []
    now = 0.0
    while len(d):
        taken = assigned(d, now)
        runs.append([(part.index, part.decision) for part in taken.parts])
        now += taken.expected.service_ms
        finished(d, taken, now)
    assert runs == [[(0, "unbounded"), (0, "pinned")], [(2, "pinned")], [(3, "pinned"), (3, "pinned")]]


@pytest.mark.parametrize(
    "second",
    [
        patient(expected=list(EXPECTED)),
        patient(pinned=1),
        patient(budget=20_000),
        patient(expected=[replace(e, decode_ms=40.0) for e in PAIRS]),
    ],
    ids=["cannot pair", "another plan", "has a budget", "takes much longer"],
)
def test_they_stay_apart(second: Job) -> None:
    d = dispatcher(1)
    first, other = admitted(d, [patient(), second])
    taken = assigned(d, 0.0)
    assert (taken.job, taken.second) == (first, None)
    finished(d, taken, 17.0)
    assert assigned(d, 17.0).job is other


def test_one_for_whom_a_worker_is_free_is_left_to_it() -> None:
    d = dispatcher(2)
    admitted(d, [patient(), patient()])
    assert [assigned(d, 0.0).second for _ in range(2)] == [None, None]


def test_they_stay_apart_while_those_in_a_hurry_come() -> None:
    """Who has 35 ms would get less after a wait for two runs of 17; the latest 64 tell."""

    def pairs_after(budgets: Sequence[float | None]) -> bool:
        d = dispatcher(1)
        for i, budget in enumerate(budgets):
            admitted(d, [patient(100.0 * i, budget=budget)], 100.0 * i)
            finished(d, assigned(d, 100.0 * i), 100.0 * i + 20)
        now = 100.0 * len(budgets)
        admitted(d, [patient(now), patient(now)], now)
        return assigned(d, now).second is not None

    assert not pairs_after([35.0])
    assert not pairs_after([35.0, *[None] * 60])
    assert pairs_after([35.0, *[None] * 62])
    assert pairs_after([1000.0, None])


@pytest.mark.parametrize(("ratio", "pays"), [(1.1, False), (1.0, False), (0.95, True)])
def test_they_stay_apart_on_a_device_where_one_run_for_two_spares_nothing(ratio: float, pays: bool) -> None:
    d = dispatcher(1)
    now = 0.0
    together = []
    for _ in range(800):
        admitted(d, [patient(now), patient(now)], now)
        while len(d):
            taken = assigned(d, now)
            together.append(taken.second is not None)
            now += taken.expected.service_ms * (ratio if taken.second is not None else 1.0)
            finished(d, taken, now)
    assert sum(together[:200]) > 100  # it is tried
    share = sum(together[-500:]) / 500
    assert share > 0.85 if pays else share < 0.2


def test_what_a_pair_takes_is_learned_apart_from_single_runs() -> None:
    d = dispatcher(1)
    now = 0.0
    pairs: list[Assignment] = []
    for _ in range(40):
        admitted(d, [patient(now), patient(now)], now)
        while len(d):
            taken = assigned(d, now)
            faster = 0.8 if taken.second is not None else 1.0
            now += faster * taken.expected.service_ms
            d.finish(taken, now, faster * taken.expected.inference_ms)
            pairs += [taken] * (taken.second is not None)
    assert pairs[0].median_ms > 34.0
    assert pairs[-1].median_ms == pytest.approx(0.8 * 34.0, abs=1.0)
    assert d.estimates.live("v0") is None  # of single runs there were too few


def test_who_is_held_up_for_one_in_a_hurry_is_so_in_both_parts() -> None:
    d = dispatcher(1, preempts=True)
    admitted(d, [patient(), patient()])
    taken = assigned(d, 0.0)
    assert len(taken.parts) == 2
    admitted(d, [patient(1.0, budget=15)], 1.0)
    ahead = d.next_ahead()
    assert ahead is not None
    assert ahead.ahead_of is taken.job
    held = [part.job.held_up_ms for part in taken.parts]
    assert held[0] == held[1] > 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 40), st.none() | st.floats(5, 300), st.none() | st.integers(0, 3), st.booleans()
        ),
        max_size=80,
    ),
    st.integers(1, 3),
)
def test_everyone_is_answered_once_and_only_alike_requests_without_a_budget_pair(
    arrivals: Sequence[tuple[float, float | None, int | None, bool]], workers: int
) -> None:
    d = dispatcher(workers)
    answered: Counter[object] = Counter()
    runs: list[tuple[float, int]] = []
    going: dict[int, Assignment] = {}
    now = 0.0

    def advance(until: float) -> None:
        while runs and runs[0][0] <= until:
            end, which = runs.pop(0)
            done = going.pop(which)
            finished(d, done, end)
            answered.update(part.job.payload for part in done.parts)
            fill(end)

    def fill(at: float) -> None:
        while d.running < workers and len(d):
            taken = assigned(d, at)
            if taken.second is not None:
                assert len({part.job.expected[part.index].key for part in taken.parts}) == 1
                for part in taken.parts:
                    assert part.job.deadline is None
                    assert part.job.expected[part.index].pairs
            going[id(taken)] = taken
            runs.append((at + taken.expected.service_ms, id(taken)))
            runs.sort()

    for number, (gap, budget, pinned, pairs) in enumerate(arrivals):
        now += gap
        advance(now)
        expected = PAIRS if pairs else list(EXPECTED)
        new = patient(now, pinned=pinned, budget=budget, expected=expected, payload=number)
        assert d.admit(new, now) is None
        fill(now)
    advance(1e9)
    assert answered == Counter(range(len(arrivals)))
    assert len(d) == d.running == d.queued_bytes == 0


@pytest.fixture(scope="module")
def catalog(store_dir: Path) -> Catalog:
    return load_catalog(ModelStore(store_dir))


@pytest.fixture
def dispatching(catalog: Catalog) -> Dispatcher:
    costs = profiling.DecodeCost(base_ms=1, per_megapixel_ms=5, per_megabyte_ms=5)
    decode = {profiling.decode_key("JPEG", scale): costs for scale in (1, 2, 4, 8)}
    inference = {v.key: Quantiles(p50=10, p95=11) for v in catalog.variants()}
    profile = DeviceProfile(device="test", inference=inference, decode=decode)
    return Dispatcher(LatencyEstimates(profile), 1, max_length=50, max_bytes=1 << 20)


FIRST, SECOND = (sample_picture("JPEG", 300, 200, grain=grain) for grain in (0, 24))


def classification(catalog: Catalog, data: bytes) -> Classification:
    return Classification(catalog.tasks["imagenet"], data, probe(FIRST, 1 << 20))


def served(dispatching: Dispatcher, works: Sequence[Classification]) -> list[object]:
    """All wait when the worker starts."""
    scheduler = Scheduler(dispatching, Metrics())

    async def serve() -> list[object]:
        submissions = (Submission(work, now_ms(), None, reject_late=False) for work in works)
        runs = [asyncio.ensure_future(scheduler.run(each)) for each in submissions]
        await asyncio.sleep(0)
        assert len(dispatching) == len(works)
        scheduler.start()
        return list(await asyncio.gather(*runs, return_exceptions=True))

    found = asyncio.run(serve())
    scheduler.stop()
    assert dispatching.running == len(dispatching) == 0
    return found


def test_both_answers_are_those_of_single_runs(catalog: Catalog, dispatching: Dispatcher) -> None:
    alone = [served(dispatching, [classification(catalog, data)]) for data in (FIRST, SECOND)]
    pair = served(dispatching, [classification(catalog, data) for data in (FIRST, SECOND)])
    for (one,), both in zip(alone, pair, strict=True):
        assert isinstance(one, Outcome)
        assert isinstance(both, Outcome)
        np.testing.assert_allclose(both.result.scores, one.result.scores, rtol=1e-4, atol=1e-7)
        assert both.result.size == one.result.size == (300, 200)
        assert both.variant is one.variant
    first, second = pair
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert first.assignment.second is second.assignment
    assert first.finished == second.finished
    assert not np.allclose(first.result.scores, second.result.scores, rtol=1e-3)


@pytest.mark.parametrize("broken", [(0,), (1,), (0, 1)])
def test_a_broken_picture_leaves_the_other_alone(
    catalog: Catalog, dispatching: Dispatcher, broken: tuple[int, ...]
) -> None:
    data = [FIRST[: len(FIRST) // 2] if i in broken else SECOND for i in range(2)]
    found = served(dispatching, [classification(catalog, each) for each in data])
    assert [isinstance(each, errors.UnreadableImage) for each in found] == [i in broken for i in range(2)]
    for each in found:
        if isinstance(each, Outcome):  # learned as what it was
            assert each.ran.expected.key == each.variant.key


def test_pictures_of_a_pair_do_not_outlive_their_answers(catalog: Catalog, dispatching: Dispatcher) -> None:
    gc.disable()  # which would find them, later
    try:
        works = [classification(catalog, data) for data in (FIRST, SECOND)]
        alive = [weakref.ref(work) for work in works]
        found = served(dispatching, works)
        assert len(found) == 2
        del works, found
        assert [each() for each in alive] == [None, None]
    finally:
        gc.enable()


def test_what_comes_and_goes_or_is_compiled_for_a_shape_never_pairs(catalog: Catalog) -> None:
    variant = catalog.variants()[0]

    class Elsewhere:
        provider = "OpenVINOExecutionProvider"

    assert Plan(variant, variant.session).pairs
    assert not Plan(variant, variant.session, threads=2).pairs
    assert not Plan(variant, Elsewhere()).pairs  # type: ignore[arg-type]


def test_a_server_answers_each_with_what_its_own_picture_shows(store_dir: Path, state_dir: Path) -> None:
    data = [sample_picture("JPEG", 200 + 8 * i, 200, grain=i) for i in range(8)]
    with running_server(store_dir, state_dir, threads="1") as running:

        def ask(i: int) -> dict[int, float]:
            url = f"{running.base_url}/v1/classify"
            answer = httpx.post(url, params={"variant": IDS[-1], "top_k": 3}, content=data[i % 8], timeout=60)
            assert answer.status_code == 200
            return {each["index"]: each["score"] for each in answer.json()["predictions"]}

        alone = [ask(i) for i in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, range(160)))
        samples = text_string_to_metric_families(httpx.get(f"{running.base_url}/metrics").text)
    counted = next(s.value for family in samples for s in family.samples if s.name == "mobilenet_pairs_total")
    assert counted > 10
    for i, found in enumerate(together):
        assert found == pytest.approx(alone[i % 8], abs=1e-5)
