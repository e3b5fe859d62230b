"""A sweep on one screen: columns named as briefly as they can be told apart, intervals never cut."""

from __future__ import annotations

import pytest

from moesim.results.sweeps.description import Limit
from moesim.results.sweeps.result import SweepResult
from moesim.results.sweeps.screen import sweep_text
from tests.descriptions import axis, description

COLUMNS = ("hardware.tiers.hbm.capacity (GB)", "workload.prompt")
LIMITS = Limit("ttft_s.p50", at_least=None, at_most=0.4), Limit("throughput_tok_s", at_least=1.0, at_most=None)


def table(columns: tuple[str, ...]) -> list[str]:
    """The screen of two policies at two settings, two replications each."""
    axes = (axis(name, 12, 16) for name in columns)
    rows = [
        {"point": f"{value}{policy}{replicate}", **dict.fromkeys(columns, value), "policy": policy, "seed": 0,
         "replicate": replicate, "status": "done", "error": None, "throughput_tok_s": 5.0 + value + replicate,
         "ttft_s.p50": 0.25, "bottleneck.lane": "pcie:forward", "is_bound": "yes" if policy == "belady" else "no"}
        for value in (12, 16) for policy in ("lru", "belady") for replicate in (0, 1)
    ]  # fmt: skip
    return sweep_text(SweepResult.of(description(*axes, policies=("lru", "belady"), constraints=LIMITS), rows)).splitlines()


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (COLUMNS, ["capacity (GB)", "prompt"]),
        (("hardware.tiers.hbm.capacity (GB)", "hardware.tiers.ddr.capacity (GB)"), ["hbm.capacity", "ddr.capacity"]),
        (("policy.hot",), ["hot"]),
    ],
)
def test_columns_have_the_ends_of_their_paths(columns: tuple[str, ...], heads: list[str]) -> None:
    head = next(line for line in table(columns) if "samples" in line)
    assert head.startswith(heads[0])
    assert all(name in head for name in heads)
    assert head.count("throughput_tok_s") == 1  # the metric is not named again for its own limit


def test_intervals_and_names_are_whole() -> None:
    lines = table(COLUMNS)
    assert any("17.5" in line and "11.15 to 23.85" in line and "0.25" in line for line in lines)
    assert any("belady (bound)" in line for line in lines)
    assert not any(".." in line for line in lines)
