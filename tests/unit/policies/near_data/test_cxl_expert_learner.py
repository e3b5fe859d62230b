"""Learned thresholds: the search finds the factor with which passes take least, for each size of pass by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

import moesim
from moesim.policies.near_data.cxl_expert_learner import Learner


def searched(best: float, start: float = 1.0, passes: int = 200) -> float:
    factor = np.ones(8)
    factor[3] = start
    learner = Learner(factor, every=2)
    for _ in range(passes):
        learner.ended(4, 1.0 + abs(math.log(factor[3] / best)))
    return learner.trials[3].best


@pytest.mark.parametrize("best", [0.1, 0.8, 1.0, 5.0])
def test_it_comes_to_the_best_factor(best: float) -> None:
    assert searched(best) == pytest.approx(best, rel=0.06)


def test_it_hears_of_all_tokens_of_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts of 40 tokens, then two tokens a pass: both go through all layers that have experts."""
    sizes: list[int] = []
    monkeypatch.setattr(Learner, "ended", lambda _self, tokens, seconds: sizes.append(tokens) if seconds > 0 else None)
    work = {"workload.requests": 2, "workload.prompt": 40, "workload.output": 4}
    moesim.run("quickstart", policy={"kind": "cxl_expert", "cxl": "none", "learn": 2}, **work)
    assert sizes == [80, 2, 2, 2]


def test_sizes_are_searched_apart() -> None:
    factor = np.ones(16)
    learner = Learner(factor, every=1)
    learner.ended(1, 1.0)
    assert np.flatnonzero(factor != 1.0).tolist() == [1]
    learner.ended(512, 1.0)
    assert np.flatnonzero(factor != 1.0).tolist() == [1, 10]
    assert learner.trials[1] is not learner.trials[10]
