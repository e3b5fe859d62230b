"""FreeToken: round(q m) of m misses cross PCIe, the CPU computes the others. Source: arXiv:2608.16157 and its code."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES
from moesim.errors import InputError
from moesim.policies.in_place.freetoken import FreeToken

WORK = tiny.problem(tiny.system(hbm=0.1e9))
"""GPU memory for nine experts."""
GPU, CPU = WORK.attending_index, WORK.cpu_index


def started(*here: list[int], **keys: Any) -> tuple[FreeToken, Any]:
    policy = FreeToken(**keys)
    return policy, tiny.with_residents(tiny.first_placement(policy, WORK)[1], *here)


def test_q_is_the_link_s_part_of_what_link_and_cpu_move_together() -> None:
    # an expert of 6.29 MB crosses in 6.29 MB / 25 GB/s + 10 us (and 0.1 us): 24.0 GB/s; the CPU reads it at 200 GB/s
    link, cpu = 6.291456e6 / (6.291456e6 / 25e9 + 10.1e-6), 200e9
    assert tiny.first_placement(FreeToken(), WORK)[0].state.share == pytest.approx(link / (link + cpu), rel=1e-3)
    assert tiny.first_placement(FreeToken(share=0.3), WORK)[0].state.share == 0.3


@pytest.mark.parametrize(("both_from", "alone"), [(2.0, False), (8.3, False), (8.4, True), (100.0, True)])
def test_the_cpu_is_left_out_where_it_moves_little_more_than_the_link(both_from: float, alone: bool) -> None:
    """199.9 / 24.0 GB/s = 8.32."""
    assert (tiny.first_placement(FreeToken(both_from=both_from), WORK)[0].state.share == 1.0) == alone


@pytest.mark.parametrize(
    ("share", "fetched"),
    [(0.0, []), (0.125, []), (0.25, [5]), (0.5, [5, 1]), (0.6, [5, 1]), (0.75, [5, 1, 6]), (1.0, [5, 1, 6, 7])],
)
def test_so_large_a_part_of_four_misses_is_fetched_those_with_most_tokens(share: float, fetched: list[int]) -> None:
    policy, view = started([0], share=share)
    chosen = policy.dispatch(tiny.timed_visit(view, [9, 4, 0, 0, 0, 6, 3, 2]), view).device
    assert [expert for expert in (5, 1, 6, 7) if chosen[expert] == GPU] == fetched
    assert chosen[0] == GPU
    assert all(chosen[expert] == CPU for expert in (1, 5, 6, 7) if expert not in fetched)


def test_what_the_cpu_cannot_reach_is_fetched_and_a_visit_without_misses_takes_no_cpu() -> None:
    policy, view = started([0, 1], share=0.0)
    assert policy.dispatch(tiny.timed_visit(view, [1, 1, 0, 1, 0, 0, 0, 0], cpu=np.inf), view).device[3] == GPU
    assert policy.dispatch(tiny.timed_visit(view, [1, 1] + [0] * 6), view).device.tolist() == [GPU] * 8


def test_a_prompt_streams_the_whole_layer_past_the_pool() -> None:
    policy, view = started([0, 3])
    clock = view.state.pool.clock
    chosen = policy.dispatch(tiny.timed_visit(view, [9, 0, 0, 3, 0, 0, 0, 4], phase="prefill"), view)
    assert chosen.load is not None
    assert np.flatnonzero(chosen.load).tolist() == [1, 2, 4, 5, 6, 7]
    assert chosen.device.tolist() == [GPU] * 8
    assert view.state.pool.clock == clock
    assert policy.adapt(tiny.step_of(0, [9, 0, 0, 3, 0, 0, 0, 4], [7], "prefill"), view) is NO_MOVES


def test_what_was_fetched_stays_and_the_least_recently_used_of_any_layer_leaves() -> None:
    policy, view = started([0, 1, 2], [0, 1, 2], [0, 1, 2])  # nine, as many as the pool has
    assert view.state.pool.slots == 9
    for layer, counts in ((0, [1, 1, 0]), (1, [1, 0, 1]), (2, [1, 1, 1])):
        policy.dispatch(tiny.timed_visit(view, counts + [0] * 5, layer=layer), view)
    # never used: (0, 2) and (1, 1); the profile ranks the former fourth of its layer, the latter third
    policy.dispatch(tiny.timed_visit(view, [0, 0, 0, 0, 0, 2, 0, 0], layer=2), view)
    moves = policy.adapt(tiny.step_of(2, [0, 0, 0, 0, 0, 2, 0, 0], [5]), view)
    assert moves.keep is not None
    assert moves.evict is not None
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([5], [[0, 2]])


def test_it_fills_the_pool_by_the_profile_and_asks_for_a_cpu() -> None:
    deployment, _ = tiny.first_placement(FreeToken(), WORK)
    assert int(deployment.resident.sum()) == deployment.state.pool.slots == 9
    assert WORK.popularity[deployment.resident].min() >= np.sort(WORK.popularity.ravel())[-9]
    with pytest.raises(InputError, match="no CPU that computes"):
        FreeToken().deploy(tiny.problem(tiny.system(cpu=False)))
