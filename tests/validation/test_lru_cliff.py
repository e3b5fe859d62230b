"""A pool of least recently used experts that is smaller than what one token asks for in all layers never hits: the cliff."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.results.result import Result
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load

SMALL: dict[str, Any] = {"workload.requests": 1, "workload.prompt": 32, "workload.output": 8}


def tried(capacity: str) -> Result:
    policy = {"kind": "moe_infinity", "eviction": "lru", "prefetch": False}
    sets = {**SMALL, "hardware.tiers.hbm.capacity": capacity}
    return run_loaded(load("compare/offline-qwen3-30b", policy=policy, sets=sets), RunOptions(bound=False))


@pytest.mark.parametrize(("capacity", "small"), [("6.5 GB", True), ("7.5 GB", True), ("14 GB", False)])
def test_one_sequence_hits_nothing_until_the_pool_holds_a_cycle(capacity: str, small: bool) -> None:
    result = tried(capacity)
    if small:
        assert result.summary["decode_hit_rate"] == 0.0  # each comes round after all others have pushed it out
    else:
        assert result.summary["decode_hit_rate"] > 0.3
