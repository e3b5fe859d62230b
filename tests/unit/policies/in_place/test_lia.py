"""LIA: all 2^6 vectors priced, the thresholds that follow, pinned layers, and what lies in CXL memory."""

from __future__ import annotations

from itertools import product

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Homes, Overlap
from moesim.errors import InputError
from moesim.hardware import System
from moesim.policies.in_place.lia import Lia
from moesim.policies.in_place.lia_vector import VECTORS, SubLayers, best, expressible, price, seconds
from moesim.policies.kit.closed_forms import break_even_tokens
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.runs.run import loaded, problem_of

PAIR = {"a": (1e9, 40e9), "b": (1e9, 40e9)}


# the vectors


def one_by_one(parts: SubLayers, vector) -> float:
    """T(p) sub-layer after sub-layer, as the paper writes it."""
    total = 0.0
    for i in range(6):
        p, before = vector[i], vector[(i - 1) % 6]
        total += parts.compute[i, p]
        if p != before:
            total += parts.entering[i]
        if p == 0:
            total += parts.operand[i, 0]
        if i == 3 and vector[5] != p:  # the residual is the layer's input, which FC2 of the layer before left there
            total += parts.residual[3]
        if i == 5 and vector[3] != p:
            total += parts.residual[5]
    return total + (parts.store if vector[0] == 0 else 0.0)


def test_all_64_vectors_cost_what_their_sub_layers_add_up_to():
    rng = np.random.default_rng(0)
    parts = SubLayers(rng.random((6, 2)), np.stack([rng.random(6), np.zeros(6)], 1), rng.random(6), rng.random(6), 0.3)
    assert seconds(parts) == pytest.approx([one_by_one(parts, vector) for vector in VECTORS.tolist()])
    vector, time = best(parts)
    assert time == pytest.approx(min(one_by_one(parts, vector) for vector in VECTORS.tolist()))
    assert one_by_one(parts, vector.tolist()) == pytest.approx(time)


def test_the_vectors_are_all_there_are_and_16_of_them_can_be_run():
    assert len({tuple(vector) for vector in VECTORS.tolist()}) == 64
    assert expressible().sum() == 16
    assert all(v[1] == v[2] and v[4] == v[5] for v in VECTORS[expressible()].tolist())


def test_the_parts_are_what_the_machine_costs():
    p = tiny.problem(work=tiny.job(requests=30, prompt=100, output=20))
    costs = LayerCosts(p)
    parts = price(costs, "decode", 30, "ddr")
    assert parts.compute[4:, 0].sum() == pytest.approx(float(costs.experts(30)))
    assert parts.compute[4:, 1].sum() == pytest.approx(float(costs.experts_on_cpu(30)))
    assert parts.compute[1:3, 1].sum() == pytest.approx(float(costs.core("cpu", "decode", 30, "ddr")))
    assert parts.operand[4:, 0].sum() == pytest.approx(float(costs.upload(8)))
    assert parts.operand[1:3, 0].sum() == pytest.approx(float(costs.copy_in(costs.cache_read(30), "ddr")))
    assert not price(costs, "prefill", 30, "ddr").operand[1:3].any()
    assert price(costs, "decode", 30, "ddr", pinned=1.0).operand[4:].sum() == 0
    assert np.isinf(price(LayerCosts(tiny.problem(tiny.system(cpu=False))), "decode", 4, "ddr").compute[:, 1]).all()


# thresholds


def bare(rate: float = 2e12, pcie: float = 25e9, memory: float = 200e9) -> System:
    """A machine without fixed costs whose CPU adds compute to reading (q = 1) and whose GPU takes no time."""
    gpu = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e18, "launch": 0.0, "attention": {"efficiency": 1.0}}
    kernel = {"rate": rate, "bandwidth": memory, "q": 1.0}
    cpu = {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"amx": kernel}, "fused": True}
    cpu["attention"] = {"bandwidth": memory, "rate": 1e15}
    tiers = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": 1e9, "read": 1e15},
        "ddr": {"kind": "ddr", "at": "host", "capacity": 64e9, "read": memory},
    }
    links = {"pcie": {"ends": ["host", "gpu"], "rate": pcie, "serial": True}}
    return System(name="bare", devices={"gpu": gpu, "cpu": cpu}, tiers=tiers, links=links)


@pytest.mark.parametrize(("rate", "pcie"), [(2e12, 25e9), (2e12, 50e9), (1e12, 12e9)])
def test_experts_move_to_the_gpu_at_the_closed_form_threshold(rate, pcie):
    """M* = P (1 / B_pcie - 1 / B_ddr) tokens per expert; every expert gets k B / E of B sequences."""
    threshold = break_even_tokens(rate, pcie, 200e9) * 8 / 2
    vectors = {}
    for side in (0.9, 1.1):
        batch = int(side * threshold)
        work = tiny.job(requests=batch, prompt=16, output=2)
        p = tiny.problem(bare(rate, pcie), work=work, profile=np.full((3, 8), 1 / 8))
        vectors[side] = best(price(LayerCosts(p), "decode", batch, "ddr"))[0][4:].tolist()
    assert vectors == {0.9: [1, 1], 1.1: [0, 0]}


def test_attention_stays_on_the_cpu_when_the_cache_is_longer_than_what_crosses():
    work = tiny.job(requests=64, prompt=2000, output=20)
    p = tiny.problem(bare(), work=work)
    assert best(price(LayerCosts(p), "decode", 64, "ddr"))[0][1:3].tolist() == [1, 1]


