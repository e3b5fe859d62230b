"""Accelerate's device map: whole layers stay or cross with everything in them, dense models among them."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.contract.homes import HERE
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded

_UNIFORM: dict[str, Any] = {"kind": "uniform"}


def _scenario(hardware: str, model: str, output: int = 3) -> dict[str, Any]:
    workload = {"kind": "offline", "requests": 1, "prompt": 32, "output": output, "routing": _UNIFORM, "profile": _UNIFORM}
    return {
        "name": "map", "hardware": hardware, "model": model, "policy": "accelerate", "runtime": "own", "workload": workload
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hardware", "model"), [("t4-cloud24", "opt-30b"), ("a5000-epyc7453", "mixtral-8x7b"), ("rtx4090-epyc9274f", "deepseek-v2")]
)
def test_every_step_copies_the_layers_that_do_not_stay_with_all_that_they_hold(hardware: str, model: str) -> None:
    this = loaded(_scenario(hardware, model))
    deployment = this.scenario.policy.deploy(problem_of(this, *this.build()))
    kept, part = deployment.plan.homes.kept_layers, this.scenario.model
    assert 0 < kept < part.layers
    experts = float((~deployment.resident).sum()) * part.expert_bytes
    dense = sum(part.dense_bytes for layer in range(kept, part.layers) if layer not in part.moe_layers)
    beside = sum(part.shared_bytes for layer in range(kept, part.layers) if layer in part.moe_layers)
    attention = (part.layers - kept) * (part.qkv_bytes + part.output_bytes)
    crossed = [
        run_loaded(loaded(_scenario(hardware, model, output)), RunOptions(bound=False)).summary["bytes"]["pcie:forward"]
        for output in (2, 3)
    ]
    rows = part.token_bytes if deployment.plan.homes.embeddings or part.tied_embedding else 0.0
    assert crossed[1] - crossed[0] == pytest.approx(experts + dense + beside + attention + part.head_bytes + rows, rel=1e-6)


def test_a_model_that_fits_stays_as_a_whole() -> None:
    this = loaded(_scenario("h100-server", "qwen3-30b-a3b"))
    deployment = this.scenario.policy.deploy(problem_of(this, *this.build()))
    assert deployment.resident.all()
    assert deployment.plan.homes == HERE
