"""onnxruntime's plan: one exchange a call by counters that decay, and slots that go to whole layers first."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.policies.in_place.onnxruntime import OnnxRuntime, split
from moesim.runs.run import RunOptions, loaded, run_loaded


def test_slots_go_to_whole_layers_first_then_to_the_highest_counters():
    counters = np.array([[3.0, 0.0, 1.0], [1.0, 1.0, 1.5], [9.0, 0.5, 0.0]])
    assert split(counters, 5).tolist() == [[True, False, False], [False, False, True], [True, True, True]]
    assert split(np.zeros((2, 3)), 4).tolist() == [[True, True, True], [True, False, False]]
    assert not split(counters, 0).any()


def test_a_call_changes_at_most_one_expert_and_counts_no_tokens():
    policy = OnnxRuntime(experts=12, alpha=0.5, margin=0.1)
    p = tiny.problem()
    deployment = policy.deploy(p)
    assert deployment.resident.sum(axis=1).tolist() == [4, 4, 4]
    assert deployment.resident[:, :4].all()
    view = tiny.view_of(p, deployment)
    moves = policy.adapt(tiny.step_of(0, [1, 1, 0, 0, 900, 1, 0, 0]), view)
    assert (moves.load.tolist(), moves.evict.tolist()) == ([[0, 4]], [[0, 2]])
    assert deployment.state[0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert policy.adapt(tiny.step_of(1, [1, 1, 1, 1, 1, 0, 0, 0]), view).load is None  # 1 does not exceed 1.1 times 1
    policy.adapt(tiny.step_of(0, [0] * 7 + [2]), view)
    assert deployment.state[0].tolist() == [0.5, 0.5, 0, 0, 0.5, 0.5, 0, 1]


@pytest.mark.parametrize("resplit", [True, False])
def test_a_run_keeps_its_slots(resplit):
    sets = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 6}
    policy = {"kind": "onnxruntime", "resplit": resplit}
    result = run_loaded(loaded("quickstart", policy=policy, **sets), RunOptions(bound=False))
    shares = result.summary["expert_tokens"]
    assert shares["cpu"] > 0
    assert shares["gpu"] > 0
    assert result.summary["bytes"]["pcie:forward"] > 0
