"""MoE-Lightning: the hierarchical roofline, the plan against all others, balanced micro-batches, residents by index."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Overlap, Paged
from moesim.errors import InputError
from moesim.explain.posed import posed
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.streaming.hrm import Level, attainable, leave_below, link_free_above
from moesim.policies.streaming.moe_lightning import MoeLightning, balanced, candidates
from moesim.policies.streaming.moe_lightning_memory import planned_aside, planned_free
from moesim.runs.run import loaded

CPU, GPU = Level(1.6e12, 100e9), Level(104e12, 285e9)
LINK = 16e9


# the roofline


@pytest.mark.parametrize("intensity", [0.5, 4.0, 40.0, 99.0, 101.0, 3000.0])
def test_below_the_first_turning_point_work_runs_best_where_its_data_lie(intensity):
    moved = attainable(GPU, intensity, LINK, intensity)
    assert (CPU.at(intensity) > moved) == (intensity < leave_below(CPU, LINK))


def test_the_first_turning_point_is_where_both_are_equal():
    point = leave_below(CPU, LINK)
    assert point == 1.6e12 / 16e9
    assert CPU.at(point) == pytest.approx(attainable(GPU, 1e6, LINK, point))
    assert leave_below(Level(1e12, 10e9), LINK) == 0.0


def test_above_the_second_turning_point_the_link_does_not_matter():
    point = link_free_above(GPU, 200.0, LINK)
    assert attainable(GPU, 200.0, LINK, point) == pytest.approx(GPU.at(200.0))
    assert attainable(GPU, 200.0, LINK, 1.01 * point) == attainable(GPU, 200.0, 2 * LINK, 1.01 * point)
    assert attainable(GPU, 200.0, LINK, 0.99 * point) < GPU.at(200.0)


# the plan


def setting(requests=150, prompt=200, output=30, hbm=0.2e9, **machine):
    return tiny.problem(tiny.system(hbm=hbm, **machine), work=tiny.job(requests=requests, prompt=prompt, output=output))


def test_micro_batches_are_tried_as_published():
    assert candidates(110) == [1, 2, 3, 4, 36, 68, 100]
    assert candidates(2) == [1, 2]


@pytest.mark.parametrize("hbm", [0.15e9, 0.2e9, 0.3e9])
def test_no_other_micro_batch_promises_more_sequences_a_second(hbm):
    p = setting(hbm=hbm)
    plan = MoeLightning().deploy(p).state
    plans = []
    for mu in candidates(150):
        for attention in ("cpu", "gpu"):
            try:
                plans.append(MoeLightning(micro_batch=mu, attention=attention).deploy(p).state)
            except InputError:
                continue
    assert len(plans) > 4
    per_sequence = [candidate.seconds / candidate.batch for candidate in plans if candidate.attention == plan.attention]
    assert plan.seconds / plan.batch == pytest.approx(min(per_sequence))


def test_the_predicted_layer_is_its_slowest_stream():
    p = setting(hbm=0.6e9)
    plan, costs = MoeLightning(micro_batch=36).deploy(p).state, LayerCosts(p)
    streams = (
        float(costs.upload(8 - plan.residents)),
        float(costs.cpu_attention(150, "ddr")),
        5 * float(costs.dense(36) + costs.experts(36)),
    )
    assert plan.seconds == pytest.approx(max(streams))


def test_residents_have_the_lowest_ids_and_fill_their_share_of_gpu_memory():
    p = setting()
    deployment = MoeLightning().deploy(p)
    n = deployment.state.residents
    assert deployment.resident.tolist() == [[True] * n + [False] * (8 - n)] * 3
    layer = p.layers * p.model.expert_bytes
    free = planned_free(p, replace(deployment.plan, kv="ddr", staging=0), 0.86)
    needed = n * layer + 2 * (8 - n) * p.model.expert_bytes
    assert needed <= free < needed + layer - 2 * p.model.expert_bytes
    assert deployment.plan.staging == 2 * (8 - n)


def test_published_values_can_be_given():
    p = setting()
    deployment = MoeLightning(batch=100, micro_batch=25, resident_share=0.25).deploy(p)
    assert (deployment.plan.batch, deployment.plan.expert_batch, deployment.plan.decode.micro_batch) == (100, 25, 25)
    assert deployment.resident.sum(axis=1).tolist() == [2, 2, 2]
    decode = deployment.plan.decode
    assert (decode.pipeline, decode.core, deployment.plan.kv) == (Paged(1), "cpu", "ddr")
    assert MoeLightning(attention="gpu").deploy(p).plan.decode.pipeline == Overlap(1)


def test_the_planner_counts_what_the_program_counts():
    p, model = setting(hbm=0.6e9), tiny.model()
    plan = MoeLightning(micro_batch=36).deploy(p).plan
    state, tokens = 2 * model.hidden, 36 * 200
    attention = p.non_expert_bytes() - model.embedding_bytes - model.head_bytes
    hidden = state * (2 * tokens + plan.batch * 200)  # state and residual of a micro-batch, residuals of all prompts
    cache = 2 * 2 * 2 * 2 * 128 * tokens  # of two layers: keys and values of two heads, 2 B each
    pairs = 1.2 * 2 * tokens * (state + 3 * 2 * model.expert_width)
    capacity = p.system.tiers["hbm"].capacity
    assert planned_free(p, plan, 0.86) == pytest.approx(0.86 * capacity - attention - hidden - cache - pairs)
    assert planned_aside(p, 100) == state * 100 * 200 + 2 * 8 * model.expert_bytes


def test_host_memory_bounds_the_batch_to_whole_micro_batches():
    p = setting(requests=100, prompt=500, ddr=0.25e9, hbm=1e9)
    plans = [MoeLightning(host_share=share).deploy(p).state for share in (0.8, 1.0)]
    assert plans[0].batch < plans[1].batch <= 100
    assert plans[0].batch % plans[0].micro_batch == 0


def test_plans_that_are_given_need_the_room_of_runs_alone():
    p = setting(hbm=0.44e9, prompt=200)
    with pytest.raises(InputError, match="does not fit"):
        MoeLightning(micro_batch=68).deploy(p)
    assert MoeLightning(micro_batch=68, batch=136, prefill_batch=68).deploy(p).plan.expert_batch == 68


@pytest.mark.parametrize(("machine", "output", "batch", "micro"), [
    ("t4-cloud24", 32, 504, 36), ("t4-cloud24", 256, 504, 36), ("l4-cloud24", 32, 1088, 68), ("l4-cloud24", 64, 1020, 68),
    ("l4-cloud24", 128, 884, 68), ("l4-cloud24", 256, 748, 68),
])  # fmt: skip
def test_the_planner_chooses_the_batches_that_its_authors_ran(machine, output, batch, micro):
    """MTBench, prompts padded to 418 tokens (benchmarks/mtbench/mtbench_moel_p_*.jsonl: time x throughput / tokens)."""
    lengths = {"workload.requests": 4880, "workload.output": output, "workload.profile": {"kind": "uniform"}}
    scenario = loaded("moe_lightning/mixtral-8x7b-t4", policy={"kind": "moe_lightning"}, hardware=machine, **lengths)
    plan = scenario.scenario.policy.deploy(posed(scenario)).state
    assert (plan.batch, plan.micro_batch, plan.residents) == (batch, micro, 0)


ANYWHERE = [("cpu", "ddr"), ("gpu", "hbm")]
"""Prompts of 200 tokens lie below the turning point: over a cache in the host the CPU alone is tried."""


@pytest.mark.parametrize(
    ("choices", "tried"),
    [
        ({}, ANYWHERE[:1]),
        ({"cache": None}, ANYWHERE),
        ({"cache": "gpu"}, ANYWHERE[1:]),
        ({"cache": None, "attention": "cpu"}, ANYWHERE[:1]),
        ({"cache": None, "attention": "gpu"}, [("gpu", "ddr"), ("gpu", "hbm")]),
        ({"cache": "gpu", "attention": "gpu"}, ANYWHERE[1:]),
    ],
)
def test_caches_are_tried_where_parameters_leave_them_and_the_cpu_attends_in_the_host_alone(choices, tried):
    assert MoeLightning(**choices)._caches(setting(), "ddr") == tried


def test_a_machine_without_a_cpu_attends_on_the_gpu():
    p = setting(cpu=False)
    assert MoeLightning().deploy(p).plan.decode.core == "gpu"
    with pytest.raises(InputError, match="needs a machine with a CPU"):
        MoeLightning(attention="cpu").deploy(p)


def test_it_says_when_something_has_no_place():
    with pytest.raises(InputError, match="does not fit"):
        MoeLightning().deploy(setting(hbm=0.1e9))
    with pytest.raises(InputError, match="does not fit"):
        MoeLightning(batch=100).deploy(setting(requests=100, prompt=2000, ddr=0.2e9))


# micro-batches


@pytest.mark.parametrize(("requests", "batch", "micro"), [(20, 20, 5), (23, 10, 4), (7, 7, 7), (5, 2, 1)])
def test_micro_batches_hold_about_equally_many_tokens(requests, batch, micro):
    prompt = np.random.default_rng(requests).integers(1, 400, requests)
    order = balanced(prompt, batch, micro)
    assert sorted(order.tolist()) == list(range(requests))
    for begin in range(0, requests, batch):
        members = order[begin : begin + batch]
        groups = [members[i : i + micro] for i in range(0, len(members), micro)]
        full = [int(prompt[group].sum()) for group in groups if len(group) == micro]
        assert max(full, default=0) - min(full, default=0) <= prompt[members].max()


def test_balancing_beats_going_by_number():
    prompt = np.sort(np.random.default_rng(0).integers(1, 400, 40))
    order = balanced(prompt, 40, 10)
    spread = [np.ptp(prompt[arrangement].reshape(4, 10).sum(axis=1)) for arrangement in (order, np.arange(40))]
    assert spread[0] < 0.05 * spread[1]


def test_the_order_goes_into_the_deployment():
    p = setting(hbm=0.6e9)
    p = replace(p, job=replace(p.job, prompt=np.arange(1, 151)))
    deployment = MoeLightning(micro_batch=36).deploy(p)
    assert (deployment.order == balanced(p.job.prompt, deployment.plan.batch, 36)).all()
    assert MoeLightning(balance=False).deploy(p).order is None
