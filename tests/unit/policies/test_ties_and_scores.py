"""Who leaves a cache that knows the future when two are used again together, and what a move has to earn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.policies.bounds.belady import LayerBelady, soonest
from moesim.policies.kit.migration import Terms, exchanges, under_way


def truth(*indices: int, of: int) -> Any:
    return np.isin(np.arange(of), indices)


# Belady


def left_over(next_use: list[int], held: Any, new: Any, capacity: int) -> tuple[list[int], list[int]]:
    stays, leaves = soonest(np.array(next_use), held, new, capacity)
    return stays.tolist(), leaves.tolist()


def test_of_copies_used_again_at_the_same_time_the_one_that_is_there_stays() -> None:
    for held, new in ((0, 1), (1, 0)):
        assert left_over([5, 5], truth(held, of=2), truth(new, of=2), 1) == ([], [])


def test_of_held_copies_used_again_at_the_same_time_the_lower_index_stays() -> None:
    assert left_over([5, 5, 1], truth(0, 1, of=3), truth(2, of=3), 2) == ([2], [1])


def test_a_newcomer_used_one_visit_sooner_takes_the_place() -> None:
    assert left_over([5, 4], truth(0, of=2), truth(1, of=2), 1) == ([1], [0])
    assert left_over([4, 5], truth(0, of=2), truth(1, of=2), 1) == ([], [])


def test_of_experts_used_again_at_the_same_visit_the_one_with_the_lowest_score_leaves_first() -> None:
    cache = LayerBelady(np.array([2]), 1, 3)
    cache.warm(np.array([[2, 0, 1]]))
    cache.expect(0, np.array([7, 7, 7]))
    assert np.argsort(-cache.keys[0]).tolist() == [1, 2, 0]
    cache.expect(0, np.array([8, 7, 7]))
    assert np.argsort(-cache.keys[0])[0] == 0  # the visit counts before the score


# Migration


def moved(terms: Terms, frequency: list[float], *, slots: int = 1, cost: float = 1.0, saved: float = 1.0) -> Any:
    """Expert 0 is in GPU memory, the others are not."""
    held = truth(0, of=len(frequency))
    sizes = [np.full(len(frequency), value) for value in (saved, cost)]
    return tuple(a.tolist() for a in exchanges(np.array(frequency), sizes[0], held, held, slots, terms, sizes[1]))


@pytest.mark.parametrize(
    ("frequency", "horizon", "hysteresis", "cost", "moves"),
    [
        (3.01, 1.0, 0.0, 1.0, True),  # 3.01 - 2 > 1
        (3.0, 1.0, 0.0, 1.0, False),  # 3 - 2 = 1 earns the copy, and no more
        (3.0, 2.0, 0.0, 1.9, True),  # (3 - 2) x 2 > 1.9
        (3.0, 2.0, 0.0, 2.0, False),
        (3.0, 1.0, 0.2, 0.4, True),  # 3 - 1.2 x 2 = 0.6 > 1.2 x 0.4 = 0.48
        (3.0, 1.0, 0.2, 0.51, False),  # 0.6 < 1.2 x 0.51 = 0.612
        (3.0, 1.0, 0.4, 0.3, False),  # 3 - 1.4 x 2 = 0.2 < 0.42
    ],
)
def test_a_copy_moves_if_its_gain_over_the_horizon_exceeds_its_cost(
    frequency: float, horizon: float, hysteresis: float, cost: float, moves: bool
) -> None:
    """The one inside is used 2 times a period; a use saves 1 s."""
    targets = moved(Terms(horizon, hysteresis, 9, margin=hysteresis), [2.0, frequency], cost=cost)
    assert targets == (([1], [0]) if moves else ([], []))


def test_without_a_margin_hysteresis_is_a_share_of_the_cost_alone() -> None:
    assert moved(Terms(1.0, 0.2, 9), [2.0, 3.0], cost=0.83) == ([1], [0])  # 3 - 2 = 1 > 1.2 x 0.83 = 0.996
    assert moved(Terms(1.0, 0.2, 9), [2.0, 3.0], cost=0.84) == ([], [])


def test_without_a_cost_a_copy_has_to_earn_what_one_use_saves() -> None:
    held, saved = truth(0, of=2), np.array([0.5, 0.5])
    for frequency, moves in ((3.01, True), (2.99, False)):
        loads, drops = exchanges(np.array([2.0, frequency]), saved, held, held, 1, Terms(1.0, 0.0, 9))
        assert (loads.tolist(), drops.tolist()) == (([1], [0]) if moves else ([], []))


def test_free_slots_cost_nobody_a_place_and_the_hottest_go_first() -> None:
    terms = Terms(1.0, 0.0, 9)
    assert moved(terms, [6.0, 5.0, 9.0, 7.0], slots=3) == ([2, 3], [])  # into the free ones
    assert moved(terms, [2.0, 5.0, 9.0, 7.0], slots=3) == ([2, 3, 1], [0])
    assert moved(terms, [2.0, 5.0, 9.0, 7.0], slots=2) == ([2, 3], [0])
    assert moved(terms._replace(limit=1), [2.0, 5.0, 9.0, 7.0], slots=3) == ([2], [])


def test_each_way_takes_the_hottest_expert_that_is_to_move() -> None:
    home, moving = np.array([[0, 0, 0, 1]]), np.array([[1, 1, 0, 0]])
    copies = under_way(moving, home, np.array([[1.0, 3.0, 9.0, 2.0]]))
    assert copies is not None
    assert copies.tolist() == [[0, 1, 1], [0, 3, 0]]
    assert moving.tolist() == [[1, 1, -1, 0]]  # what has arrived is struck out
    assert under_way(np.array([[0, 0, 0, 1]]), home, np.ones((1, 4))) is None
