"""What a placement is made from: bytes of GPU memory by what holds them, tiers and devices by number, the KV cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.contract import BatchPlan, Homes, PhasePlan, Problem
from moesim.model.attention import Linear
from moesim.runtime import Runtime
from moesim.workload.table import Job
from tests.policy_problems import GB, model, problem, system

TOKEN = 3 * 2 * 2 * 128 * 2.0
"""Bytes of keys and values of a token: 3 layers, 2 heads of 128 values in 2 bytes, keys and values."""
LINEAR = Linear(heads=4, key_heads=4, key_dim=8, value_dim=8)
STATE = 2 * 1024.0
"""Bytes of a token's hidden state."""
PLAN = BatchPlan(2, PhasePlan(1), PhasePlan(2), staging=2, swap=1)


def posed(runtime: dict[str, Any] | None = None, **job: Any) -> Problem:
    work = Job(np.zeros(3), np.array([30, 10, 20]), np.array([4, 9, 1]), layers=3, attention=True)
    built = problem(system(cxl={"near": (GB, 22e9), "far": (GB, 9e9)}, ndp=True), work=replace(work, **job))
    return replace(built, runtime=Runtime.model_validate(runtime)) if runtime else built


def test_names_and_numbers_of_tiers_and_devices() -> None:
    work = posed()
    assert work.tiers == ("hbm", "ddr", "near", "far")
    assert work.devices == ("gpu", "cpu", "ndp_near", "ndp_far")
    assert (work.gpu_tier, work.gpu_tier_index, work.attending_index, work.cpu_index) == ("hbm", 0, 0, 1)
    assert work.ndp_index == {2: 2, 3: 3}
    assert problem(system(cpu=False)).cpu_index == -1
    assert (work.main_memory, work.memory_of("gpu"), work.memory_of("cpu"), work.memory_of("ndp_far")) == (
        "ddr",
        "hbm",
        "ddr",
        "far",
    )
    assert problem(system(ddr=0.0, cpu=False)).main_memory == "hbm"


def test_the_cache_is_that_of_the_longest_requests_of_a_batch() -> None:
    assert [posed().kv_bytes(batch) for batch in (0, 1, 2, 3, 9)] == [0.0, 34 * TOKEN, 55 * TOKEN, 74 * TOKEN, 74 * TOKEN]
    assert posed(kv=5.0).kv_bytes(3) == 5.0
    assert posed(attention=False).kv_bytes(3) == posed(attention=False, kv=5.0).kv_bytes(3) == 0.0


def test_a_scheduler_pools_whole_blocks_and_the_states_of_all_who_may_be_there() -> None:
    assert posed(most=2, kv_block=10).kv_bytes(2) == (40 + 30) * TOKEN
    hybrid = model().model_copy(update={"linear": LINEAR, "linear_layers": (0, 2)})
    state = 2 * hybrid.state_bytes
    work = replace(posed(most=2), model=hybrid)
    assert work.kv_bytes(1) == 2 * state + 34 * TOKEN / 3
    shares = work.gpu_shares(PLAN)
    assert (shares["KV cache"], shares["states of 2 sequences"]) == (55 * TOKEN / 3, 2 * state)
    assert set(replace(posed(most=2, kv=5.0), model=hybrid).gpu_shares(PLAN)) == set(posed().gpu_shares(PLAN))


def test_a_program_keeps_memory_of_the_gpu_for_itself() -> None:
    assert posed({"reserve": 2e8}).usable("hbm") == GB - 2e8
    assert posed({"reserve": 2e8}).usable("ddr") == 8 * GB
    assert posed({"reserve": 2e9}).usable("hbm") == 0.0


def test_intermediates_are_those_of_the_larger_phase() -> None:
    work, shape = posed(), model()
    per_token = 2 * (shape.qkv_activation_bytes + shape.core_activation_bytes)
    routed = 2.0 * shape.top_k * shape.matrices * shape.expert_width  # of every expert of a token, what all matrices make of it

    def expected(together: int, attending: int) -> float:
        return 3 * STATE * together + max(per_token * attending, routed * together)

    # prompts of 30 + 20 tokens pass together; attention goes by one sequence in the prefill, by two in a decode
    assert work.activation_bytes(PLAN) == expected(50, 30)
    assert work.activation_bytes(replace(PLAN, prefill=PhasePlan(1, sequences=1))) == expected(30, 30)
    assert work.activation_bytes(replace(PLAN, prefill=PhasePlan(1, chunk=8))) == expected(8, 8)
    tiny = replace(PLAN, prefill=PhasePlan(1, chunk=1))
    assert work.activation_bytes(tiny) == expected(2, 2), "the decode of two sequences is larger"
    assert posed(attention=False).activation_bytes(PLAN) == 3 * STATE * 50