def test_a_fast_link_leaves_the_cpu_nothing():
    work = tiny.job(requests=64, prompt=2000, output=20)
    p = tiny.problem(bare(pcie=2e12), work=work)
    assert not best(price(LayerCosts(p), "decode", 64, "ddr"))[0].any()


# the policy


def test_vectors_become_devices_and_dispatch():
    p = tiny.problem(tiny.system(hbm=0.2e9))
    policy = Lia(prefill_vector=(0, 0, 0, 0, 0, 0), decode_vector=(0, 1, 1, 0, 1, 1), pinned_layers=1)
    deployment = policy.deploy(p)
    prefill, decode = deployment.plan.prefill, deployment.plan.decode
    assert (prefill.projections, prefill.core, prefill.output, prefill.pipeline) == ("gpu", "gpu", "gpu", Overlap(1))
    assert (decode.projections, decode.core, decode.output, decode.pipeline) == ("gpu", "cpu", "gpu", Overlap())
    assert deployment.resident.tolist() == [[True] * 8, [False] * 8, [False] * 8]
    view = tiny.view_of(p, deployment)
    for layer, phase, device in ((0, "decode", "gpu"), (1, "decode", "cpu"), (1, "prefill", "gpu")):
        chosen = policy.dispatch(tiny.visit_of(p, deployment, layer, [1] * 8, phase), view)
        assert {p.devices[d] for d in chosen.device.tolist()} == {device}


def test_the_best_runnable_plan_is_chosen():
    p = tiny.problem(tiny.system(hbm=0.2e9), work=tiny.job(requests=40, prompt=400, output=30))
    plan = Lia().deploy(p).state
    runnable = [tuple(vector) for vector in VECTORS[expressible()].tolist()]
    beside = {(plan.prefill, vector) for vector in runnable} | {(vector, plan.decode) for vector in runnable}
    drawn = np.random.default_rng(0).permutation(list(product(range(len(runnable)), repeat=2)))[:12]
    rivals = [*beside, *((runnable[first], runnable[second]) for first, second in drawn.tolist())]
    seconds = [Lia(prefill_vector=first, decode_vector=second).deploy(p).state.seconds for first, second in rivals]
    assert plan.seconds == pytest.approx(min(seconds))
    assert max(seconds) > 1.5 * plan.seconds


def test_spare_gpu_memory_takes_whole_layers():
    for hbm, layers in ((0.15e9, 0), (0.185e9, 3), (0.5e9, 3)):
        p = tiny.problem(tiny.system(hbm=hbm))
        held = Lia(prefill_vector=(0,) * 6, decode_vector=(0,) * 6).deploy(p).resident
        assert held.all(axis=1).sum() == held.any(axis=1).sum() == layers


def test_what_only_the_gpu_reads_lies_in_cxl_memory_and_the_cache_in_dram():
    p = tiny.problem(tiny.system(hbm=0.15e9, cxl=PAIR))
    on_gpu = {"prefill_vector": (0,) * 6, "decode_vector": (0,) * 6}
    homes = {}
    for name, more in (("gpu", on_gpu), ("off", {**on_gpu, "cxl": False}), ("cpu", {"decode_vector": (0, 1, 1, 0, 1, 1)})):
        deployment = Lia(**more).deploy(p)
        homes[name] = {p.tiers[t] for t in np.unique(deployment.home)}
        assert deployment.plan.kv == "ddr"
    assert homes == {"gpu": {"a"}, "off": {"ddr"}, "cpu": {"ddr"}}


def test_freed_dram_buys_a_larger_batch():
    work = tiny.job(requests=200, prompt=400, output=20)
    batches = [
        Lia(decode_vector=(0, 1, 1, 0, 0, 0)).deploy(tiny.problem(tiny.system(0.3e9, 0.3e9, cxl), work=work)).plan.batch
        for cxl in (None, PAIR)
    ]
    assert batches[0] < batches[1]


def test_it_refuses_vectors_that_nothing_can_run():
    with pytest.raises(InputError, match="decode_vector as given"):
        Lia(decode_vector=(0, 1, 1, 0, 1, 1)).deploy(tiny.problem(tiny.system(hbm=0.2e9, cpu=False)))
    with pytest.raises(InputError, match="does not fit"):
        Lia().deploy(tiny.problem(tiny.system(hbm=0.05e9)))


def test_weights_outside_the_experts_leave_gpu_memory_where_it_has_no_room_for_them():
    """OPT-175B on an H100 of 80 GB: 117 GB of attention weights and embeddings live in the host."""
    setting = {"hardware": "h100-server", "model": "opt-175b", "workload.requests": 64, "workload.output": 2}
    scenario = loaded("quickstart", policy="lia", **setting)
    deployment = scenario.scenario.policy.deploy(problem_of(scenario, *scenario.build()))
    assert deployment.plan.homes == deployment.state.homes == Homes.everything("ddr")
    assert deployment.plan.batch == 64


@pytest.mark.parametrize(
    ("layers", "ahead", "pinned"), [(0.5, 0, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0), (2.9, 0, 1), (3, 0, 3), (3, 1, 3), (9, 1, 3)]
)
def test_layers_are_pinned_beside_a_buffer_for_those_that_are_not(layers, ahead, pinned):
    """Of three: with a buffer of one, n pinned layers take n + 1 layers of memory until all three are there."""
    problem = tiny.problem()
    free = layers * problem.experts * problem.model.expert_bytes
    assert Lia()._pinned(problem, free, ahead) == pinned
    assert Lia(pinned_layers=2)._pinned(problem, free, ahead) == 2, "as stated"
