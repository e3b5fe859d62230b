"""Seconds on a GPU by hand: experts and their packed formats, dense work, the attention core."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moesim.hardware import Gpu

GB, TERA = 1e9, 1e12
SHARP = {"kind": "roofline", "streaming": 0.5, "efficiency": 0.25, "q": math.inf}
"""Half of the bandwidth and a quarter of the peak, whichever takes longer."""


def gpu(bandwidth: float = 1000 * GB, **changes: Any) -> Gpu:
    parts = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 100 * TERA, "experts": SHARP, "gemm": SHARP}
    return Gpu.model_validate({**parts, **changes}).bound(bandwidth)


def test_an_expert_takes_its_weight_stream_or_its_products() -> None:
    # 1 GB at 500 GB/s; 100 tokens of 1 GFLOP at 25 TFLOP/s
    assert gpu().expert_time([1, 100, 0], 1 * GB, 1e9).tolist() == pytest.approx([2e-3, 4e-3, 0.0])
    assert float(gpu().expert_time(1, 1 * GB, 1e9, bandwidth=20 * GB)) == pytest.approx(0.05), "another tier caps the stream"
    assert float(gpu().expert_time(1, 1 * GB, 1e9, bandwidth=900 * GB)) == pytest.approx(2e-3)


def test_activations_go_through_the_memory_of_the_gpu_wherever_the_weights_come_from() -> None:
    # hidden * width = FLOP / 6 = 1e8: a token moves 8 * 2 * 1e4 bytes, 0.16 us at 1 TB/s, beside 0.024 us of products
    narrow = gpu(experts={**SHARP, "activations": 8.0})
    assert float(narrow.expert_time(1000, 1.0, 6e8)) == pytest.approx(1000 * (6e8 / 25e12 + 1.6e-7))
    assert float(narrow.expert_time(1000, 1.0, 6e8, bandwidth=1 * GB)) == pytest.approx(1000 * (6e8 / 25e12 + 1.6e-7))


def packed(bits: float, streaming: float, **more: Any) -> dict[str, Any]:
    return {"bits": bits, "experts": {**SHARP, "streaming": streaming, "valid_tokens": (1, bits)}, **more}


def test_experts_cost_what_the_smallest_format_that_holds_them_costs() -> None:
    both = gpu(formats={"eight": packed(8.5, 0.25), "four": packed(4.5, 0.1)}, experts={**SHARP, "valid_tokens": (1, 16)})
    weights = 1e9  # FLOP per token are twice as many; at 1 TB/s
    for bits, streaming, most in (
        (16, 0.5, 16),
        (8.51, 0.5, 16),
        (8.5, 0.25, 8.5),
        (4.6, 0.25, 8.5),
        (4.5, 0.1, 4.5),
        (2, 0.1, 4.5),
    ):
        nbytes = weights * bits / 8
        assert float(both.expert_time(1, nbytes, 2 * weights)) == pytest.approx(nbytes / (streaming * 1000 * GB)), bits
        assert both.valid_tokens(nbytes, 2 * weights) == (1, most)


def test_a_format_may_have_a_peak_of_its_own() -> None:
    fast = gpu(formats={"eight": packed(8, 0.5, compute=400 * TERA)})
    for bits, peak in ((8, 400 * TERA), (16, 100 * TERA)):
        assert float(fast.expert_time(10_000, bits / 8 * 1e6, 2e6)) == pytest.approx(10_000 * 2e6 / (0.25 * peak))


def test_prices_per_token_and_tables_of_points_leave_weights_and_tokens_to_themselves() -> None:
    priced = gpu(experts={"kind": "per_token", "time": 5e-6})
    assert float(priced.expert_time(3, 1e12, 1e9)) == pytest.approx(15e-6)
    assert priced.valid_tokens(1e9, 1e9) is None
    table = gpu(experts={"kind": "table", "weights": 1 * GB, "tokens": (2, 8), "time": (1e-3, 4e-3)})
    assert table.expert_time([1, 2, 4, 8, 16, 0], 1 * GB, 1.0).tolist() == pytest.approx([1e-3, 1e-3, 2e-3, 4e-3, 8e-3, 0.0])
    assert float(table.expert_time(2, 0.5 * GB, 1.0)) == pytest.approx(0.5e-3)
    assert float(table.expert_time(2, 1 * GB, 1.0, bandwidth=10 * GB)) == pytest.approx(0.1)
    assert table.valid_tokens(1 * GB, 1.0) == (2, 8)


def test_dense_work_streams_operands_or_multiplies() -> None:
    assert gpu().gemm_time([1e12, 1e9], [1e9, 1e9]).tolist() == pytest.approx([1e12 / 25e12, 2e-3])


def test_the_attention_core_streams_the_cache_at_its_own_share_and_no_faster_than_the_tier_gives() -> None:
    attending = gpu(attention={"streaming": 0.8, "efficiency": 0.5})
    for phase in ("prefill", "decode"):
        assert float(attending.core_time(1.0, 8 * GB, phase)) == pytest.approx(0.01)
        assert float(attending.core_time(1e12, 1.0, phase)) == pytest.approx(0.02)
        assert float(attending.core_time(1.0, 8 * GB, phase, bandwidth=16 * GB)) == pytest.approx(0.5)
        assert float(attending.core_time(1.0, 8 * GB, phase, bandwidth=5000 * GB)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "prices"), [({}, False), ({"launch": 0.0}, True), ({"fused": False}, True), ({"sync": 0.0}, True)]
)
def test_a_device_that_states_any_cost_of_a_call_prices_all_of_them(changes: dict[str, Any], prices: bool) -> None:
    assert gpu(**changes).prices_calls is prices
