"""Seconds on a near-data unit by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hardware import NearDataUnit

GB, TERA = 1e9, 1e12


def unit(**changes: Any) -> NearDataUnit:
    return NearDataUnit.model_validate({"kind": "ndp", "inside": "cxl", "compute": 2 * TERA, **changes})


def test_by_default_it_reaches_both_rates() -> None:
    near = unit(bandwidth=500 * GB)
    assert near.expert_time([1, 1000, 0], 1 * GB, 1e10).tolist() == pytest.approx([0.005, 5.0, 0.0])
    assert near.gemm_time([1.0, 1e12], [1 * GB, 1.0]).tolist() == pytest.approx([1 / 500, 0.5])
    assert float(near.core_time(1.0, 1 * GB, "decode")) == pytest.approx(1 / 500)
    assert float(near.core_time(1e12, 1.0, "prefill")) == pytest.approx(0.5)


def test_weights_and_cache_of_another_tier_come_as_fast_as_that_gives_them() -> None:
    near = unit(bandwidth=500 * GB)
    assert float(near.expert_time(1, 1 * GB, 1.0, bandwidth=20 * GB)) == pytest.approx(0.05)
    assert float(near.core_time(1.0, 1 * GB, "decode", bandwidth=20 * GB)) == pytest.approx(0.05)
    assert float(near.core_time(1.0, 1 * GB, "decode", bandwidth=900 * GB)) == pytest.approx(1 / 500)


def test_without_a_bandwidth_inside_it_reads_its_tier_as_others_do() -> None:
    assert float(unit().bound(40 * GB).gemm_time(1.0, 1 * GB)) == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="this ndp is not part of a system yet"):
        unit().gemm_time(1.0, 1.0)


def test_shares_of_its_rates_and_prices_per_token_are_taken() -> None:
    slow = unit(bandwidth=500 * GB, attention={"streaming": 0.5, "efficiency": 0.25})
    assert float(slow.core_time(1.0, 1 * GB, "decode")) == pytest.approx(1 / 250)
    assert float(slow.core_time(1e12, 1.0, "decode")) == pytest.approx(2.0)
    priced = unit(experts={"kind": "per_token", "time": 1e-5})
    assert float(priced.expert_time(3, 1e12, 1e9)) == pytest.approx(3e-5)
    assert priced.valid_tokens(1.0, 1.0) is None
    ranged = unit(experts={"kind": "roofline", "valid_tokens": (2, 9)})
    assert ranged.valid_tokens(1.0, 1.0) == (2, 9)
