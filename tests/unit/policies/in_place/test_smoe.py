"""SMoE: who may be replaced by whom, how misses are shared out, and what a run shows of it."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policies.in_place.smoe import balanced, replaceable
from moesim.runs.run import RunOptions, loaded, run_loaded


def test_low_scores_are_those_within_the_margin_of_the_first_not_chosen():
    scores = np.array([[8.0, 1.2, 1.0, 0.9, 0.8, 0.1], [3.0, 2.0, 1.0, 0.99, 0.7, 0.6]])
    low, standing = replaceable(np.log(scores), 2, 0.25)
    assert low.tolist() == [[False, True], [False, False]]
    assert standing.tolist() == [2, 1]
    assert not replaceable(np.log(scores), 2, 0.0)[0].any()


def test_misses_take_turns_by_the_mean_times_alone():
    missing = np.arange(6)
    assert balanced(missing, load=1.0, cpu=1.0).tolist() == [True, False, True, False, True, False]
    assert balanced(missing, load=3.0, cpu=1.0).tolist() == [True, False, True, True, True, False]
    assert balanced(missing, load=1.0, cpu=9.0).tolist() == [True, False, False, False, False, False]


def test_replacement_spares_loads_and_is_reported():
    def summary(**parameters):
        policy = {"kind": "smoe", "prefetch": False, **parameters}
        sets = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 12}
        return run_loaded(loaded("quickstart", policy=policy, **sets), RunOptions(bound=False)).summary

    exact, replacing = summary(margin=0.0), summary(margin=0.3)
    assert exact["quality"]["replaced"] == 0.0
    assert 0.0 < replacing["quality"]["replaced"] < 0.1
    assert replacing["decode_hit_rate"] > exact["decode_hit_rate"]
    assert replacing["tpot_s"]["mean"] < exact["tpot_s"]["mean"]
    assert sum(replacing["expert_tokens"].values()) == pytest.approx(sum(exact["expert_tokens"].values()))
