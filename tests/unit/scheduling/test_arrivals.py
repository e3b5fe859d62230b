"""Requests in the order of their arrivals, and sequences that exist for as long as they are in use."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.scheduling.arrivals import Arrivals, Requests
from moesim.workload.table import Job


def taken(arrivals: Arrivals) -> list[tuple[int, int]]:
    """All that come, in order."""
    coming = []
    while arrivals.next is not None:
        coming.append(arrivals.next)
        assert arrivals.take() == coming[-1]
    return coming


def test_requests_arrive_by_time_and_then_by_number() -> None:
    arrivals = Arrivals(np.array([5, 3, 5, -1, 3, 0]))
    assert arrivals.following(3) == [(0, 5), (3, 1), (3, 4)]
    assert taken(arrivals) == [(0, 5), (3, 1), (3, 4), (5, 0), (5, 2)]
    assert arrivals.following(3) == []


def test_requests_that_are_added_come_between_the_others() -> None:
    arrivals = Arrivals(np.array([4, 9, -1, -1, -1]))
    arrivals.add(9, 3)
    arrivals.add(2, 2)
    assert arrivals.take() == (2, 2)
    arrivals.add(11, 4)
    assert taken(arrivals) == [(4, 0), (9, 1), (9, 3), (11, 4)]
    arrivals.add(1, 0)
    assert arrivals.next == (1, 0), "after all others, too"


def test_a_request_is_one_sequence_for_as_long_as_it_is_in_use() -> None:
    job = Job(np.zeros(3), np.array([5, 6, 7]), np.array([1, 2, 3]), layers=1, priority=np.array([0, 1, 0]))
    requests = Requests(job)
    held = requests[1]
    held.sampled = 2
    assert requests[1] is held
    assert (held.number, held.prompt, held.output, held.priority, held.shared) == (1, 6, 2, 1, ())
    del held
    assert requests[1].sampled == 0, "it was gone"
    assert len(requests._present) == 0
    assert [sequence.prompt for sequence in requests[1:]] == [6, 7]
    assert len(list(requests)) == len(requests) == 3
    with pytest.raises(IndexError):
        requests[3]
