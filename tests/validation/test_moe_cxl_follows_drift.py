"""MoE-CXL beside its own Algorithm 1 frozen: after a drift it comes close to the true placement, and at rest it rests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from moesim.results.result import Result
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load

_THREE = {
    **{"name": "three-layers", "source": "Qwen3-30B-A3B, three of its layers", "hidden": 2048, "layers": 3, "experts": 128},
    **{"top_k": 8, "expert_width": 768, "matrices": 3, "vocab": 1000},
    "attention": {"kind": "gqa", "heads": 32, "kv_heads": 4, "head_dim": 128},
}
_TWELVE = {
    **{"name": "twelve-layers", "source": "Mixtral-8x7B, twelve of its layers", "hidden": 4096, "layers": 12, "experts": 8},
    **{"top_k": 2, "expert_width": 14336, "matrices": 3, "vocab": 1000},
    "attention": {"kind": "gqa", "heads": 32, "kv_heads": 8, "head_dim": 128},
}
CASES: dict[str, dict[str, Any]] = {
    # the shares of the whole model: an eighth of the experts in GPU memory, half of them in the device
    "many small experts": {
        "model": _THREE,
        "hardware.tiers.hbm.capacity": "1.75 GB",
        "hardware.tiers.cxl_d.capacity": "1.85 GB",
    },
    "few large experts": {
        "model": _TWELVE,
        "seed": 1,
        "workload.output": 160,
        "hardware.tiers.hbm.capacity": "7.5 GB",
        "hardware.tiers.cxl_d.capacity": "17 GB",
    },
    "skewed, and DRAM full as well": {
        "model": _THREE,
        "seed": 4,
        "workload.routing.exponent": 1.3,
        "hardware.tiers.ddr.capacity": "0.5 GB",
        "hardware.tiers.hbm.capacity": "1.75 GB",
        "hardware.tiers.cxl_d.capacity": "1.85 GB",
    },
}
KNOWN: dict[str, Any] = {"workload.profile": {"kind": "same"}}
FROZEN = {"adapt_placement": False}
each_case = pytest.mark.parametrize("case", CASES)


@cache
def tried(case: str, *, known: bool, frozen: bool) -> Result:
    policy = {"kind": "moe_cxl", "period": 8, "prefetch": 0, **(FROZEN if frozen else {})}
    sets = {"workload.output": 240, **CASES[case], **(KNOWN if known else {})}
    return run_loaded(load("moe_cxl/drift", policy=policy, sets=sets), RunOptions(bound=False))


def last(result: Result) -> float:
    """Seconds per decode step at the end."""
    steps = result.columns["steps"]
    return float(np.mean((np.array(steps["end_s"]) - np.array(steps["start_s"]))[-50:]))


@each_case
def test_adapting_loses_nothing_after_a_drift_and_ends_near_the_true_placement(case: str) -> None:
    adapting, frozen = tried(case, known=False, frozen=False), tried(case, known=False, frozen=True)
    true = tried(case, known=True, frozen=True)
    assert adapting.summary["makespan_s"] < 0.95 * frozen.summary["makespan_s"]
    assert last(adapting) < 1.05 * last(true) < last(frozen)


@each_case
def test_nothing_thrashes_where_nothing_changes(case: str) -> None:
    adapting, frozen = tried(case, known=True, frozen=False), tried(case, known=True, frozen=True)
    caused = adapting.details["caused_B"]
    moved = caused.get("migration", 0.0) + caused.get("prefetch", 0.0)
    read = sum(nbytes for name, nbytes in adapting.summary["bytes"].items() if name.endswith(":read") and name != "hbm:read")
    assert moved < 0.01 * read
    assert adapting.summary["makespan_s"] < 1.02 * frozen.summary["makespan_s"]
