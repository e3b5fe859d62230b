"""Buffers of prefetching policies: how many there may be, and what is evicted beside what a cache evicts."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES, Moves
from moesim.policies.kit.placement import SizedPolicy
from moesim.policies.kit.prefetch_buffers import buffer_slots, with_evicted


@pytest.mark.parametrize(
    ("free", "requested", "modest", "slots"),
    [
        (23.5, 4, False, 4), (23.5, 40, False, 23), (24.5, 4, False, 0), (23.5, 4, True, 2), (23.5, 1, True, 1),
        (7.5, 4, True, 1), (0.5, 4, True, 0), (0.5, 4, False, 0), (-3.0, 4, True, 0),
    ],
)  # fmt: skip
def test_buffers_take_what_fits_an_eighth_of_it_if_modest_and_none_where_all_experts_fit(
    free: float, requested: int, modest: bool, slots: int
) -> None:
    """The small model has 24 experts; `free` is the room for experts, in experts."""
    roomy = tiny.problem(tiny.system(hbm=tiny.GB))
    cut, size = SizedPolicy().cut(roomy), roomy.model.expert_bytes
    work = tiny.problem(tiny.system(hbm=tiny.GB - roomy.gpu_free(cut) + free * size))
    assert buffer_slots(work, cut, requested, modest=modest) == slots


def test_further_evictions_follow_those_of_the_cache() -> None:
    pairs, own = np.array([[1, 2]]), np.array([[0, 5]])
    assert with_evicted(NO_MOVES, pairs[:0]) is NO_MOVES
    first = with_evicted(Moves(keep=np.array([3])), pairs)
    assert first.evict is not None
    assert (first.evict.tolist(), first.keep.tolist() if first.keep is not None else None) == ([[1, 2]], [3])
    both = with_evicted(Moves(evict=own), pairs)
    assert both.evict is not None
    assert both.evict.tolist() == [[0, 5], [1, 2]]
