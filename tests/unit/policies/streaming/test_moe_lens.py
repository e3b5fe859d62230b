"""MoE-Lens: its analytic model, the tokens that saturate a GPU, and two groups of one batch."""

from __future__ import annotations

import policy_problems as tiny
import pytest

from moesim.contract import Alternating
from moesim.errors import InputError
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.streaming.moe_lens import MoeLens, ceiling, memory_efficiency, saturating_tokens
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load


@pytest.mark.parametrize(("prompt", "output"), [(100, 20), (500, 500), (77, 256)])
def test_memory_efficiency_is_tokens_per_sweep_and_cached_token(prompt, output):
    """A sequence lives for g sweeps, caches s + 1 .. s + g tokens in turn and has s + g processed."""
    cached = sum(prompt + step + 0.5 for step in range(output)) / output
    assert memory_efficiency(prompt, output) == pytest.approx((prompt + output) / output / cached)


def test_the_ceiling_grows_with_the_cache_until_the_gpu_is_full():
    slow, fast = (ceiling(100, 50, cached, 4.0, 1000.0) for cached in (1e4, 1e7))
    assert slow == pytest.approx(ceiling(100, 50, 2e4, 8.0, 1000.0))
    assert fast == pytest.approx(1000 * 50 / 150)


@pytest.mark.parametrize("pcie", [12e9, 25e9, 50e9])
def test_fewer_tokens_would_leave_the_gpu_waiting(pcie):
    costs = LayerCosts(tiny.problem(tiny.system(hbm=0.2e9, pcie=pcie)))
    n = saturating_tokens(costs)
    upload = float(costs.upload(8))
    assert float(costs.experts(n) + costs.dense(n)) >= upload > float(costs.experts(n - 1) + costs.dense(n - 1))


def test_a_faster_link_saturates_with_fewer_tokens():
    saturating = [saturating_tokens(LayerCosts(tiny.problem(tiny.system(pcie=pcie)))) for pcie in (12e9, 25e9, 50e9)]
    assert saturating[0] > saturating[1] > saturating[2]


def test_two_groups_of_what_the_host_holds():
    work = tiny.job(requests=301, prompt=2000, output=40)
    p = tiny.problem(tiny.system(hbm=0.3e9, ddr=0.5e9), work=work)
    deployment = MoeLens(residents=0).deploy(p)
    experts = 24 * p.model.expert_bytes
    assert experts + p.kv_bytes(deployment.plan.batch) <= 0.5e9 < experts + p.kv_bytes(deployment.plan.batch + 1)
    half = -(-deployment.plan.batch // 2)
    assert (deployment.plan.expert_batch, deployment.plan.decode.micro_batch) == (half, half)
    assert (deployment.plan.decode.pipeline, deployment.plan.decode.core, deployment.plan.kv) == (Alternating(), "cpu", "ddr")


def test_prefill_goes_in_portions_of_what_saturates():
    work = tiny.job(requests=60, prompt=100, output=4)
    p = tiny.problem(tiny.system(hbm=1e9), work=work)
    assert MoeLens(n_real=950).deploy(p).plan.prefill.sequences == 10
    assert MoeLens(n_real=950, prefill_batch=3).deploy(p).plan.prefill.sequences == 3
    assert MoeLens(n_real=9500).deploy(p).plan.prefill.sequences == 0


def test_residents_fill_gpu_memory_by_default():
    p = tiny.problem(tiny.system(hbm=0.15e9))
    assert MoeLens(residents=0).deploy(p).resident.sum() == 0
    assert MoeLens().deploy(p).resident.sum() > 0


def test_it_needs_a_cpu():
    with pytest.raises(InputError, match="no CPU"):
        MoeLens().deploy(tiny.problem(tiny.system(cpu=False)))


def test_a_scheduler_mixes_prompts_and_decodes_in_a_sweep_and_computes_preempted_sequences_again():
    rules = {"kv_cache_memory": "0.4 GB", "max_num_batched_tokens": 400, "max_num_seqs": 64}  # blocks of 23 sequences
    sets = {"workload.requests": 40, **{f"workload.scheduler.{key}": value for key, value in rules.items()}}
    result = run_loaded(load("moe_lens/mixtral-8x7b-a40", sets=sets), RunOptions(bound=False))
    steps = result.frame("steps")
    mixed = (steps["tokens"] > steps["sequences"]) & (steps["tokens"] < 98 * steps["sequences"])
    assert mixed.sum() >= 5
    assert result.summary["preemptions"] > 0
    assert result.summary["requests_completed"] == 40
    sweeps = steps["uploads"]
    assert (sweeps == sweeps.iloc[0]).all()  # each step streams the weights once, whatever is in it
