"""DALI: the assignment of a layer, the window of its cache, the fetch for the next layer. Source: arXiv:2602.03495."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import NO_MOVES
from moesim.errors import InputError
from moesim.policies.in_place.dali import Dali, assign

WORK = tiny.problem(tiny.system(hbm=0.14e9))
GPU, CPU = WORK.attending_index, WORK.cpu_index
QUEUE = "pcie:forward"


def started(*here: list[int], **keys: Any) -> tuple[Dali, Any]:
    policy = Dali(**keys)
    view = tiny.with_residents(tiny.first_placement(policy, WORK)[1], *here)
    view.free_slots = 9
    return policy, view


@pytest.mark.parametrize(
    ("active", "gpu", "cpu", "busy", "on_cpu"),
    [
        ([0], [1.0], [1.0], 0.0, []),  # the GPU where both would end alike
        ([0], [1.1], [1.0], 0.0, [0]),
        ([0], [1.0], [2.0], 0.9, []),  # 0.9 + 1.0 < 2.0
        ([0], [1.0], [2.0], 1.1, [0]),  # 1.1 + 1.0 > 2.0
        ([], [1.0, 1.0], [9.0, 9.0], 0.0, []),
        ([1], [1.0, 5.0, 1.0], [0.1, 2.0, 0.1], 0.0, [1]),  # those without tokens count for nothing
        ([0, 1], [3.0, 3.0], [np.inf, 4.0], 0.0, [1]),  # what the CPU cannot reach stays: 3; then 6 against 4
        # gaps 6, 4, 1: 0 to the GPU (ends 2), 1 to the CPU (3), 2 to the GPU: 2 + 4 = 6 against 3 + 5 = 8
        ([0, 1, 2], [2.0, 7.0, 4.0], [8.0, 3.0, 5.0], 0.0, [1]),
        # equal gaps by number: 0 to the CPU (1), then 1 + 3 = 4 against 2 + 1 = 2
        ([0, 1], [3.0, 3.0], [1.0, 1.0], 0.0, [0, 1]),
    ],
)
def test_each_expert_goes_where_the_later_end_stays_lower(
    active: list[int], gpu: list[float], cpu: list[float], busy: float, on_cpu: list[int]
) -> None:
    chosen = assign(np.array(active, dtype=np.int64), np.array(gpu), np.array(cpu), busy)
    assert np.flatnonzero(chosen).tolist() == on_cpu


def test_a_missing_expert_costs_the_gpu_its_copy_and_a_resident_its_computation() -> None:
    policy, view = started([0])
    # expert 0: 1 s of GPU; expert 1: 3 s of copy (its GPU time is not counted) against 3.5 s of CPU, so the GPU takes neither
    chosen = policy.dispatch(tiny.timed_visit(view, [1, 1] + [0] * 6, cpu=3.5), view)
    assert chosen.device.tolist()[:2] == [GPU, CPU]
    # 1 + 3 = 4 s of GPU against 4.1 s of CPU
    chosen = policy.dispatch(tiny.timed_visit(view, [1, 1] + [0] * 6, cpu=4.1), view)
    assert chosen.device.tolist()[:2] == [GPU, GPU]


@pytest.mark.parametrize(("backlog", "coming", "device"), [(0.0, [1], GPU), (9.0, [1], CPU), (9.0, [], CPU), (9.0, [5], GPU)])
def test_copies_for_the_layer_that_have_not_landed_count_for_the_gpu(backlog: float, coming: list[int], device: int) -> None:
    """Expert 0 is missing: copy 3 s, CPU 5 s; a copy for expert 1 on its way would take 3 s, if the queue holds as much."""
    policy, view = started([])
    view.backlog = {QUEUE: backlog}
    view.in_flight[0, coming] = True
    counts = [2, 2 if coming == [1] else 0] + [0] * 6
    times = {"cpu": 5.0 if coming else 2.9, "gpu": 1.0}
    assert policy.dispatch(tiny.timed_visit(view, counts, **times), view).device[0] == device


def test_the_missing_expert_with_most_tokens_of_the_next_layer_is_fetched_once() -> None:
    policy, view = started([], [4])
    ahead = [[0, 3, 0, 0, 9, 3, 1, 0]]
    moves = policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, ahead=ahead), view).moves
    assert moves is not None
    assert moves.load is not None
    assert moves.load.tolist() == [[1, 1]], "of equal ones the first; expert 4 is there"
    assert policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, ahead=ahead), view).moves is None


@pytest.mark.parametrize("reason", ["no slot", "nothing missing", "on its way", "last layer", "off"])
def test_nothing_is_fetched_where_nothing_can_be_or_needs_to_be(reason: str) -> None:
    policy, view = started([], [4], prefetch=reason != "off")
    view.free_slots = 0 if reason == "no slot" else 9
    view.in_flight[1, 5] = reason == "on its way"
    predicted = {"nothing missing": [0, 0, 0, 0, 8, 0, 0, 0], "on its way": [0, 0, 0, 0, 0, 8, 0, 0]}
    ahead = [] if reason == "last layer" else [predicted.get(reason, [8] + [0] * 7)]
    assert policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, ahead=ahead), view).moves is None


def test_a_fetched_expert_leaves_after_its_layer() -> None:
    policy, view = started([], [4])
    policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, ahead=[[0, 0, 8] + [0] * 5]), view)
    assert policy.adapt(tiny.step_of(0, [8] + [0] * 7), view) is NO_MOVES
    moves = policy.adapt(tiny.step_of(1, [0, 0, 8] + [0] * 5), view)
    assert moves.evict is not None
    assert (moves.evict.tolist(), moves.load) == ([[1, 2]], None)
    assert policy.adapt(tiny.step_of(1, [0, 0, 8] + [0] * 5), view) is NO_MOVES, "once"


def test_a_window_of_passes_ends_with_an_exchange_and_counting_begins_anew() -> None:
    policy, view = started([0, 1, 2], window=2, swaps=2)
    assert policy.adapt(tiny.step_of(0, [5, 1, 2, 0, 0, 3, 2, 0]), view) is NO_MOVES
    moves = policy.adapt(tiny.step_of(0, [5, 1, 2, 0, 0, 3, 3, 0]), view)
    # sums 10, 2, 4 inside, 6 and 5 outside: both beat those with fewest
    assert moves.load is not None
    assert moves.evict is not None
    assert (moves.load.tolist(), moves.evict.tolist()) == ([[0, 5], [0, 6]], [[0, 1], [0, 2]])
    assert (view.state.scores[0].tolist(), view.state.passes[0]) == ([0] * 8, 0)


@pytest.mark.parametrize(("tokens", "swaps", "loaded"), [(2, 1, []), (3, 1, [[0, 5]]), (3, 0, [])])
def test_an_exchange_takes_more_tokens_and_not_as_many(tokens: int, swaps: int, loaded: list[list[int]]) -> None:
    policy, view = started([0, 1], window=1, swaps=swaps)
    moves = policy.adapt(tiny.step_of(0, [4, 2, 0, 0, 0, tokens, 0, 0]), view)
    assert ([] if moves.load is None else moves.load.tolist()) == loaded


def test_a_fetched_expert_that_wins_a_place_needs_no_second_copy() -> None:
    policy, view = started([], [0, 4], window=1, swaps=1)
    policy.dispatch(tiny.timed_visit(view, [8] + [0] * 7, ahead=[[0, 0, 8] + [0] * 5]), view)
    view.resident[1, 2] = True
    moves = policy.adapt(tiny.step_of(1, [7, 0, 9, 0, 3, 0, 0, 0]), view)
    assert moves.evict is not None
    assert (moves.evict.tolist(), moves.load) == ([[1, 2], [1, 4]], None)


def test_two_buffers_are_kept_free_for_what_is_fetched() -> None:
    # 16 experts fit: five or six of every layer, and with two buffers 14
    residents = {prefetch: Dali(prefetch=prefetch).deploy(WORK).resident.sum() for prefetch in (False, True)}
    assert residents == {False: 16, True: 14}
    assert Dali(capacity=2).deploy(WORK).resident.sum(axis=1).tolist() == [2, 2, 2]
    assert Dali(prefetch=False).foresight is None
    foresight = Dali().foresight
    assert foresight is not None
    assert foresight.at(1) == 0.9
    with pytest.raises(InputError, match="no CPU that computes"):
        Dali().deploy(tiny.problem(tiny.system(cpu=False)))
