"""MoE-Gen: the host's worth of sequences, the longest path through a layer, and the knobs that make it short."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Module
from moesim.errors import InputError
from moesim.policies.kit.layer_costs import LayerCosts, powers
from moesim.policies.kit.streaming import cache_window
from moesim.policies.streaming.moe_gen import Knobs, MoeGen, critical_path, layer_seconds, prefill_seconds


def setting(requests=60, prompt=800, output=40, hbm=0.2e9, **machine):
    return tiny.problem(tiny.system(hbm=hbm, **machine), work=tiny.job(requests=requests, prompt=prompt, output=output))


# the longest path


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_path_is_the_longest_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    names = [f"n{i}" for i in range(7)]
    costs = {name: rng.random(3) for name in names}
    before = {name: tuple(earlier for earlier in names[:i] if rng.random() < 0.5) for i, name in enumerate(names)}

    def paths(node):
        yield (node,)
        for earlier in before[node]:
            for path in paths(earlier):
                yield (*path, node)

    every = [sum(costs[node] for node in path) for name in names for path in paths(name)]
    assert critical_path(costs, before) == pytest.approx(np.max(every, axis=0))
    assert all(b in before[c] for path in paths("n6") for b, c in pairwise(path))


def test_a_layer_takes_as_long_as_its_slowest_part():
    p = setting()
    costs = LayerCosts(p)
    unit = np.ones(1)
    for share in (0.0, 1.0):
        alone = float(layer_seconds(costs, 60, "ddr", Knobs(60, 1.0, int(share), 3 * p.layers), unit)[0])
        attention = float(costs.dense(60.0) + costs.cpu_attention(60.0, "ddr"))
        upload, work = float(costs.upload(5)), float(costs.experts(60.0))
        first = upload if share else 0.0
        longest = max(attention + work, max(first, attention) + upload - first + work / 8)
        assert alone == pytest.approx(longest)


def test_prompts_wait_for_what_the_buffer_lets_wait():
    p = setting()
    costs = LayerCosts(p)
    attention = float(costs.dense(6 * 800.0) + costs.core("gpu", "prefill", 6, "hbm"))
    work, upload = float(costs.experts(6 * 800.0)), float(costs.upload(5))
    single, double = (prefill_seconds(costs, 60, 6, Knobs(60, 1.0, ahead, 3 * p.layers)) for ahead in (0, 1))
    assert single == pytest.approx(10 * (attention + max(upload, work)))
    assert double == pytest.approx(10 * max(upload, attention + work))


def test_the_plan_is_for_prompts_and_decode_together():
    long, short = (MoeGen().deploy(setting(20, 400, output, 0.18e9)).state.knobs for output in (5000, 2))
    assert (long.ahead, short.ahead) == (1, 0), (
        "a second buffer, best for decode, takes the room of residents, which spare prompts uploads"
    )


def test_what_gpu_memory_has_left_keeps_single_experts_of_single_layers():
    p = setting(prompt=100)
    deployment = MoeGen(batch=50, attention_batch=10, cpu_share=0.6, buffer=1).deploy(p)
    assert deployment.resident.sum() == deployment.state.knobs.residents
    spare = p.gpu_free(deployment.plan) - int(deployment.resident.sum()) * p.model.expert_bytes
    assert spare < 2 * p.model.expert_bytes + cache_window(p, 10), "no room for one more, its slot in the buffer and the cache"


def test_uploads_and_caches_share_the_way_to_the_gpu():
    p = setting()
    costs = LayerCosts(p)
    time = float(layer_seconds(costs, 60, "ddr", Knobs(60, 0.0, 1, 0), np.zeros(1))[0])
    assert time >= float(costs.upload(8) + costs.copy_in(costs.cache_read(60), "ddr"))


# the plan


@pytest.mark.parametrize("prompt", [50, 800, 3000])
def test_the_plan_is_the_best_of_all_knobs(prompt):
    p = setting(prompt=prompt)
    deployment, costs = MoeGen().deploy(p), LayerCosts(p)
    plan, prompts = deployment.state, deployment.plan.prefill.sequences or deployment.plan.batch

    def whole(knobs):
        step = float(layer_seconds(costs, plan.batch, "ddr", knobs, np.array([knobs.cpu_share]))[0])
        return prefill_seconds(costs, plan.batch, prompts, knobs) + costs.steps * step

    shares = {*np.linspace(0, 1, 11).tolist(), plan.balanced, plan.knobs.cpu_share}
    every = []
    for chunk, share, buffer in product(powers(plan.batch), shares, (1, 2)):
        try:
            knobs = MoeGen(attention_batch=chunk, cpu_share=float(share), buffer=buffer).deploy(p).state.knobs
        except InputError:
            continue
        assert knobs[:3] == (chunk, share, buffer - 1)
        every.append(whole(knobs))
    assert whole(plan.knobs) == pytest.approx(min(every))


def test_the_balanced_share_ends_uploads_and_cpu_attention_together():
    p = setting(requests=200, prompt=4000)
    plan, costs = MoeGen().deploy(p).state, LayerCosts(p)
    assert 0 < plan.balanced < 1
    cache = float(costs.cache_read(plan.batch))
    rate = p.costs.path("ddr", "hbm").rate
    uploads = (costs.layer_bytes + (1 - plan.balanced) * cache) / rate
    assert uploads == pytest.approx(plan.balanced * float(costs.core("cpu", "decode", plan.batch, "ddr")))


def test_the_batch_is_what_the_host_holds():
    p = setting(requests=300, prompt=2000, ddr=0.4e9)
    deployment = MoeGen().deploy(p)
    experts = 24 * p.model.expert_bytes
    assert experts + p.kv_bytes(deployment.plan.batch) <= 0.4e9 < experts + p.kv_bytes(deployment.plan.batch + 1)
    assert MoeGen(host_share=0.9).deploy(p).plan.batch < deployment.plan.batch


def test_published_knobs_can_be_given():
    p = setting(hbm=0.25e9)
    policy = MoeGen(batch=50, attention_batch=10, cpu_share=0.6, residents=2, buffer=2)
    deployment = policy.deploy(p)
    assert (deployment.plan.batch, deployment.plan.expert_batch, deployment.plan.staging) == (50, 0, 12)
    plan = deployment.plan.decode
    assert (plan.pipeline, plan.micro_batch, plan.core) == (Module(1, 0.6), 10, "gpu")
    assert deployment.resident.sum(axis=1).tolist() == [2, 2, 2]
    assert deployment.plan.kv == "ddr"


def test_memory_left_over_keeps_experts():
    held = [MoeGen().deploy(setting(hbm=hbm, prompt=100)).resident for hbm in (0.15e9, 0.17e9, 0.19e9)]
    per_layer = [resident.sum(axis=1) for resident in held]
    assert per_layer[0].sum() < per_layer[1].sum() < per_layer[2].sum()
    assert all(counts.max() - counts.min() <= 1 for counts in per_layer)
    assert all((resident == (np.arange(8) < counts[:, None])).all() for resident, counts in zip(held, per_layer, strict=True))
    assert not MoeGen(residents=0).deploy(setting(prompt=100)).resident.any()
    with pytest.raises(InputError, match="does not fit"):
        MoeGen(residents=7).deploy(setting(hbm=0.15e9, prompt=100))


def test_without_a_cpu_all_caches_come_to_the_gpu():
    assert MoeGen().deploy(setting(cpu=False)).plan.decode.pipeline.cpu_share == 0


def test_it_says_when_the_host_is_too_small():
    with pytest.raises(InputError, match="does not fit"):
        MoeGen().deploy(setting(ddr=0.1e9))
