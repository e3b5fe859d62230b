"""MoE-CXL's claims: where each holds and where it cannot, against arithmetic done here by hand.

Here ablations run for 24 tokens of output; `moesim reproduce moe-cxl-claims` takes 40.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest

from moesim.validation import CaseResult, reproduce
from moesim.validation.moe_cxl import ablations
from moesim.validation.moe_cxl.finding import Finding
from moesim.validation.moe_cxl.guesses import break_even, without_history
from moesim.validation.moe_cxl.setups import CXL, DRAM, NVME, ONE, tried

W = 3 * 4096 * 14336 * 2.0
"""Bytes of an expert of Mixtral-8x7B."""


@pytest.fixture(scope="module")
def claims() -> Iterator[CaseResult]:
    """The case, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ablations._SETS, "workload.output", 24)
        yield reproduce(["moe-cxl-claims"])[0]
    for remembered in (ablations._summary, ablations._base):
        remembered.cache_clear()


def simulated(claims: CaseResult, name: str) -> float:
    return next(row.simulated for row in claims.findings.rows if row.name == name)


def test_every_row_is_met_or_derived(claims: CaseResult) -> None:
    assert claims.verdict == "explained"
    missing = {row.name for row in claims.findings.rows if not row.within}
    assert missing == {item.row for item in claims.findings.explanations}
    assert len(claims.findings.rows) - len(missing) >= 8


def test_cxl_cannot_speed_up_what_page_locked_dram_feeds(claims: CaseResult) -> None:
    assert simulated(claims, "TTFT, gain over same policy on DRAM, CXL-D only") == pytest.approx(1.0, abs=1e-3)
    for claim in ("TTFT", "TPOT", "throughput at batch 32", "16 K tokens of context"):
        assert 18 / 24.8 < simulated(claims, f"{claim}, gain over same policy on DRAM") < 1.0


def test_against_nvme_a_miss_is_seven_times_cheaper(claims: CaseResult) -> None:
    """Read at 3.5 GB/s behind 70 us, or 24.8 (18 from CXL-C, if no faster device had a copy) behind 17 us."""
    cut = simulated(claims, "miss penalty, cut against NVMe")
    fast, slow, disk = W / 24.8e9 + 17e-6, W / 18e9 + 17e-6, W / 3.5e9 + 87e-6
    assert cut == pytest.approx(1 - fast / disk, rel=1e-3)
    assert simulated(claims, "TPOT, gain over NVMe") > disk / slow


def test_baselines_are_loads_one_after_another() -> None:
    """DeepSpeed-MoE at batch 1: two copies per layer and token, and what the GPU does between them."""
    for machine, copy in ((DRAM, W / 24.8e9 + 17e-6), (NVME, W / 3.5e9 + 87e-6)):
        step = tried("baseline", machine, ONE).simulated("tpot")
        assert 64 * copy < step < 64 * copy + 0.03


def test_the_account_and_the_run_agree_on_every_pass() -> None:
    frozen = tried("still", CXL, ONE)
    for metric in ("ttft", "tpot", "whole"):
        assert frozen.derived(metric) == pytest.approx(frozen.simulated(metric), rel=1e-3)
    assert 0.14 < frozen.deployment.resident.mean() < 0.16


def test_accuracy_follows_from_batch_and_routing(claims: CaseResult) -> None:
    assert simulated(claims, "prefetch accuracy, batch 7") == pytest.approx(1 - 0.75**7, rel=0.03)
    assert simulated(claims, "prefetch accuracy, batch 1") < 0.5
    assert without_history(128, 1, 242) == pytest.approx(0.85, abs=0.003)
    assert break_even(copy=1.0, window=1.0) == pytest.approx(1 / 3)
    assert break_even(copy=1.0, window=0.0) == 1.0


def test_speed_near_gpu_only_needs_long_prompts_or_nothing_to_place(claims: CaseResult) -> None:
    assert simulated(claims, "share of GPU-only speed, prompt of 16 K tokens") > 0.9
    assert simulated(claims, "share of GPU-only speed, Switch-Base-128 in 80 GB") == 1.0
    assert simulated(claims, "share of GPU-only speed, decode of 1") < 0.05


