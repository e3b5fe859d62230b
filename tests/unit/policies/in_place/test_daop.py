"""DAOP: swaps of a prompt, substitutes of a decode, and who computes what. Source: arXiv:2501.10375."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES, Precomputed
from moesim.policies.in_place.daop import Daop, substituted

WORK = tiny.problem(tiny.system(hbm=0.14e9))
GPU, CPU = WORK.attending_index, WORK.cpu_index
HELD = np.array([False, False, True, True])


def started(here: list[list[int]], **keys: Any) -> tuple[Daop, Any]:
    policy = Daop(**keys)
    return policy, tiny.with_residents(tiny.first_placement(policy, WORK)[1], *here)


@pytest.mark.parametrize(
    ("counts", "limit", "tokens", "expected"),
    [
        # eight tokens beside the GPU, four allowed: expert 1 gives its 3, expert 0 one; the better expert fills up first
        ([5, 3, 2, 4], 4, 6, [4, 0, 4, 6]),
        ([5, 3, 2, 4], 7, 6, [5, 2, 2, 5]),
        ([5, 3, 2, 4], 8, 6, [5, 3, 2, 4]),
        ([5, 3, 2, 4], 99, 6, [5, 3, 2, 4]),
        # those with room have it for one token, since a token asks an expert once
        ([3, 3, 4, 3], 0, 4, [3, 2, 4, 4]),
        ([3, 3, 4, 4], 0, 4, [3, 3, 4, 4]),
        # of equally many tokens those of the lower score go first
        ([2, 2, 0, 0], 2, 4, [2, 0, 0, 2]),
        ([0, 0, 5, 5], 0, 5, [0, 0, 5, 5]),
    ],
)
def test_what_exceeds_the_limit_goes_to_experts_on_the_gpu(
    counts: list[int], limit: int, tokens: int, expected: list[int]
) -> None:
    before = np.array(counts)
    after = substituted(before, HELD, np.array([0.3, 0.2, 0.1, 0.4]), limit, tokens)
    assert after.tolist() == expected
    assert before.tolist() == counts, "the visit's own array stays"


def test_a_prompt_swaps_the_hottest_missing_experts_for_the_coldest_residents() -> None:
    policy, view = started([[0, 1, 2, 3]])
    # missing 9, 6, 3, 0; resident, coldest first, 1, 2, 4, 10: 9 > 1, 6 > 2, 3 < 4
    chosen = policy.dispatch(tiny.timed_visit(view, [4, 2, 10, 1, 9, 0, 6, 3], phase="prefill"), view)
    assert (view.state.entering.tolist(), view.state.leaving.tolist()) == ([4, 6], [3, 1])
    # what enters runs on the GPU, what leaves on the CPU if that is sooner, as every expert that stays outside
    assert chosen.device.tolist() == [GPU, CPU, GPU, CPU, GPU, CPU, GPU, CPU]
    assert chosen.order is not None
    assert chosen.order.tolist() == [2, 0, 1, 3, 4, 6, 7, 5]
    moves = policy.adapt(tiny.step_of(0, [4, 2, 10, 1, 9, 0, 6, 3], [4, 6], "prefill"), view)
    assert moves.keep is not None
    assert moves.evict is not None
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([4, 6], [[0, 3], [0, 1]])


def test_what_leaves_is_computed_on_the_gpu_where_the_cpu_takes_longer() -> None:
    policy, view = started([[0, 1]])
    chosen = policy.dispatch(tiny.timed_visit(view, [5, 1, 9, 0, 0, 0, 0, 0], phase="prefill", cpu=9.0), view)
    assert view.state.leaving.tolist() == [1]
    assert chosen.device.tolist() == [GPU] * 8


@pytest.mark.parametrize(("swaps", "entering"), [(0, []), (1, [5]), (2, [5, 4]), (8, [5, 4])])
def test_a_layer_swaps_at_most_so_many_pairs(swaps: int, entering: list[int]) -> None:
    policy, view = started([[0, 1]], swaps=swaps)
    policy.dispatch(tiny.timed_visit(view, [1, 1, 0, 0, 8, 9, 7, 6], phase="prefill"), view)
    assert view.state.entering.tolist() == entering


def test_before_the_first_predicted_layer_the_cpu_computes_what_is_missing() -> None:
    policy, view = started([[0], [1]], first=2)
    chosen = policy.dispatch(tiny.timed_visit(view, [1, 1, 0, 0, 0, 0, 0, 0]), view)
    assert (chosen.device.tolist(), chosen.stale, chosen.counts) == ([GPU] + [CPU] * 7, None, None)
    unreachable = policy.dispatch(tiny.timed_visit(view, [1, 1, 0, 0, 0, 0, 0, 0], cpu=[2.0, np.inf] + [2.0] * 6), view)
    assert unreachable.device.tolist()[:3] == [GPU, GPU, CPU]


def test_from_then_on_the_prediction_of_the_layer_before_is_the_routing() -> None:
    policy, view = started([[0], [0, 1]], first=1)
    # four tokens of two experts: layer 0 says 3 + 2 for the missing 4 and 5 of layer 1; k / 2 = 1 a token may run on the CPU
    policy.dispatch(tiny.timed_visit(view, [4, 4, 0, 0, 0, 0, 0, 0], ahead=[[2, 1, 0, 0, 3, 2, 0, 0]]), view)
    chosen = policy.dispatch(tiny.timed_visit(view, [0, 0, 8, 0, 0, 0, 0, 0], layer=1), view)
    assert chosen.counts is not None
    assert chosen.stale is not None
    # 5 - 4 = 1 token of expert 5, the weaker, goes to expert 1: in layer 1 it is more popular than expert 0
    assert chosen.counts.tolist() == [2, 2, 0, 0, 3, 1, 0, 0]
    assert chosen.stale.tolist() == [0, 0, 0, 0, 3, 1, 0, 0]
    assert chosen.device.tolist() == [GPU, GPU] + [CPU] * 6


def test_the_prediction_of_a_prompt_is_nobody_s_routing() -> None:
    policy, view = started([[0], [1]], first=1)
    policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, phase="prefill", ahead=[[0, 0, 8] + [0] * 5]), view)
    assert view.state.predicted == [None] * 3


def test_nothing_stays_or_leaves_after_a_layer_of_a_decode_or_of_a_prompt_without_swaps() -> None:
    policy, view = started([[0, 1]])
    policy.dispatch(tiny.timed_visit(view, [1, 1, 5, 0, 0, 0, 0, 0], phase="prefill"), view)
    assert policy.adapt(tiny.step_of(0, [1] * 8), view) is NO_MOVES
    policy.dispatch(tiny.timed_visit(view, [5, 5, 1, 0, 0, 0, 0, 0], phase="prefill"), view)
    assert policy.adapt(tiny.step_of(0, [1] * 8, phase="prefill"), view) is NO_MOVES


@pytest.mark.parametrize(("staging", "slots"), [(1, (1, 1)), (2, (1, 1)), (3, (2, 1)), (5, (4, 1))])
def test_of_the_slots_one_is_for_copies_home(staging: int, slots: tuple[int, int]) -> None:
    plan = Daop(staging=staging).deploy(WORK).plan
    assert (plan.staging, plan.swap) == slots


def test_layers_before_the_first_take_turns_and_a_token_is_predicted_as_published() -> None:
    deployment = Daop(first=2).deploy(WORK)
    assert deployment.plan.decode.pipeline == Precomputed(turns=2)
    spread = deployment.resident.sum(axis=1)
    assert spread.max() - spread.min() <= 1
    foresight = Daop().foresight
    assert foresight is not None
    assert (foresight.at(1), foresight.seconds) == (0.84, 0.0)
