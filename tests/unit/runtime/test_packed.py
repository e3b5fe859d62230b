"""Products of packed weights on a GPU, by hand sums: few tokens, many tokens, and who pays."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moesim.contract import Costs
from moesim.hardware import Gpu
from moesim.runtime import Runtime
from moesim.runtime.packed import PackedProducts
from moesim.testing.worlds import machine, small_model

LAW = PackedProducts(
    vector_tokens=8, streaming=0.9, vector_bytes=0.1, vector_flops=1.0, unpack=0.1, matrix_flops=8.0,
    expert_flops=4.0, expert_activations=10.0, grouping=1e-4,
)  # fmt: skip
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


def test_an_expert_is_a_product_of_matrices_whose_activations_cross_the_memory() -> None:
    def expert(tokens: float, nbytes: float = BYTES) -> float:
        return float(LAW.expert_seconds(tokens, nbytes, 6e6, gpu()))

    # 3 million weights at 0.1 x 1e12: 30 us to unpack; a token: 6 MFLOP at 4e12 = 1.5 us, and 10 x 2 B x sqrt(1e6) = 20 kB at
    # 200 GB/s = 0.1 us
    assert expert(1) == pytest.approx(31.6e-6)
    assert expert(100) == pytest.approx(30e-6 + 100 * 1.6e-6)
    # 9 MB at 0.9 x 200 GB/s = 50 us hide the products of one token, and not its activations
    assert expert(1, 9e6) == pytest.approx(50.1e-6)
    assert expert(0) == 0.0


def sparse(bits: str, law: PackedProducts | None = LAW) -> Costs:
    """Eight experts, of which a token takes two."""
    shape = small_model(experts=8, top_k=2, hidden=1024, width=1024).with_precision(weights=bits, experts=bits)
    known = machine()
    system = known.with_devices({"gpu": known.gpu.model_copy(update={"vector": 2e13})})
    return Costs(shape, system, Runtime.model_validate({"gpu": {"packed": law and law.model_dump()}}))


def test_experts_of_one_token_are_vectors_and_those_of_larger_steps_matrices() -> None:
    costs = sparse("4 bits")
    law, unit, flops, nbytes = LAW, costs.system.gpu, costs.model.expert_flops, costs.model.expert_bytes
    vector, matrix = float(law.seconds(1, nbytes, flops, unit)), float(law.expert_seconds(1, nbytes, flops, unit))
    assert vector != pytest.approx(matrix, rel=0.05)
    assert [float(costs.gpu(1, several=several)) for several in (False, True)] == [vector, matrix]
    # without a word about the step an expert with one token is alone in it
    assert [float(time) for time in costs.gpu([0, 1, 2])] == [0.0, vector, float(law.expert_seconds(2, nbytes, flops, unit))]
    plain = sparse("bf16")
    assert float(plain.gpu(1, several=True)) == float(sparse("bf16", None).gpu(1))


def test_tokens_are_grouped_by_expert_from_two_on() -> None:
    grouped, plain = sparse("4 bits"), sparse("4 bits", LAW.model_copy(update={"grouping": 0.0}))
    more = [float(grouped.router(tokens) - plain.router(tokens)) for tokens in (0, 1, 2, 64)]
    assert more == pytest.approx([0.0, 0.0, 1e-4, 1e-4])
    assert float(sparse("bf16").router(2)) == float(sparse("bf16", None).router(2))
    assert float(grouped.bare.router(2)) == float(plain.bare.router(2))


def test_an_expert_may_move_a_part_of_a_number_for_each_of_the_model_and_no_negative_one() -> None:
    assert PackedProducts.model_validate({**LAW.model_dump(), "expert_activations": 0.5}).expert_activations == 0.5
    with pytest.raises(ValidationError, match="expert_activations"):
        PackedProducts.model_validate({**LAW.model_dump(), "expert_activations": -0.5})
