"""Seconds on a CPU by hand: the fastest of its kernels, blocks of tokens, attention by phase."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from moesim.hardware import Cpu

GB, TERA = 1e9, 1e12
FAST = {"rate": 10 * TERA, "bandwidth": 100 * GB, "q": math.inf, "valid_tokens": (8, 512)}
STREAMING = {"rate": 1 * TERA, "bandwidth": 200 * GB, "q": math.inf, "valid_tokens": (1, 64)}


def cpu(bandwidth: float | None = 150 * GB, **changes: Any) -> Cpu:
    parts = {"kind": "cpu", "at": "host", "kernels": {"fast": FAST, "streaming": STREAMING}}
    whole = Cpu.model_validate({**parts, **changes})
    return whole if bandwidth is None else whole.bound(bandwidth)


def test_the_fastest_kernel_runs_an_expert() -> None:
    # 1.5 GB: 15 ms at 100 GB/s, or 10 ms at the 150 GB/s of memory; 100 tokens of 1 GFLOP: 10 ms, or 100 ms
    assert cpu().expert_time([1, 100, 0], 1.5 * GB, 1e9).tolist() == pytest.approx([0.010, 0.015, 0.0])
    assert float(cpu().expert_time(1, 1.5 * GB, 1e9, bandwidth=50 * GB)) == pytest.approx(0.030)
    assert float(cpu(bandwidth=None).expert_time(1, 1.5 * GB, 1e9)) == pytest.approx(1.5 / 200)


def test_a_kernel_that_memory_held_up_streams_as_its_memory_gives() -> None:
    kernels = {"fast": {**FAST, "memory": 250 * GB}}  # 100 of 250 GB/s
    for own, stream in ((250 * GB, 100 * GB), (500 * GB, 200 * GB), (125 * GB, 50 * GB)):
        assert float(cpu(own, kernels=kernels).expert_time(1, 1.5 * GB, 1.0)) == pytest.approx(1.5 * GB / stream)
        assert float(cpu(own, kernels=kernels).gemm_time(1.0, 3 * GB)) == pytest.approx(3 * GB / stream)
    # weights in another tier come at its rate, up to what the kernel manages beside its own
    assert float(cpu(500 * GB, kernels=kernels).expert_time(1, 1.5 * GB, 1.0, bandwidth=30 * GB)) == pytest.approx(0.05)
    assert float(cpu(500 * GB, kernels=kernels).expert_time(1, 1.5 * GB, 1.0, bandwidth=300 * GB)) == pytest.approx(1.5 / 200)
    assert float(cpu(None, kernels=kernels).expert_time(1, 1.5 * GB, 1.0)) == pytest.approx(0.015)


def test_a_framework_may_have_some_of_the_kernels() -> None:
    stock = cpu(experts={"kind": "kernels", "use": ["fast"]})
    assert float(stock.expert_time(1, 1.5 * GB, 1e9)) == pytest.approx(0.015)
    assert stock.valid_tokens(1.0, 1.0) == (8, 512)


def test_the_range_of_tokens_is_that_of_all_kernels_and_unknown_if_any_has_none() -> None:
    assert cpu().valid_tokens(1.0, 1.0) == (1, 512)
    partly = {"fast": FAST, "other": {"rate": 1 * TERA}}
    assert cpu(kernels=partly).valid_tokens(1.0, 1.0) is None
    assert cpu(experts={"kind": "per_token", "time": 5e-5}).valid_tokens(1.0, 1.0) is None


def test_a_price_per_token_needs_no_kernel() -> None:
    assert cpu(experts={"kind": "per_token", "time": 5e-5}).expert_time([0, 3], 1e12, 1e9).tolist() == pytest.approx(
        [0.0, 1.5e-4]
    )


def test_a_block_of_tokens_that_is_not_full_costs_as_much() -> None:
    tiled = cpu(kernels={"tiles": {**FAST, "block": 16}})
    seconds = tiled.expert_time([1, 16, 17, 32], 1.0, 1e9)
    assert seconds.tolist() == pytest.approx([16e9 / 10e12, 16e9 / 10e12, 32e9 / 10e12, 32e9 / 10e12])


def test_dense_work_leaves_kernels_for_narrow_weights_out() -> None:
    narrow = {"rate": 100 * TERA, "bandwidth": 900 * GB, "q": math.inf, "bits": 8}
    mixed = cpu(kernels={"fast": FAST, "narrow": narrow})
    assert float(mixed.gemm_time(1e12, 1.0)) == pytest.approx(0.1)
    assert float(mixed.gemm_time(1.0, 1 * GB)) == pytest.approx(0.01)
    assert float(cpu().gemm_time(1.0, 1.5 * GB)) == pytest.approx(0.010), "no faster than memory"


def test_attention_reads_the_cache_at_its_own_rate_while_decoding_and_at_that_of_memory_in_a_prefill() -> None:
    own = cpu(attention={"bandwidth": 50 * GB, "rate": 1 * TERA})
    assert float(own.core_time(1.0, 1 * GB, "decode")) == pytest.approx(1 / 50)
    assert float(own.core_time(1.0, 1 * GB, "prefill")) == pytest.approx(1 / 150)
    assert float(own.core_time(1.0, 1 * GB, "decode", bandwidth=10 * GB)) == pytest.approx(1 / 10)
    assert float(own.core_time(1.0, 1 * GB, "prefill", bandwidth=10 * GB)) == pytest.approx(1 / 10)
    assert float(own.core_time(1e12, 1 * GB, "decode")) == pytest.approx(1.0)
    free = cpu(bandwidth=None, attention={"bandwidth": 50 * GB})
    assert float(free.core_time(1.0, 1 * GB, "prefill")) == pytest.approx(1 / 50), (
        "no memory is known that it could read faster"
    )


def test_kernels_that_do_not_exist_or_take_narrow_weights_alone_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"no kernel 'fats'; this CPU has fast, streaming. Did you mean 'fast'\?"):
        cpu(experts={"kind": "kernels", "use": ["fats"]})
    with pytest.raises(ValidationError, match="every kernel takes narrow weights only"):
        cpu(kernels={"narrow": {"rate": 1 * TERA, "bits": 8}})
