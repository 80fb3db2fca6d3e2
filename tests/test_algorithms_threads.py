"""Parts of the job axis side by side: equal cuts, results in order, the first part on the calling thread."""

import threading
import time

import pytest
from threadpoolctl import threadpool_info

from merpo import precision
from merpo.algorithms.threads import cuts, side_by_side


@pytest.mark.parametrize(("jobs", "parts", "expected"), [(6, 2, 2), (6, 4, 3), (5, 2, 1), (1, 8, 1), (4, 0, 1)])
def test_cuts_are_equal_and_cover_the_axis(jobs, parts, expected):
    found = cuts(jobs, parts)
    assert len(found) == expected
    assert [i for c in found for i in range(jobs)[c]] == list(range(jobs))
    assert len({c.stop - c.start for c in found}) == 1


def test_parts_run_at_the_same_time_and_keep_their_order():
    """Each waits for all others: one after another they would never end."""
    meeting, here = threading.Barrier(3, timeout=20), threading.get_ident()

    def work(part):
        meeting.wait()
        return part, threading.get_ident()

    found = side_by_side(work, [1, 2, 3])
    assert [part for part, _ in found] == [1, 2, 3]
    assert found[0][1] == here
    assert len({thread for _, thread in found}) == 3


def test_an_error_in_any_part_is_raised():
    def work(part):
        if part == 1:
            raise ValueError("part 1")
        return part

    with pytest.raises(ValueError, match="part 1"):
        side_by_side(work, [0, 1])
    with pytest.raises(ValueError, match="part 1"):
        side_by_side(work, [1, 0])


def test_a_precision_holds_in_every_part():
    """JAX keeps such settings per thread."""
    before = precision.ambient()
    with precision.use("highest"):
        assert side_by_side(lambda _: precision.ambient(), [1, 2, 3]) == ["highest"] * 3
    assert side_by_side(lambda _: precision.ambient(), [1, 2, 3]) == [before] * 3


def test_no_more_at_once_than_asked_for_and_in_the_order_of_the_parts():
    lock, running, most = threading.Lock(), [0], [0]

    def work(part):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return part * part

    assert side_by_side(work, list(range(8)), 2) == [i * i for i in range(8)]
    assert most[0] == 2
    limits = side_by_side(lambda _: [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"], [0, 1], 2)
    assert limits
    assert all(n == 1 for found in limits for n in found)
    assert side_by_side(work, list(range(3)), 1) == [0, 1, 4]
