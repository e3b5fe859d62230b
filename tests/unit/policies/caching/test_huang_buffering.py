"""Huang et al.: experts compute their own tokens, where the baseline pads each one of a layer to a capacity."""

from __future__ import annotations

from functools import cache

import pytest

from moesim.runs.run import RunOptions, loaded, run_loaded

TOKENS = 16384


@cache
def summary(capacity: float | None, hbm: str = "200 GB", routing: str = "uniform"):
    scenario = {
        "name": "gating",
        "hardware": {"profile": "h100-server", "tiers": {"hbm": {"capacity": hbm}}},
        "model": "olmoe-1b-7b",
        "policy": {"kind": "huang_buffering", "start": "profile"},
        "workload": {"kind": "offline", "requests": 1, "prompt": TOKENS, "output": 1, "routing": {"kind": routing}},
    }
    sets = {} if capacity is None else {"runtime.gpu.capacity": capacity}
    return run_loaded(loaded(scenario, **sets), RunOptions(bound=False)).summary


def gpu_seconds(capacity: float | None) -> float:
    return summary(capacity)["makespan_s"]


def test_padding_to_the_mean_costs_little_where_routing_is_even():
    assert gpu_seconds(None) <= gpu_seconds(1.0) < 1.03 * gpu_seconds(None)


def test_a_capacity_factor_multiplies_the_work_of_experts():
    """Three equal steps of the factor add equal times, those of all tokens once more; what is not experts stays."""
    two, three, four = (gpu_seconds(factor) for factor in (2.0, 3.0, 4.0))
    assert three - two == pytest.approx(four - three, rel=0.02)
    assert 0.0 < gpu_seconds(None) - (three - two) < gpu_seconds(None)
