"""The queue alone: order, limits, removal."""

from hypothesis import given
from hypothesis import strategies as st

from service.deadline_queue import DeadlineQueue
from service.jobs import Job

# Few deadlines, so that many are the same.
_PUSHED = st.tuples(st.just("push"), st.integers(0, 4), st.integers(0, 50))
_TAKEN = st.tuples(st.sampled_from(["pop", "remove"]), st.integers(0, 30), st.just(0))


def waiting(due: float, size_bytes: int) -> Job:
    job = Job([], (), 0.0, due, size_bytes)
    job.due = due
    return job


@given(st.lists(_PUSHED | _TAKEN, max_size=80))
def test_it_is_a_sorted_list_of_jobs(operations: list[tuple[str, int, int]]) -> None:
    queue = DeadlineQueue(max_length=20, max_bytes=400)
    model: list[Job] = []
    for operation, number, size_bytes in operations:
        if operation == "push":
            room = len(model) < 20 and sum(j.size_bytes for j in model) + size_bytes <= 400
            assert queue.has_room(size_bytes) == room
            job = waiting(number, size_bytes)
            assert queue.ahead(number) == sum(j.due <= number for j in model)
            queue.push(job)
            model = sorted([*model, job], key=lambda j: j.due)  # stable
        elif operation == "pop" and model:
            assert queue.pop() is model.pop(0)
        elif operation == "remove" and model:
            gone = model.pop(number % len(model))
            assert queue.remove(gone)
            assert not queue.remove(gone)
        assert list(queue.jobs) == model
        assert queue.first is (model[0] if model else None)
        assert (len(queue), queue.size_bytes) == (len(model), sum(j.size_bytes for j in model))
