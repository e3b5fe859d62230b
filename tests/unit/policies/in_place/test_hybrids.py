"""Policies that share experts between CPU and GPU: Fiddler, llama.cpp, KTransformers, HybriMoE; and the two extremes."""

from __future__ import annotations

import itertools

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Serial
from moesim.errors import InputError
from moesim.policies.baselines.gpu_only import GpuOnly
from moesim.policies.baselines.random import Random
from moesim.policies.in_place.fiddler import Fiddler
from moesim.policies.in_place.hybrimoe import HybriMoe
from moesim.policies.in_place.ktransformers import KTransformers
from moesim.policies.in_place.llama_cpp import LlamaCpp
from moesim.policies.kit.dispatch import threshold
from moesim.policies.kit.placement import place
from moesim.policies.kit.schedule import two_ended
from moesim.runs.run import RunOptions, loaded, problem_of, run_loaded

COUNTS = [5, 0, 9000, 1, 1, 0, 2, 3]


def scene(policy, counts=COUNTS, phase="decode", hbm=0.14e9, layer=0, **machine):
    p = tiny.problem(tiny.system(hbm=hbm, **machine))
    deployment = policy.deploy(p)
    return p, deployment, tiny.visit_of(p, deployment, layer, counts, phase), tiny.view_of(p, deployment)


def free_of(p, d) -> float:
    return p.gpu_free(d.plan)


# Fiddler


def test_fiddler_fills_95_percent_with_the_most_popular_pairs():
    p, deployment, _, _ = scene(Fiddler())
    count = int(deployment.resident.sum())
    assert count == int(0.95 * free_of(p, deployment) // p.model.expert_bytes)
    assert p.popularity[deployment.resident].min() >= np.sort(p.popularity.ravel())[-count]
    assert (deployment.plan.decode.pipeline, deployment.plan.staging) == (Serial(), 1)
    assert scene(Fiddler(share=0.5))[1].resident.sum() < count


def test_the_threshold_is_the_best_of_all_subsets():
    p = tiny.problem()
    deployment = place(p)
    visit = tiny.visit_of(p, deployment, 0, [5, 700, 9000, 400, 1, 300, 2, 100])
    on_cpu = threshold(visit, tiny.view_of(p, deployment)).device == p.cpu_index
    sums = {
        subset: sum(float(visit.cpu[e] if e in subset else visit.copy[e] + visit.gpu[e]) for e in range(8))
        for size in range(9)
        for subset in itertools.combinations(range(8), size)
    }
    assert tuple(np.flatnonzero(on_cpu)) == min(sums, key=lambda s: sums[s])
    assert 0 < on_cpu.sum() < 8


def test_fiddlers_code_takes_the_cpu_to_be_linear():
    p, deployment, visit, view = scene(Fiddler(estimate="linear", share=0.0), [50, 0, 9000, 1, 1, 0, 2, 3])
    single = float(p.costs.cpu(1, "ddr"))
    linear = single * visit.counts <= visit.copy + visit.gpu
    assert not deployment.resident.any()
    assert (Fiddler(estimate="linear").dispatch(visit, view).device == np.where(linear, p.cpu_index, p.attending_index)).all()
    assert (Fiddler().dispatch(visit, view).device != Fiddler(estimate="linear").dispatch(visit, view).device).any()


# llama.cpp


@pytest.mark.parametrize(("cpu_layers", "resident"), [(0, 3), (1, 2), (2, 1), (99, 0)])
def test_llama_cpp_keeps_the_experts_of_the_last_layers(cpu_layers, resident):
    held = LlamaCpp(cpu_layers=cpu_layers).deploy(tiny.problem()).resident
    assert held.all(axis=1).tolist() == [False] * (3 - resident) + [True] * resident
    assert held.any(axis=1).sum() == resident


def test_llama_cpp_moves_as_few_layers_as_it_must():
    p, deployment, _, _ = scene(LlamaCpp())
    layers = int(deployment.resident.all(axis=1).sum())
    layer = 8 * p.model.expert_bytes
    assert layers * layer <= free_of(p, deployment) < (layers + 1) * layer
    assert deployment.plan.decode.pipeline == Serial()


@pytest.mark.parametrize(("tokens", "uploads"), [(1, False), (31, False), (32, True), (500, True)])
def test_llama_cpp_goes_by_the_tokens_of_the_pass(tokens, uploads):
    counts = [tokens, tokens] + [0] * 6
    p, _, visit, view = scene(LlamaCpp(cpu_layers=99), counts)
    chosen = LlamaCpp().dispatch(visit, view)
    assert (chosen.device[:2] == (p.attending_index if uploads else p.cpu_index)).all()
    assert chosen.load is None


def test_every_piece_of_the_prompts_uploads_anew():
    sets = {"workload.requests": 8, "workload.prompt": 64, "workload.output": 1}

    def ran(ubatch):
        policy = {"kind": "llama_cpp", "cpu_layers": 99, "ubatch": ubatch}
        return run_loaded(loaded("quickstart", policy=policy, **sets), RunOptions(bound=False))

    whole, halves, lone = ran(512), ran(256), ran(64)
    assert [len(result.frame("steps")) for result in (whole, halves, lone)] == [1, 2, 8]
    uploaded = [result.summary["bytes"]["pcie:forward"] for result in (whole, halves, lone)]
    assert uploaded[0] < uploaded[1] < uploaded[2]
    assert whole.summary["makespan_s"] < halves.summary["makespan_s"] < lone.summary["makespan_s"]


def test_the_fork_waits_for_32_tokens_per_expert():
    p, _, visit, view = scene(LlamaCpp(cpu_layers=99), [127, 127] + [0] * 6)
    assert (LlamaCpp(scaled=True).dispatch(visit, view).device == p.cpu_index).all()
    p, _, visit, view = scene(LlamaCpp(cpu_layers=99), [128, 128] + [0] * 6)
    assert (LlamaCpp(scaled=True).dispatch(visit, view).device == p.attending_index).all()


def test_a_placement_by_hand_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="resident experts need"):
        LlamaCpp(cpu_layers=0).deploy(tiny.problem(tiny.system(hbm=0.14e9)))


