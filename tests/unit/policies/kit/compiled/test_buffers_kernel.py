"""Copies that come too late, one of each kind; whole runs are those of the numpy rule (tests/properties)."""

from __future__ import annotations

import numpy as np

from moesim.policies.kit.compiled.buffers_kernel import BORROWED, LATE, drop_late, wanted_again


def marks(*places: int) -> np.ndarray:
    """[5] 1 at these places."""
    return np.isin(np.arange(5), places).astype(np.uint8)


def test_of_late_copies_those_under_way_are_waited_for_and_those_that_have_landed_are_dropped() -> None:
    """Place 1 is under way, 2 has landed, 3 was called off, 4 has found a use."""
    late, comers, sums, evict = marks(1, 2, 3), np.array([4, 1, 2, 3, 4, 0]), np.array([0, 3]), np.zeros(3, dtype=np.int64)
    drop_late(marks(2), marks(1), late, comers, sums, evict)
    assert (evict.tolist(), comers[: 1 + comers[0]].tolist()) == ([1, 2, 0], [1, 1])
    assert (late.tolist(), sums[LATE]) == (marks(1).tolist(), 1)
    drop_late(marks(), marks(1), late, np.array([0, 1]), sums, evict)
    assert (evict[0], sums[LATE]) == (1, 1), "nothing was late"


def test_a_late_copy_that_is_wanted_takes_a_place_in_the_buffers_again() -> None:
    borrowed, late, sums = marks(), marks(1), np.array([0, 1])
    for place in (1, 2):
        wanted_again(place, borrowed, late, sums)
    assert (borrowed.tolist(), late.tolist()) == (marks(1).tolist(), marks().tolist())
    assert (sums[BORROWED], sums[LATE]) == (1, 0)