def test_the_feed_forward_part_takes_room_for_all_pairs_of_a_fused_call_or_for_the_busiest_expert() -> None:
    shape, attended = model(), 2 * (model().qkv_activation_bytes + model().core_activation_bytes) * 30
    per_pair = 2.0 * shape.matrices * 4096

    def room(runtime: dict[str, Any], **changes: Any) -> float:
        work = replace(posed(runtime), model=shape.model_copy(update={"expert_width": 4096, **changes}))
        return work.activation_bytes(PLAN) - 3 * STATE * 50

    assert room({}) == per_pair * shape.top_k * 50 > attended
    busiest = shape.top_k * posed().popularity.max(axis=1).mean()
    assert room({"gpu": {"fused": False}}) == pytest.approx(max(attended, per_pair * busiest * 50))
    assert room({"gpu": {"fused": False}}, dense_width=50_000) == 2.0 * shape.matrices * 50_000 * 30
    assert room({"gpu": {"expert_tokens": 40}}) == per_pair * shape.top_k * 40, "longer steps take turns"
    assert room({"gpu": {"fused": False, "expert_tokens": 5}}, expert_width=40_960) == 10 * per_pair * 5
    apart = replace(posed({}), model=shape.model_copy(update={"expert_width": 4096}))
    one_by_one = apart.activation_bytes(replace(PLAN, expert_batch=1)) - 3 * STATE * 50
    assert one_by_one == per_pair * shape.top_k * 30, "of the sequences that pass the experts together, the longest"


def test_logits_take_the_room_that_intermediates_leave() -> None:
    with_logits, without = (posed({"logits": logits}).activation_bytes(PLAN) for logits in (600.0, 0.0))
    assert with_logits == 3 * STATE * 50 + 600.0 * 1000 * 50
    assert without < with_logits


def test_logits_are_those_of_all_prompt_tokens_that_pass_together() -> None:
    assert posed({"logits": 6.0}).logit_bytes(PLAN) == 6.0 * 1000 * 50
    assert posed({"logits": 6.0}).logit_bytes(replace(PLAN, prefill=PhasePlan(1, chunk=8))) == 6.0 * 1000 * 8
    assert posed({"logits": 6.0}, attention=False).logit_bytes(PLAN) == 0.0
    assert posed().logit_bytes(PLAN) == 0.0


def test_gpu_memory_holds_what_its_shares_say_and_the_rest_is_free() -> None:
    work, shape = posed({"logits": 6.0, "reserve": 1e8}), model()
    shares = work.gpu_shares(PLAN)
    assert shares == {
        "weights other than routed experts": shape.non_expert_bytes,
        "intermediates of 2 sequences": work.activation_bytes(PLAN),
        "KV cache": 55 * TOKEN,
        "3 staging slots": 3 * shape.expert_bytes,
    }
    assert work.gpu_free(PLAN) == pytest.approx(GB - 1e8 - sum(shares.values()))
    assert "KV cache" not in work.gpu_shares(replace(PLAN, kv="ddr"))
    lone = posed(attention=False)
    assert lone.non_expert_bytes() == 3 * shape.router_bytes


def test_weights_of_operations_that_another_device_runs_are_taken_off() -> None:
    work, shape = posed(), model()
    half = replace(PLAN, decode=replace(PLAN.decode, projections="cpu", output="cpu"))
    assert work.gpu_shares(half).keys() == work.gpu_shares(PLAN).keys(), "the GPU runs them in the prefill"
    both = replace(half, prefill=replace(PLAN.prefill, projections="cpu"))
    assert work.gpu_shares(both)["projections that another device runs"] == -3 * shape.qkv_bytes
    assert "output projections that another device runs" not in work.gpu_shares(both)
    last = replace(half, prefill=replace(PLAN.prefill, output="cpu"))
    assert work.gpu_shares(last)["output projections that another device runs"] == -3 * shape.output_bytes


def test_weights_that_live_elsewhere_are_taken_off_and_their_buffers_added() -> None:
    work, shape = posed(), model()
    away = replace(PLAN, homes=Homes(attention="ddr", head="ddr", embeddings="near"))
    shares, matrices = work.gpu_shares(away), shape.qkv_bytes + shape.output_bytes
    assert shares["those that live elsewhere"] == -(3 * matrices + shape.head_bytes + shape.embedding_bytes)
    assert shares["buffers for those"] == work.weight_buffer(away) == max(matrices, shape.head_bytes)
    assert work.weight_buffer(PLAN) == 0.0
    assert work.host_shares(away) == {
        "ddr": {"weights other than routed experts": 3 * matrices + shape.head_bytes},
        "near": {"weights other than routed experts": shape.embedding_bytes},
    }


def test_a_host_tier_has_the_cache_that_lies_there_beside_experts() -> None:
    work = posed()
    assert work.host_shares(PLAN) == {}
    assert work.host_shares(replace(PLAN, kv="ddr")) == {"ddr": {"KV cache": 55 * TOKEN}}
    both = replace(PLAN, kv="ddr", homes=Homes(head="ddr"))
    assert work.host_overhead(both) == {"ddr": 55 * TOKEN + model().head_bytes}


def test_experts_of_layers_in_other_formats_have_their_own_bytes_unless_all_are_to_be_alike() -> None:
    mixed = model().with_precision(experts=["bf16", "int8", "int4"])
    work = problem(shape=mixed)
    sizes = work.expert_bytes()
    assert sizes.shape == (3, 8)
    assert sizes[:, 0].tolist() == pytest.approx(mixed.expert_bytes_by_layer.tolist())
    assert len(set(sizes[:, 0].tolist())) == 3
    assert work.expert_bytes(alike=True) == pytest.approx(np.full((3, 8), sizes[:, 0].mean()))
