"""The dispatcher where one picture may have the threads of all workers."""

from model_store.profile import DeviceProfile, Quantiles
from service.dispatch import Dispatcher
from service.jobs import Job
from service.latency import Expected, LatencyEstimates
from tests.service.dispatching import admitted, assigned, finished

PARALLEL = [
    Expected("v0", 1.0, 16.0),
    Expected("v0/2 threads", 1.0, 8.0, threads=2),
    Expected("v1", 1.0, 6.0),
]


def parallel_dispatcher() -> Dispatcher:
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in PARALLEL}
    profile = DeviceProfile(device="test", inference=inference)
    return Dispatcher(LatencyEstimates(profile), 2, max_length=100, max_bytes=1 << 30)


def parallel_job(budget: float | None, now: float = 0.0, *, reject: bool = False) -> Job:
    deadline = None if budget is None else now + budget
    return Job(PARALLEL, (0.7, 0.7, 0.6), now, deadline, reject_late=reject)


def test_all_threads_serve_one_request_where_one_thread_would_be_too_slow() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.threads, taken.decision) == (1, 2, "fits")
    # The other worker is kept free for its threads, and whoever comes waits for it.
    admitted(d, [parallel_job(15, 1.0)], 1.0)
    assert d.next(1.0) is None
    late = d.admit(parallel_job(12, 1.0, reject=True), 1.0)
    assert late is not None
    assert not late.full
    finished(d, taken, 9.0)
    assert assigned(d, 9.0).index == 2


def test_one_thread_serves_where_it_is_enough_or_another_request_is_there() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(50)])
    relaxed = assigned(d, 0.0)
    assert (relaxed.index, relaxed.threads) == (0, 1)
    admitted(d, [parallel_job(20)])
    assert assigned(d, 0.0).threads == 1  # one worker is at something
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20), parallel_job(20)])
    assert [assigned(d, 0.0).threads for _ in range(2)] == [1, 1]


def test_a_failed_run_of_all_threads_frees_the_workers() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20), parallel_job(None)])
    d.cancel(list(d._queue)[1])
    taken = assigned(d, 0.0)
    assert taken.threads == 2
    d.finish(taken, 3.0, None)
    admitted(d, [parallel_job(20, 3.0)], 3.0)
    assert assigned(d, 3.0).threads == 2
