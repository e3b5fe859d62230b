"""Owns OPT-30B under LIA with its weights in DDR and in CXL memory: that nothing is lost, and the published speed.

Knows its scenario by name. The engine keeps the weights of attention on the GPU, which LIA streams too: so the speed comes from
LIA's own equations with this machine's costs, the difference between the memories from the engine.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from moesim.contract import Problem
from moesim.explain.posed import posed
from moesim.policies.in_place.lia_vector import price, seconds
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.validation.case import Case, Findings, Row

__all__ = ["CASE", "PUBLISHED", "by_equations"]

SCENARIO = "lia/opt-30b-cxl"
PUBLISHED = {"ddr": 280.50, "cxl": 280.38}
"""Tier of the weights -> tok/s."""
VECTORS: dict[Literal["prefill", "decode"], tuple[int, ...]] = {"prefill": (0, 0, 0, 0, 0, 0), "decode": (0, 1, 1, 0, 0, 0)}
"""Phase -> sub-layers on the CPU (1), as LIA's thresholds have it at this batch."""
_TOLERANCE, _DIFFERENCE = 0.15, 0.01


@cache
def _problem() -> Problem:
    return posed(loaded(SCENARIO))


def _layer(phase: Literal["prefill", "decode"], tier: str) -> float:
    """Seconds of one layer: the sum over sub-layers of T_load + T_comp + T_store, all weights loaded from `tier`."""
    problem = _problem()
    costs = LayerCosts(problem, tier)
    parts = price(costs, phase, problem.job.requests, "ddr")
    linear = float(costs.copy_in(problem.model.qkv_bytes) + costs.copy_in(problem.model.output_bytes))
    return float(seconds(parts, np.array([VECTORS[phase]]))[0]) + linear


def by_equations(tier: str) -> float:
    """tok/s by LIA's equations, nothing pinned and nothing overlapped."""
    job, layers = _problem().job, _problem().model.layers
    output = int(job.output[0])
    time = layers * (_layer("prefill", tier) + (output - 1) * _layer("decode", tier))
    return job.requests * output / time


@cache
def _simulated(tier: str) -> float:
    """tok/s of the engine."""
    sets: dict[str, Any] = {"policy.cxl": tier == "cxl"}
    return float(run_loaded(loaded(SCENARIO, **sets), RunOptions(bound=False)).summary["throughput_tok_s"])


def _findings() -> Findings:
    rows = [
        Row(f"weights in {tier.upper()}, by LIA's equations: tok/s", value, by_equations(tier), _TOLERANCE)
        for tier, value in PUBLISHED.items()
    ]
    ratio = PUBLISHED["cxl"] / PUBLISHED["ddr"]
    rows.append(Row("CXL over DDR, simulated", ratio, _simulated("cxl") / _simulated("ddr"), _DIFFERENCE))
    return Findings(tuple(rows), arithmetic=_notes())


def _notes() -> tuple[str, ...]:
    problem = _problem()
    model, system = problem.model, problem.system
    link = system.path("ddr", "hbm").rate
    rates = system.resources()
    devices = rates["cxl0:read"] + rates["cxl1:read"]
    weights = model.all_expert_bytes + model.layers * (model.qkv_bytes + model.output_bytes)
    return (
        f"The GPU reads CXL memory at min(PCIe, devices) = min({link / 1e9:.1f}, {devices / 1e9:.0f} GB/s), as fast as DDR.",
        f"By the equations a decode pass loads {weights / 1e9:.1f} GB, {weights / link:.2f} s, and computes and attends for "
        f"{model.layers * _layer('decode', 'ddr') - weights / link:.2f} s after it.",
        f"The engine holds {model.layers * (model.qkv_bytes + model.output_bytes) / 1e9:.1f} GB of attention weights in GPU "
        f"memory, pins layers in the rest and overlaps loads with work: {_simulated('ddr'):.0f} tok/s.",
    )


CASE = Case(
    id="lia-cxl-weights",
    kind="system",
    summary="OPT-30B on an A100 and a Xeon 8460H: weights in DDR or on two CXL devices of 17 GB/s, batch 900.",
    source="LIA (ISCA 2025, DOI 10.1145/3695053.3731092), table 3",
    runner=_findings,
)
