"""Learned thresholds: the search finds the factor with which passes take least, for each size of pass by itself."""

from __future__ import annotations

import math

import pytest

from moesim.policies.near_data.cxl_expert_learner import Learner


def searched(best: float, start: float = 1.0, passes: int = 200) -> float:
    factor = {3: start} if start != 1.0 else {}
    learner = Learner(factor, every=2)
    for _ in range(passes):
        learner.ended(4, 1.0 + abs(math.log(factor.get(3, 1.0) / best)))
    return learner.trials[3].best


@pytest.mark.parametrize("best", [0.1, 0.8, 1.0, 5.0])
def test_it_comes_to_the_best_factor(best: float) -> None:
    assert searched(best) == pytest.approx(best, rel=0.06)


def test_sizes_are_searched_apart() -> None:
    factor: dict[int, float] = {}
    learner = Learner(factor, every=1)
    learner.ended(1, 1.0)
    assert set(factor) == {1}
    learner.ended(512, 1.0)
    assert set(factor) == {1, 10}
    assert learner.trials[1] is not learner.trials[10]
