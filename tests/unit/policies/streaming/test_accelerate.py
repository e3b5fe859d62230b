"""Accelerate's device map: whole layers stay or cross with everything in them, dense models among them."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.contract.homes import HERE
from moesim.explain.posed import posed
from moesim.runs.run import RunOptions, loaded, run_loaded

_UNIFORM: dict[str, Any] = {"kind": "uniform"}


def _scenario(hardware: str, model: str, output: int = 3, policy: Any = "accelerate") -> dict[str, Any]:
    workload = {"kind": "offline", "requests": 1, "prompt": 32, "output": output, "routing": _UNIFORM, "profile": _UNIFORM}
    return {
        "name": "map", "hardware": hardware, "model": model, "policy": policy, "runtime": "own", "workload": workload
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hardware", "name"), [("t4-cloud24", "opt-30b"), ("a5000-epyc7453", "mixtral-8x7b"), ("rtx4090-epyc9274f", "deepseek-v2")]
)
def test_every_step_copies_the_layers_that_do_not_stay_with_all_that_they_hold(hardware: str, name: str) -> None:
    scenario = loaded(_scenario(hardware, name))
    deployment = scenario.scenario.policy.deploy(posed(scenario))
    first, model = deployment.plan.homes.kept_layers, scenario.scenario.model
    assert 0 < first < model.layers
    experts = float((~deployment.resident).sum()) * model.expert_bytes
    dense = sum(model.dense_bytes for layer in range(first, model.layers) if layer not in model.moe_layers)
    beside = sum(model.shared_bytes for layer in range(first, model.layers) if layer in model.moe_layers)
    attention = (model.layers - first) * (model.qkv_bytes + model.output_bytes)
    crossed = [
        run_loaded(loaded(_scenario(hardware, name, output)), RunOptions(bound=False)).summary["bytes"]["pcie:forward"]
        for output in (2, 3)
    ]
    rows = model.token_bytes if deployment.plan.homes.embeddings or model.tied_embedding else 0.0
    assert crossed[1] - crossed[0] == pytest.approx(experts + dense + beside + attention + model.head_bytes + rows, rel=1e-6)


def test_a_model_that_fits_stays_as_a_whole() -> None:
    scenario = loaded(_scenario("h100-server", "qwen3-30b-a3b"))
    deployment = scenario.scenario.policy.deploy(posed(scenario))
    assert deployment.resident.all()
    assert deployment.plan.homes == HERE


def test_vllm_leaves_whole_layers_in_the_host_and_reads_what_a_step_asks_for_in_place() -> None:
    policy = {"kind": "vllm_offload", "offload": "30 GB"}
    scenario = loaded(_scenario("a100-80gb-server", "mixtral-8x7b", 3, policy))
    problem = posed(scenario)
    deployment, model = scenario.scenario.policy.deploy(problem), scenario.scenario.model
    whole = model.qkv_bytes + model.output_bytes + model.experts * model.expert_bytes
    away = -(-30e9 // whole)
    assert deployment.plan.homes.kept_layers == deployment.resident.all(axis=1).sum() == model.layers - away
    results = [
        run_loaded(loaded(_scenario("a100-80gb-server", "mixtral-8x7b", output, policy)), RunOptions(bound=False))
        for output in (2, 3)
    ]
    crossed = [result.summary["bytes"]["pcie:forward"] for result in results]
    used = away * (model.qkv_bytes + model.output_bytes + model.top_k * model.expert_bytes)
    assert crossed[1] - crossed[0] == pytest.approx(used, rel=1e-6)
    link = problem.costs.path("ddr", "hbm")
    assert link.rate == pytest.approx(0.54 * scenario.scenario.hardware.path("ddr", "hbm").rate)
    step = float(results[1].frame("steps")["step_time_s"].iloc[-1])
    assert step > used / link.rate, "nothing runs beside a read"
