"""Costs of an average layer, for searches: each part is what the cost model says of the expected work, summed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.contract import Problem
from moesim.policies.kit.layer_costs import LayerCosts, expected_counts, powers
from tests.policy_problems import GB, job, model, problem, system

EXPERT = 6 * 1024 * 1024.0


def posed(cpu: bool = True, **work: Any) -> Problem:
    return problem(
        system(cpu=cpu), model(experts=4, layers=2), job(**{"requests": 2, "prompt": 30, "output": 9, "layers": 2} | work)
    )


def test_an_expert_that_every_token_picks_is_sure_to_run() -> None:
    chance, tokens = expected_counts(5, np.array([1.0, 0.5, 0.0]))
    assert chance[[0, 2]] == pytest.approx([1.0, 0.0])
    assert chance[1] == pytest.approx(1 - 0.5**5)
    assert tokens[:2] == pytest.approx([5.0, 2.5 / (1 - 0.5**5)])
    assert expected_counts(1, np.array([0.25]))[0] == pytest.approx(0.25)
    assert expected_counts(1, np.array([0.25]))[1] == pytest.approx(1.0), "one token picks it once"


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_batches_to_try_are_powers_of_two_and_the_largest(limit: int, sizes: list[int]) -> None:
    assert powers(limit) == sizes


def test_copies_take_what_the_way_between_host_and_gpu_takes() -> None:
    costs, setup = LayerCosts(posed()), 1e-5
    assert costs.host == "ddr"
    assert costs.layer_bytes == 4 * EXPERT
    assert costs.upload(3) == pytest.approx(3 * (EXPERT / 25e9 + setup + 1e-7))
    assert costs.copy_in(1e6) == pytest.approx(1e6 / 25e9 + setup + 1e-7)
    assert costs.copy_out(1e6) == pytest.approx(1e6 / 25e9 + setup)
    far = LayerCosts(problem(system(cxl={"far": (GB, 9e9)}), model(), job()), host="far")
    assert far.upload(1) > costs.upload(1)
    assert far.copy_in(1e6, "ddr") == costs.copy_in(1e6)


def test_tokens_of_a_pass_are_prompts_or_one_each() -> None:
    costs = LayerCosts(posed())
    assert (costs.prompt, costs.steps) == (30.0, 8)
    assert costs.tokens("prefill", [1, 2]).tolist() == [30.0, 60.0]
    assert costs.tokens("decode", [1, 2]).tolist() == [1.0, 2.0]


def test_experts_of_a_batch_cost_what_those_expected_cost_and_a_call_each() -> None:
    """Shares sorted in each layer and averaged; two picks a token."""
    work = posed()
    costs, calls = LayerCosts(work), work.costs.calls("gpu")
    shares = np.sort(work.popularity, axis=1)[:, ::-1].mean(axis=0)
    chance, counts = expected_counts(6.0, 2 * shares)
    on_gpu = float((chance * (work.costs.gpu(counts) + calls.per_call)).sum()) + calls.once
    assert costs.experts(6) == pytest.approx(on_gpu)
    assert costs.experts([6, 6]).tolist() == [costs.experts(6)] * 2
    helper = work.costs.calls("cpu")
    on_cpu = float((chance * (work.costs.cpu(counts, "ddr") + helper.per_call)).sum()) + helper.hand_over + helper.once
    assert costs.experts_on_cpu(6) == pytest.approx(on_cpu)
    assert helper.hand_over == 1e-5
    assert np.isinf(LayerCosts(posed(cpu=False)).experts_on_cpu([1, 2])).all()


def test_dense_work_is_projections_output_and_router() -> None:
    work = posed()
    expected = work.costs.projections("gpu", 7) + work.costs.output("gpu", 7) + work.costs.router(7)
    assert LayerCosts(work).dense(7) == pytest.approx(float(expected))
    assert LayerCosts(posed(attention=False, output=1)).dense([7, 8]).tolist() == [0.0, 0.0]


def test_attention_is_priced_at_the_middle_of_the_output() -> None:
    """Prompts of 30 and 9 tokens of output: decodes attend to 34."""
    work = posed()
    shape, costs = work.model, LayerCosts(work)
    flops, nbytes = 3 * shape.core_flops_decode([34])[0], 3 * shape.core_bytes_decode([34])[0]
    assert costs.core("gpu", "decode", 3, "ddr") == pytest.approx(float(work.costs.core("gpu", flops, nbytes, "decode", "hbm")))
    assert costs.core("cpu", "decode", 3, "ddr") == pytest.approx(float(work.costs.core("cpu", flops, nbytes, "decode", "ddr")))
    flops, nbytes = 3 * shape.core_flops_prefill([30])[0], 3 * shape.core_bytes_prefill([30])[0]
    assert costs.core("gpu", "prefill", 3, "hbm") == pytest.approx(
        float(work.costs.core("gpu", flops, nbytes, "prefill", "hbm"))
    )
    assert costs.cache_read(3) == pytest.approx(3 * shape.core_bytes_decode([34])[0])
    assert costs.cache_written(10) == pytest.approx(10 * 2 * 2 * 128 * 2.0), "keys and values of 2 heads of 128, in 2 bytes"


def test_attention_on_the_cpu_has_its_activations_carried_there_and_back() -> None:
    work = posed()
    shape, costs = work.model, LayerCosts(work)
    there, back = costs.copy_out(5 * shape.qkv_activation_bytes), costs.copy_in(5 * shape.core_activation_bytes)
    core = costs.core("cpu", "decode", 3, "ddr")
    assert costs.cpu_attention(3, "ddr", tokens=5) == pytest.approx(float(core + there + back))
    assert costs.cpu_attention(3, "ddr") == costs.cpu_attention(3, "ddr", tokens=3)
    assert np.isinf(LayerCosts(posed(cpu=False)).cpu_attention([1, 2], "ddr")).all()


def test_a_job_without_attention_has_no_cache() -> None:
    bare = LayerCosts(posed(attention=False, output=1))
    assert (bare.cache_read(4), bare.cache_written(4), float(bare.core("gpu", "decode", 4, "hbm"))) == (0.0, 0.0, 0.0)
