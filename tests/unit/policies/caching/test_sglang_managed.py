"""SGLang's managed memory: what crosses, that nothing of it stays, and residents that follow use."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Serial
from moesim.policies.caching.sglang_managed import SglangManaged
from moesim.runs.run import RunOptions, loaded, run_loaded


def test_a_miss_crosses_at_every_use_and_nothing_runs_beside_it() -> None:
    policy = {"kind": "sglang_managed", "adaptive": False}
    sets = {"workload.requests": 1, "workload.prompt": 8, "workload.output": 9, "runtime": "own"}
    scenario = loaded("quickstart", policy=policy, **sets)
    result = run_loaded(scenario, RunOptions(bound=False))
    model, layers = scenario.scenario.model, result.columns["layers"]
    missed = float(np.sum(layers["activations"]) - np.sum(layers["hits"]))
    decode = result.frame("steps").query("phase == 'decode'")
    crossed = (decode["activations"] - decode["hits"]) * model.expert_bytes
    assert missed > 0
    link = scenario.scenario.hardware.path("ddr", "hbm").rate * 0.54
    assert (decode["step_time_s"] > crossed / link).all()  # a single sequence: each activation is an expert read once
    assert result.summary["bytes"]["pcie:forward"] >= crossed.sum()


def test_residents_follow_use_by_pairs_and_no_more_than_asked_for() -> None:
    p = tiny.problem(tiny.system(hbm=0.09e9))
    policy = SglangManaged(period=32, moves=1)
    deployment = policy.deploy(p)
    assert deployment.plan.decode.pipeline == Serial()
    held = deployment.resident
    assert 0 < held.sum() < held.size
    view = tiny.view_of(p, deployment)
    counts = np.where(held, 0, 1)  # only what is missing is used
    moves = [policy.adapt(tiny.step_of(-1, counts), view) for _ in range(32)]
    assert all(move.load is None or not len(move.load) for move in moves[:31])
    (entering,), (leaving,) = moves[31].load, moves[31].evict
    assert not held[tuple(entering)]
    assert held[tuple(leaving)]


def test_residents_that_are_used_stay() -> None:
    p = tiny.problem(tiny.system(hbm=0.09e9))
    policy = SglangManaged(period=1)
    deployment = policy.deploy(p)
    moves = policy.adapt(tiny.step_of(-1, deployment.resident.astype(np.int64)), tiny.view_of(p, deployment))
    assert not len(moves.load)
    assert not len(moves.evict)


@pytest.mark.parametrize("staging", [None, 3])
def test_reads_in_place_take_one_slot_of_gpu_memory_by_default(staging: int | None) -> None:
    p = tiny.problem(tiny.system(hbm=0.09e9))
    assert SglangManaged(staging=staging).deploy(p).plan.staging == (staging or 1)
