"""CoX-MoE: the search against a loop over everything, and the placement that follows."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import policy_problems as tiny
import pytest
from reporting import for_all

from moesim.contract import BatchPlan, PhasePlan
from moesim.errors import InputError
from moesim.policies.in_place.cox_moe import CoxMoe
from moesim.policies.in_place.planner_constants import AMX, believed
from moesim.policies.kit.orchestration import (
    Candidates,
    Pins,
    attention_time,
    expert_table,
    search,
    sequences,
    uploads_computed,
)
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded


def scene(hbm: float = 0.09e9, experts: int = 4, **work):
    work = {"requests": 8, "prompt": 200, "output": 9, "layers": 2} | work
    return tiny.problem(tiny.system(hbm=hbm), tiny.model(experts=experts, layers=2), tiny.job(**work))


def space(p, batch: int = 8) -> Candidates:
    devices = tuple(product(("gpu", "cpu"), repeat=3))
    return Candidates(batch, "ddr", ("hbm", "ddr"), devices, devices, (8, 2), (8, 4), 2, (0, 0))


def ways(p):
    """Ways of activations to the CPU and back."""
    return p.costs.path("hbm", "ddr"), p.costs.path("ddr", "hbm")


def op3(p, tokens: float, shares, resident: int, upload: int) -> float:
    """OP3 of one layer, one expert at a time."""
    times, on_gpu, copy = [], resident + upload, float(p.costs.copy(p.model.expert_bytes, "ddr", "hbm"))
    for layer in shares:
        gpu = link = cpu = pairs = last = 0.0
        done: list[tuple[float, float]] = []
        for rank, share in enumerate(layer):
            chance = 1 - (1 - min(p.model.top_k * share, 1 - 1e-12)) ** tokens
            count = max(tokens * p.model.top_k * share / chance, 1.0)
            if rank < on_gpu:
                if rank == resident:  # the GPU waits for the first copy
                    gpu = max(gpu + p.costs.calls("gpu").once, chance * copy) - p.costs.calls("gpu").once
                last = float(p.costs.gpu(count))
                gpu += chance * last
            else:
                cpu += chance * float(p.costs.cpu(count, "ddr"))
                pairs += chance * count
            if resident <= rank < on_gpu:
                link += chance * copy
                done.append((gpu + p.costs.calls("gpu").once, link))
        gpu += p.costs.calls("gpu").once
        for computed, landed in [(0.0, -copy), *done] if upload else []:
            behind = link - landed - copy  # two slots: the copy that runs meanwhile has the other
            gpu = max(gpu, computed + behind + last) if behind >= copy * (1 - 1e-9) or landed < 0 else gpu
        if on_gpu < len(layer):
            sent = min(pairs, tokens) * p.model.expert_token_bytes  # a token crosses once, whatever experts it has there
            there, back = (sent / way.rate + way.setup for way in ways(p))
            cpu += p.costs.calls("cpu").hand_over + there + back
            link += back
        times.append(max(gpu, link, cpu))
    return float(np.mean(times))


def brute_force(p, candidates: Candidates, shares):
    """Cheapest total of all plans, one at a time."""
    passes = {"prefill": 1, "decode": int(p.job.output.max()) - 1}
    tokens = {phase: sequences(p, phase, candidates.batch)[0] for phase in passes}
    size, best = p.model.experts, np.inf
    groups = {
        phase: [min(op3(p, tokens[phase], shares, n, m) for m in range(size + 1 - n)) for n in range(size + 1)]
        for phase in passes
    }
    for kv, a, b, m, n in product(
        candidates.kv, candidates.prefill, candidates.decode, candidates.micro_prefill, candidates.micro_decode
    ):
        if kv == "hbm" and (a[1] != "gpu" or b[1] != "gpu"):
            continue
        free = p.gpu_free(BatchPlan(candidates.batch, PhasePlan(m, *a), PhasePlan(n, *b), kv, candidates.staging))
        attention = attention_time(p, "prefill", a, m, kv, sequences(p, "prefill", candidates.batch), candidates.host)
        attention += passes["decode"] * attention_time(
            p, "decode", b, n, kv, sequences(p, "decode", candidates.batch), candidates.host
        )
        for resident in range(size + 1):
            if resident * p.layers * p.model.expert_bytes <= free:
                experts = sum(count * p.layers * groups[phase][resident] for phase, count in passes.items())
                best = min(best, attention * p.model.layers + experts)
    return best


@pytest.mark.parametrize("hbm", [0.065e9, 0.08e9, 0.1e9, 0.2e9])
def test_search_finds_what_a_loop_over_everything_finds(hbm):
    p = scene(hbm)
    shares = -np.sort(-p.popularity, axis=1)
    candidates = space(p)
    plan = search(p, candidates, shares, Pins(), "ddr")
    assert plan.seconds == pytest.approx(brute_force(p, candidates, shares), rel=1e-9)


def test_expert_table_is_the_maximum_of_three_sides():
    p = scene()
    shares = -np.sort(-p.popularity, axis=1)
    table = expert_table(p, 64.0, shares, "ddr", 2)
    for resident, gpu in product(range(5), repeat=2):
        expected = op3(p, 64.0, shares, resident, gpu - resident) if gpu >= resident else np.inf
        assert table[resident, gpu] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("slots", [1, 2, 3])
@for_all(range(20))
def test_uploads_end_where_a_walk_from_copy_to_copy_ends(seed, slots):
    rng = np.random.default_rng(seed)
    runs, copy, shared = -np.sort(-rng.exponential(size=9)), float(rng.exponential()), float(rng.exponential() / 2)
    busy, upload = (np.concatenate([[0.0], np.cumsum(times)]) for times in (runs, np.full(9, copy)))
    ends = uploads_computed(shared + busy, upload, np.concatenate([[0.0], runs]), copy, slots)
    for resident in range(10):
        link, gpu, freed = 0.0, shared + float(runs[:resident].sum()), []
        for number, run in enumerate(runs[resident:].tolist()):
            link = max(link, freed[number - slots] if number >= slots else 0.0) + copy
            gpu = max(gpu, link) + run
            freed.append(gpu)
            assert ends[resident, resident + number + 1] == pytest.approx(gpu, rel=1e-9)
        assert ends[resident, resident] == pytest.approx(shared + float(runs[:resident].sum()))


@pytest.mark.parametrize("hbm", ["48 GB", "72 GB"])
def test_a_plan_that_knows_its_program_ends_when_the_run_does(hbm):
    """Calls of 0.3 ms for each expert: residents keep the GPU, so that uploads wait for their slots."""
    sets = {"runtime": "own", "hardware.tiers.hbm.capacity": hbm, "policy": {"kind": "cox_moe"}}
    scenario = loaded("cox_moe/qwen3-30b", **sets, **{"workload.requests": 96, "workload.prompt": 97, "workload.output": 4})
    plan = scenario.scenario.policy.deploy(problem_of(scenario, *scenario.build())).state.plan
    outcome = run_loaded(scenario, RunOptions(bound=False))
    assert plan.seconds == pytest.approx(outcome.summary["makespan_s"], rel=0.04)


def test_more_memory_never_costs():
    seconds = [CoxMoe(batch=8).deploy(scene(hbm)).state.plan.seconds for hbm in (0.065e9, 0.07e9, 0.08e9, 0.1e9, 0.3e9)]
    assert all(a >= b for a, b in pairwise(seconds))


def test_groups_are_filled_by_popularity():
    p = scene(experts=8)
    deployment = CoxMoe(residents=2, uploads=1).deploy(p)
    order = np.argsort(-p.popularity, axis=1)
    assert deployment.resident.sum(axis=1).tolist() == [2, 2]
    for layer, phase in product(range(2), ("prefill", "decode")):
        assert deployment.resident[layer, order[layer, :2]].all()
        visit = tiny.visit_of(p, deployment, layer, [1] * 8, phase)
        device = CoxMoe().dispatch(visit, tiny.view_of(p, deployment)).device
        assert (device[order[layer, :3]] == p.attending_index).all()
        assert (device[order[layer, 3:]] == p.cpu_index).all()


def test_pins_are_kept():
    devices = {"prefill_devices": ("gpu", "gpu", "cpu"), "decode_devices": ("gpu", "cpu", "cpu")}
    policy = CoxMoe(residents=1, on_cpu=1, micro_batch_prefill=2, **devices)
    deployment = policy.deploy(scene())
    assert deployment.state.plan.on_gpu == {"prefill": 3, "decode": 3}
    assert deployment.plan.prefill == PhasePlan(2, "gpu", "gpu", "cpu")
    assert deployment.plan.decode.core == "cpu"
    assert deployment.plan.kv == "ddr"


@pytest.mark.parametrize("core", ["gpu", "cpu"])
def test_a_given_device_of_the_core_leaves_the_projections_of_decode_free_and_prefill_as_it_is(core):
    candidates = CoxMoe(core=core)._candidates(scene())
    assert candidates.decode == tuple((first, core, last) for first, last in product(("gpu", "cpu"), repeat=2))
    assert candidates.prefill == tuple(product(("gpu", "cpu"), repeat=3))


def test_attention_on_the_cpu_means_a_cache_in_the_host():
    deployment = CoxMoe(decode_devices=("gpu", "cpu", "gpu")).deploy(scene(0.3e9))
    assert (deployment.plan.kv, deployment.plan.decode.core) == ("ddr", "cpu")
    assert CoxMoe(kv="hbm").deploy(scene(0.3e9)).plan.decode.core == "gpu"


def test_the_gpu_may_attend_to_a_cache_in_the_host_which_then_crosses_in_every_pass():
    p = scene(0.3e9)
    gpu = ("gpu", "gpu", "gpu")
    here, there = (attention_time(p, "decode", gpu, 8, kv, sequences(p, "decode", 8), "ddr") for kv in ("hbm", "ddr"))
    read = float(sequences(p, "decode", 8)[2].mean())
    written = float(p.model.kv_bytes_per_layer.mean()) * 8
    crossing = float(p.costs.copy(read, "ddr", "hbm")) + float(p.costs.copy(written, "hbm", "ddr"))
    assert there - here == pytest.approx(crossing, rel=1e-9)
    pinned = CoxMoe(kv="ddr", decode_devices=gpu).deploy(p)
    assert (pinned.plan.kv, pinned.plan.decode.core) == ("ddr", "gpu")


def test_without_a_cpu_nothing_runs_there():
    p = tiny.problem(tiny.system(cpu=False, hbm=0.2e9), work=tiny.job(requests=2))
    plan = CoxMoe().deploy(p).state.plan
    assert plan.on_gpu == {"prefill": 8, "decode": 8}
    with pytest.raises(InputError, match="needs a machine with a CPU"):
        CoxMoe(decode_devices=("gpu", "cpu", "gpu")).deploy(p)


def test_impossible_pins_are_named():
    with pytest.raises(InputError, match="residents, uploads as given"):
        CoxMoe(residents=3, uploads=3).deploy(scene())


def test_members_by_index_ignore_popularity():
    deployment = CoxMoe(residents=1, members="index").deploy(scene())
    assert deployment.resident.nonzero()[1].tolist() == [0, 0]


def test_a_layer_batch_has_expert_groups_only():
    work = tiny.job(requests=1, prompt=512, output=1, layers=1, attention=False)
    p = tiny.problem(tiny.system(hbm=0.03e9), work=work)
    deployment = CoxMoe().deploy(p)
    assert deployment.plan.prefill.core == "gpu"
    assert 0 < deployment.state.plan.on_gpu["prefill"] < 8


def test_uncoalesced_experts_take_one_micro_batch_at_a_time():
    deployment = CoxMoe(coalesced=False, micro_batch=2).deploy(scene())
    assert deployment.plan.expert_batch == 2


def test_a_machine_without_a_host_is_taken_when_everything_fits():
    p = tiny.problem(tiny.system(hbm=1e9, ddr=0.0, cpu=False), tiny.model(experts=4, layers=2), tiny.job(layers=2))
    deployment = CoxMoe().deploy(p)
    assert deployment.resident.all()
    assert (deployment.home == p.gpu_tier_index).all()


def test_experts_that_the_host_has_no_room_for_become_residents():
    p = tiny.problem(tiny.system(hbm=1e9, ddr=3 * 6.3e6), tiny.model(experts=4, layers=2), tiny.job(layers=2))
    deployment = CoxMoe().deploy(p)
    assert deployment.resident.sum() >= 5
    assert (deployment.resident | (deployment.home != p.gpu_tier_index)).all()


def test_a_planner_that_believes_in_its_constants_gives_the_cpu_too_much():
    p = scene(hbm=0.05e9, experts=8, requests=8, prompt=400)
    honest, published = (CoxMoe(planner=planner).deploy(p).state.plan for planner in ("machine", "published"))
    assert published.on_gpu["prefill"] < honest.on_gpu["prefill"]
    assert published.seconds < honest.seconds


def test_what_a_planner_believes_leaves_the_machine_as_it_is():
    p = scene()
    taken = believed(p)
    assert taken.system.capacity("hbm") == p.system.capacity("hbm")
    assert float(taken.costs.copy(32e9, "ddr", "hbm")) == pytest.approx(1.0)
    token = float(taken.costs.cpu(np.float64(1e9), "ddr"))
    assert token == pytest.approx(1e9 * p.model.expert_flops / AMX)
    assert float(p.costs.cpu(np.float64(1e9), "ddr")) > 2 * token
