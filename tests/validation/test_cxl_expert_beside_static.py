"""CXL-Expert with its defaults is nowhere much slower than the better of the two static placements that it chooses between."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load

QWEN = "cxl_expert/qwen3-30b"
SMALL: dict[str, Any] = {"workload.prompt": 32, "workload.output": 4}
NO_DEVICE = {"kind": "cxl_expert", "cxl": "none"}
STATIC = ({"kind": "static_popularity"}, {"kind": "static_popularity", "misses": "cpu"})


def speed(name: str, policy: dict[str, Any], requests: int, **elsewhere: str) -> float:
    scenario = load(name, policy=policy, sets={**SMALL, **elsewhere, "workload.requests": requests})
    return float(run_loaded(scenario, RunOptions(bound=False)).summary["throughput_tok_s"])


@pytest.mark.parametrize(
    ("name", "policy", "requests"),
    [
        (QWEN, {"kind": "cxl_expert"}, 1),
        (QWEN, {"kind": "cxl_expert"}, 32),
        (QWEN, {"kind": "cxl_expert"}, 256),
        ("compare/offline-qwen3-30b", NO_DEVICE, 4),
        ("compare/offline-qwen3-30b", NO_DEVICE, 256),
        ("compare/offline-mixtral-8x7b", NO_DEVICE, 1),
        ("compare/offline-mixtral-8x7b", NO_DEVICE, 4),
        ("compare/offline-mixtral-8x7b", NO_DEVICE, 256),
        ("ktransformers/deepseek-v3-q4-dual", NO_DEVICE, 1),
        ("ktransformers/deepseek-v3-q4-dual", NO_DEVICE, 256),
    ],
)
def test_it_is_within_five_percent_of_the_better_static_placement(name: str, policy: dict[str, Any], requests: int) -> None:
    assert speed(name, policy, requests) > 0.95 * max(speed(name, static, requests) for static in STATIC)


@pytest.mark.parametrize("requests", [4, 32])
def test_nor_does_it_lose_where_few_experts_are_large_and_cold_experts_share_a_threshold_with_hot(requests: int) -> None:
    elsewhere = {"hardware": "a100-xeon8460h-cxl", "model": "mixtral-8x7b"}
    static = max(speed(QWEN, policy, requests, **elsewhere) for policy in STATIC)
    assert speed(QWEN, {"kind": "cxl_expert"}, requests, **elsewhere) > 0.95 * static


def test_the_fixed_percentile_is_what_loses_at_one_sequence() -> None:
    by_load, printed = ({"kind": "cxl_expert", "mode": mode} for mode in ("load", "printed"))
    fixed = speed(QWEN, printed, 1)
    assert fixed < 0.9 * max(speed(QWEN, static, 1) for static in STATIC)
    assert speed(QWEN, by_load, 1) > 1.5 * fixed