def test_cost_and_speed_meet_the_claim_together_for_long_prompts_alone(claims: CaseResult) -> None:
    """One card of 15,000 USD less and 96 GB of CXL at 7.5 more: 41 % off the machine, times the time it takes."""
    speed = simulated(claims, "share of GPU-only speed, prompt of 32 K tokens")
    machine = simulated(claims, "cost, cut of the machine's price, 96 GB, as much as Mixtral needs")
    token = simulated(claims, "cost, cut of capital per token, prompt of 32 K tokens alone, 96 GB")
    assert speed > simulated(claims, "share of GPU-only speed, prompt of 16 K tokens") > 0.95
    assert 1 - token == pytest.approx((1 - machine) / speed, rel=0.01)
    assert simulated(claims, "cost, cut of capital per token, batch 1") < -10


def test_a_device_counts_if_it_is_slower_than_pcie(claims: CaseResult) -> None:
    longer = [simulated(claims, f"device choice, step with CXL-{letter} over CXL-D") for letter in "ABC"]
    assert longer == pytest.approx([1, 1, 24.8 / 18], rel=0.01)


def test_busy_dram_and_slow_copies_are_what_cxl_gains_against(claims: CaseResult) -> None:
    gain = simulated(claims, "TPOT, gain over busy DRAM") / simulated(claims, "TPOT, gain over page-locked DRAM")
    assert gain == pytest.approx(24.8 / 12, rel=0.03)
    ours = W / 24.8e9 + 17e-6  # less than with CXL-C among the devices
    assert simulated(claims, "miss penalty, cut against pageable DRAM at 7 GB/s") == pytest.approx(1 - ours * 7e9 / W, abs=0.03)


def test_each_claim_is_reported_with_sign_mechanism_and_conditions(claims: CaseResult) -> None:
    described = {line.split(",")[0]: line for line in claims.note.splitlines() if "claimed" in line and "Mechanism:" in line}
    assert list(described) == [
        *("TTFT", "TPOT", "throughput at batch 32", "16 K tokens of context"),
        *("Prefetch accuracy", "Miss penalty", "Device choice", "Cost"),
    ]
    for line in described.values():
        assert all(part in line for part in ("Sign:", "Mechanism:", "Holds", "annot"))
    assert "Holds against busy DRAM (2.44), NVMe (8.25); falls short against page-locked DRAM (1.21)" in described["TTFT"]
    assert "Holds against NVMe (0.859), pageable DRAM at 7 GB/s (0.717)" in described["Miss penalty"]


def test_a_level_is_reached_at_least_or_exactly_and_an_effect_has_a_sign() -> None:
    def sign(published: float, simulated: float, **how: Any) -> str:
        return Finding("x", published, simulated, simulated, 1.0, "", **how).sign

    assert [sign(2.0, value) for value in (1.5, 1.01, 0.9)] == ["as claimed", "none", "opposite"]
    assert [sign(0.5, value) for value in (0.9, 1.1)] == ["as claimed", "opposite"]
    assert [sign(0.7, value, level="least") for value in (0.9, 0.69, 0.6)] == ["reached", "reached", "missed"]
    assert [sign(0.7, value, level="exact") for value in (0.9, 0.69)] == ["missed", "reached"]


def test_shares_follow_from_capacities(claims: CaseResult) -> None:
    listed, tight = ([simulated(claims, f"experts served from {place}, {name}") for place in ("GPU memory", "CXL", "CPU")]
                     for name in ("devices as listed", "CXL of 63 GB in all"))  # fmt: skip
    assert sum(listed) == sum(tight) == 1.0
    assert listed[2] == 0
    assert tight[1] == int(63.1e9 // W) / 256


def test_parts_of_the_policy_are_ablated(claims: CaseResult) -> None:
    table = next(exhibit for exhibit in claims.findings.exhibits if exhibit.name == "ablations").csv
    slower = {row["change"]: float(row["over_all_parts"]) for row in csv.DictReader(io.StringIO(table))}
    assert slower["placement: at random, never mended"] > slower["placement: at random, mended by the average"] > 1
    turns, cost, fastest = (
        slower[f"devices: {how}, no further copies"] for how in ("in turn", "by cost", "hottest on the fastest")
    )
    assert turns > cost > fastest
    assert cost > slower["placement: profile, never mended"]


def test_recovery_scaling_and_insensitivity_are_rows_of_their_own(claims: CaseResult) -> None:
    assert simulated(claims, "recovery after a return, times its bytes on idle links") < 2
    assert simulated(claims, "TPOT of 235 B parameters, gain over NVMe") > 6
    assert "Energy at batch 1" in claims.note
    worst = [row.simulated for row in claims.findings.rows if row.name.startswith("sensitivity to ")]
    assert len(worst) >= 5
    assert max(worst) < 1.1
