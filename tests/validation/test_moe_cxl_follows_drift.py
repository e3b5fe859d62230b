"""MoE-CXL beside its own Algorithm 1 frozen: after a drift it comes close to the true placement, and at rest it rests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from moesim.results.result import Result
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load

SMALL: dict[str, Any] = {
    "model": {
        **{"name": "three-layers", "source": "Qwen3-30B-A3B, three of its layers", "hidden": 2048, "layers": 3, "experts": 128},
        **{"top_k": 8, "expert_width": 768, "matrices": 3, "vocab": 1000},
        "attention": {"kind": "gqa", "heads": 32, "kv_heads": 4, "head_dim": 128},
    },
    "workload.output": 300,
    # the shares of the whole model: an eighth of the experts in GPU memory, half of them in the device
    "hardware.tiers.hbm.capacity": "1.75 GB",
    "hardware.tiers.cxl_d.capacity": "1.85 GB",
}
KNOWN: dict[str, Any] = {"workload.profile": {"kind": "same"}}
FROZEN = {"adapt_placement": False}


@cache
def tried(*, known: bool, frozen: bool) -> Result:
    policy = {"kind": "moe_cxl", "period": 8, "prefetch": 0, **(FROZEN if frozen else {})}
    return run_loaded(load("moe_cxl/drift", policy=policy, sets={**SMALL, **(KNOWN if known else {})}), RunOptions(bound=False))


def last(result: Result) -> float:
    """Seconds per decode step at the end."""
    steps = result.columns["steps"]
    return float(np.mean((np.array(steps["end_s"]) - np.array(steps["start_s"]))[-50:]))


def test_adapting_is_no_slower_after_a_drift_and_ends_near_the_true_placement() -> None:
    adapting, frozen, true = tried(known=False, frozen=False), tried(known=False, frozen=True), tried(known=True, frozen=True)
    assert adapting.summary["makespan_s"] < 0.8 * frozen.summary["makespan_s"]
    assert last(adapting) < 1.05 * last(true) < last(frozen)


def test_nothing_thrashes_where_nothing_changes() -> None:
    adapting, frozen = tried(known=True, frozen=False), tried(known=True, frozen=True)
    caused = adapting.details["caused_B"]
    moved = caused.get("migration", 0.0) + caused.get("prefetch", 0.0)
    read = sum(nbytes for name, nbytes in adapting.summary["bytes"].items() if name.endswith(":read") and name != "hbm:read")
    assert moved < 0.01 * read
    assert adapting.summary["makespan_s"] < 1.02 * frozen.summary["makespan_s"]
