"""What CoX-MoE's planner takes a machine for: sharp rooflines at quoted rates. Source: arXiv:2605.17889."""

from __future__ import annotations

import policy_problems as tiny
import pytest

from moesim.policies.in_place.planner_constants import AMX, AVX512, DRAM, PCIE, believed

MACHINE = tiny.system(cxl={"cxl0": (2e9, 9e9)}, ndp=True)
REAL = tiny.problem(MACHINE)
PLANNED = believed(REAL)
EXPERT = 6 * 1024 * 1024.0
"""Bytes of an expert, and FLOP of a token in it."""


def test_the_quoted_rates_are_those_of_the_paper() -> None:
    assert (AMX, AVX512, PCIE, DRAM) == (144e12, 18e12, 32e9, 300e9)


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 0.0), (1, EXPERT / 300e9), (10_000, 10_000 * EXPERT / 144e12)])
def test_the_cpu_streams_at_the_rate_of_dram_and_computes_at_that_of_amx(tokens: int, seconds: float) -> None:
    assert float(PLANNED.costs.cpu(tokens, "ddr")) == pytest.approx(seconds, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(("tokens", "seconds"), [(1, EXPERT / 2e12), (10_000, 10_000 * EXPERT / 2e14)])
def test_the_gpu_reaches_its_peaks(tokens: int, seconds: float) -> None:
    assert float(PLANNED.costs.gpu(tokens)) == pytest.approx(seconds, rel=1e-6)
    assert float(REAL.costs.gpu(tokens)) > seconds


def test_copies_cross_at_the_rate_of_the_link_without_set_up() -> None:
    assert float(PLANNED.costs.copy(32e9, "ddr", "hbm")) == pytest.approx(1.0, rel=1e-6)
    assert float(PLANNED.costs.copy(32e9, "hbm", "ddr")) == pytest.approx(1.0, rel=1e-6)
    assert float(PLANNED.costs.copy(0.032, "ddr", "hbm")) < 2e-7, "0.1 us of DRAM's latency is all there is to pay"


def test_attention_on_the_cpu_reads_keys_and_values_as_fast_as_dram() -> None:
    assert float(PLANNED.costs.core("cpu", 1.0, 3e9, "decode", "ddr")) == pytest.approx(1e-2, rel=1e-6)


def test_what_the_paper_says_nothing_about_stays() -> None:
    real, planned = REAL.system, PLANNED.system
    assert {name: tier.capacity for name, tier in planned.tiers.items()} == {
        name: tier.capacity for name, tier in real.tiers.items()
    }
    assert planned.tiers["cxl0"] == real.tiers["cxl0"]
    assert planned.links["to_cxl0"] == real.links["to_cxl0"]
    assert planned.devices["ndp_cxl0"] == real.devices["ndp_cxl0"]
    assert planned.gpu.compute == real.gpu.compute
    assert REAL.system.links["pcie"].rate == 25e9, "the run's own machine is another object"
