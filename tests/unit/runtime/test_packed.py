"""Products of packed weights on a GPU, by hand sums: few tokens, many tokens, and who pays."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.contract import Costs
from moesim.hardware import Gpu, Roofline
from moesim.hardware.gpu import ExpertFormat
from moesim.runtime import GpuPrograms, Runtime
from moesim.runtime.packed import PackedProducts
from moesim.testing.worlds import machine, small_model

LAW = PackedProducts(vector_tokens=8, streaming=0.9, vector_bytes=0.1, vector_flops=1.0, unpack=0.1, matrix_flops=8.0)
WEIGHTS, BYTES = 1e6, 0.5e6
"""A product of a million weights of 4 bits."""


def gpu(vector: float | None = 1e12, bandwidth: float = 2e11) -> Gpu:
    """100 TFLOPS, v = 1e12, 200 GB/s, a sharp corner."""
    parts: dict[str, Any] = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14, "vector": vector}
    return Gpu.model_validate({**parts, "gemm": {"kind": "roofline", "q": float("inf")}}).bound(bandwidth)


def seconds(tokens: float, unit: Gpu) -> float:
    return float(LAW.seconds(tokens, BYTES, 2 * WEIGHTS, unit))


def test_one_token_streams_the_weights_at_what_memory_or_the_vector_units_give() -> None:
    # 0.9 x 200 GB/s = 180 GB/s above the units' 0.1 B x 1e12 = 100 GB/s: 0.5 MB take 5 us
    assert seconds(1, gpu()) == pytest.approx(5e-6)
    # with 50 GB/s the memory is the slower one: 0.5 MB at 45 GB/s
    assert seconds(1, gpu(bandwidth=5e10)) == pytest.approx(0.5e6 / 4.5e10)


def test_a_few_tokens_cost_their_vectors_and_many_unpack_each_weight_once() -> None:
    # 8 tokens x 2 MFLOP at 1 FLOP x 1e12: 16 us; 9 tokens: 1e6 / 0.1 / 1e12 = 10 us to unpack + 18 MFLOP at 8e12 = 2.25 us
    assert seconds(8, gpu()) == pytest.approx(16e-6)
    assert seconds(9, gpu()) == pytest.approx(12.25e-6)
    assert seconds(512, gpu()) == pytest.approx(10e-6 + 512 * 2e6 / 8e12)
    # as long for weights of half the bits: it is unpacking that takes the time
    assert float(LAW.seconds(16, BYTES / 2, 2 * WEIGHTS, gpu())) == pytest.approx(seconds(16, gpu()))


def test_a_faster_gpu_unpacks_faster_in_proportion() -> None:
    assert seconds(64, gpu()) == pytest.approx(2 * seconds(64, gpu(vector=2e12)))


def costs_of(bits: str, vector: float | None, law: PackedProducts | None = LAW) -> Costs:
    """A dense model, its only expert of a layer among its products."""
    shape = small_model(experts=1, top_k=1, hidden=2048, width=4096).with_precision(weights=bits, experts=bits)
    known = machine()
    system = known.with_devices({"gpu": known.gpu.model_copy(update={"vector": vector})})
    return Costs(shape, system, Runtime.model_validate({"gpu": {"packed": law and law.model_dump()}}))


def times(costs: Costs, tokens: int) -> tuple[float, float, float]:
    return float(costs.output("gpu", tokens)), float(costs.head(tokens)), float(costs.gpu(tokens))


def test_only_products_of_packed_weights_are_its_own() -> None:
    assert times(costs_of("4 bits", 2e13), 32) != pytest.approx(times(costs_of("4 bits", 2e13, None), 32))
    assert times(costs_of("bf16", 2e13), 32) == times(costs_of("bf16", 2e13, None), 32)


def test_a_gpu_of_unknown_vector_units_runs_other_products() -> None:
    assert times(costs_of("4 bits", None), 32) == times(costs_of("4 bits", None, None), 32)


def test_the_bound_counts_the_same_products_without_their_calls() -> None:
    costs = costs_of("4 bits", 2e13)
    call = costs.runtime.fixed(costs.system.gpu, "output")
    for tokens in (1, 8, 9, 512):
        assert float(costs.output("gpu", tokens)) == pytest.approx(float(costs.bare.output("gpu", tokens)) + call)


def test_experts_of_packed_formats_stream_no_faster_than_one_token_of_a_dense_product() -> None:
    def streaming(vector: float | None) -> float:
        experts = {"kind": "roofline", "streaming": 0.85}
        unit = gpu(vector).model_copy(
            update={"formats": {"int4": ExpertFormat.model_validate({"bits": 4.6, "experts": experts})}}
        )
        limited = GpuPrograms(packed=LAW).over(unit.bound(2e11)).formats["int4"].experts
        assert isinstance(limited, Roofline)
        return limited.streaming

    # 0.1 B x 1e12 = 100 of 200 GB/s; with twice the units the format's own share holds
    assert [streaming(vector) for vector in (1e12, 2e12, None)] == [pytest.approx(0.5), 0.85, 0.85]