# KTransformers


@pytest.mark.parametrize("strategy", ["uniform", "frequency", "front", "random"])
def test_strategies_fill_gpu_memory(strategy):
    p, deployment, _, _ = scene(KTransformers(strategy=strategy))
    assert int(deployment.resident.sum()) == int(free_of(p, deployment) // p.model.expert_bytes)


def test_strategies_choose_as_they_say():
    held = {s: scene(KTransformers(strategy=s, limit=3 if s == "uniform" else 9))[1].resident for s in ("uniform", "front")}
    assert held["uniform"].tolist() == [[True] * 3 + [False] * 5] * 3
    assert held["front"].ravel().tolist() == [True] * 9 + [False] * 15
    p, deployment, _, _ = scene(KTransformers(strategy="frequency", limit=5))
    assert p.popularity[deployment.resident].min() >= np.sort(p.popularity.ravel())[-5]


def test_the_count_of_experts_is_given_as_users_of_the_program_give_it():
    for parameters, count in (({"per_layer": 2}, 6), ({"ratio": 0.3}, 6), ({"ratio": 0.3, "strategy": "front"}, 7)):
        assert (
            int(scene(KTransformers(**parameters))[1].resident.sum()) == count
        )  # 0.3 of 24 experts are 7, of which layers share 6
    assert int(scene(KTransformers(per_layer=2, strategy="frequency"))[1].resident.sum()) == 6
    with pytest.raises(ValueError, match="leave all but one out"):
        KTransformers(ratio=0.5, limit=3)


def test_decode_and_short_prompts_use_both_and_long_prompts_stream_layers():
    counts = [1000, 0, 1000, 0, 0, 0, 2000, 100]
    for phase, limit, streams in (("decode", 100, False), ("prefill", 2051, False), ("prefill", 2050, True)):
        policy = KTransformers(limit=1, layerwise=limit)
        p, _, visit, view = scene(policy, counts, phase)
        chosen = policy.dispatch(visit, view)
        assert (chosen.device[[2, 6, 7]] == (p.attending_index if streams else p.cpu_index)).all()
        assert (chosen.load is not None) == streams
        assert chosen.device[0] == p.attending_index
        assert not streams or (chosen.load == ~view.resident[0]).all()


# HybriMoE


def test_hybrimoe_decodes_by_the_two_ended_schedule_with_the_hand_over():
    p, deployment, visit, view = scene(HybriMoe(capacity=3))
    on_cpu = two_ended(view.resident[0], visit.counts, visit.gpu, visit.cpu, visit.copy, 10e-6)
    assert deployment.state.start == 10e-6
    device = HybriMoe().dispatch(visit, view).device
    assert (np.flatnonzero(device == p.cpu_index) == np.flatnonzero(on_cpu)).all()
    assert on_cpu.any()


def test_hybrimoe_prefills_on_the_gpu_by_default():
    p, _, visit, view = scene(HybriMoe(capacity=1), [5] * 8, "prefill")
    assert (HybriMoe().dispatch(visit, view).device == p.attending_index).all()
    assert (HybriMoe(prefill="schedule").dispatch(visit, view).device == p.cpu_index).any()


def test_hybrimoe_fetches_higher_scores_for_lower_ones():
    _, deployment, _, view = scene(HybriMoe(capacity=2))
    scores = deployment.state.cache.keys
    view.resident[1] = [True, True] + [False] * 6
    scores[1] = [0.5, 0.1, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0]
    moves = HybriMoe(capacity=2).adapt(tiny.step_of(0, [1] * 8), view)
    assert moves.load.tolist() == [[1, 3]]
    assert moves.evict.tolist() == [[1, 1]]
    view.resident[1, 1] = False  # a free slot takes the best, the rest has to beat what is there
    moves = HybriMoe(capacity=2).adapt(tiny.step_of(0, [1] * 8), view)
    assert moves.load.tolist() == [[1, 3]]
    assert moves.evict is None or not len(moves.evict)
    assert HybriMoe(capacity=2, prefetch=0).adapt(tiny.step_of(0, [1] * 8), view).load is None
    assert HybriMoe(capacity=2).adapt(tiny.step_of(0, [1] * 8, phase="prefill"), view).load is None


# the extremes


def test_gpu_only_holds_everything_or_refuses():
    p = tiny.problem()
    deployment = GpuOnly().deploy(p)
    assert deployment.resident.all()
    assert (deployment.plan.staging, deployment.plan.kv) == (0, "hbm")
    with pytest.raises(InputError, match="experts that have to be there 150,994,944 B"):
        GpuOnly().deploy(tiny.problem(tiny.system(hbm=0.14e9)))


def test_gpu_only_needs_no_host_memory_for_experts():
    p = tiny.problem(tiny.system(ddr=1e6))
    deployment = GpuOnly().deploy(p)
    assert (deployment.home == p.gpu_tier_index).all()


def test_gpu_only_shrinks_the_batch_to_make_room():
    work = tiny.job(requests=64, prompt=2000, output=100)
    room = tiny.system(hbm=0.4e9)
    assert 0 < GpuOnly().deploy(tiny.problem(room, work=work)).plan.batch < 64


def test_random_residents_come_from_the_runs_seed():
    drawn = []
    for seed in (1, 1, 2):
        p = tiny.problem(tiny.system(hbm=0.14e9))
        p.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        drawn.append(Random().deploy(p).resident)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    per_layer = drawn[0].sum(axis=1)
    assert per_layer.max() - per_layer.min() <= 1


def test_random_computes_misses_as_its_parameter_says():
    p, _, visit, view = scene(Random(misses="cpu"))
    device = Random(misses="cpu").dispatch(visit, view).device
    assert (device == np.where(view.resident[0], p.attending_index, p.cpu_index)).all()
    with pytest.raises(InputError, match="no CPU"):
        Random(misses="cpu").deploy(tiny.problem(tiny.system(cpu=False)))


@pytest.mark.parametrize("kind", ["llama_cpp", "llama_cpp_cache", "ktransformers", "vllm_cpu_misses", "vllm_expert_cache"])
def test_programs_that_attend_on_the_gpu_keep_their_cache_there_as_long_as_it_fits(kind):
    uniform = {"workload.routing": {"kind": "uniform"}, "workload.profile": {"kind": "uniform"}}
    long = {"workload.requests": 1, "workload.prompt": 12_000, "workload.output": 2, **uniform}
    scenario = loaded("quickstart", policy=kind, **long, **{"hardware.tiers.hbm.capacity": "6 GB"})
    problem = problem_of(scenario, *scenario.build())
    plan = scenario.scenario.policy.deploy(problem).plan
    assert problem.gpu_free(plan) < 0.2 * problem.usable("hbm")  # what other policies leave to experts
    assert plan.kv == "hbm"


def test_llama_cpp_has_room_for_the_intermediates_of_its_micro_batch_and_not_of_the_whole_prompt():
    shares = []
    for prompt in (1024, 4096):
        scenario = loaded("quickstart", policy="llama_cpp", **{"workload.requests": 1, "workload.prompt": prompt})
        problem = problem_of(scenario, *scenario.build())
        plan = scenario.scenario.policy.cut(problem, chunk=512)
        shares.append(problem.activation_bytes(plan))
    assert shares[0] == shares[1]
