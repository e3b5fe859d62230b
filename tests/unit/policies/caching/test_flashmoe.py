"""FlashMoE: a choice of victims between LRU and Belady, over experts on storage."""

from __future__ import annotations

from functools import cache

import pytest

from moesim.contract import is_bound
from moesim.policies.caching.flashmoe import FlashMoe
from moesim.runs.run import RunOptions, loaded, run_loaded

SETS = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 12}


@cache
def summary(kind: str, **parameters):
    scenario = loaded("quickstart", policy={"kind": kind, "capacity": 24, **parameters}, **SETS)
    return run_loaded(scenario, RunOptions(bound=False)).summary


def test_without_skill_it_is_lru_and_with_all_of_it_no_worse_than_any_share():
    hits = [summary("flashmoe", skill=skill)["decode_hit_rate"] for skill in (0.0, 0.5, 1.0)]
    assert hits[0] == pytest.approx(summary("lru")["decode_hit_rate"], rel=0.002)  # who of a full visit stays may differ
    assert hits[0] + 0.01 < hits[1] < hits[2] - 0.01
    assert hits[2] <= summary("belady")["decode_hit_rate"]


def test_misses_come_from_storage():
    moved = summary("flashmoe", skill=0.0)["bytes"]
    assert moved["nvme:read"] == pytest.approx(moved["pcie:forward"], rel=0.01)


def test_time_gains_less_than_reads_do():
    lru, learned = (summary("flashmoe", skill=skill) for skill in (0.0, 1.0))
    fewer_reads = lru["bytes"]["nvme:read"] / learned["bytes"]["nvme:read"]
    assert learned["decode_tok_s"] / lru["decode_tok_s"] > 1.0
    assert learned["throughput_tok_s"] / lru["throughput_tok_s"] < fewer_reads


def test_it_is_shown_the_future_and_is_not_a_bound():
    assert FlashMoe().sees_future
    assert not is_bound(FlashMoe)
