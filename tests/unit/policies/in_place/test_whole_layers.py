"""llama.cpp with whole layers on the CPU: their attention, its weights and its cache, too."""

from __future__ import annotations

from typing import Any

import pytest

import moesim
from moesim.errors import InputError
from moesim.runs.run import loaded, problem_of, run_loaded
from moesim.scenario import load

PACKED = {"name": "qwen3-32b", "precision": {"weights": "4.85 bits", "experts": "4.85 bits"}}
WORKLOAD = {"kind": "offline", "requests": 1, "prompt": 64, "output": 3, "routing": {"kind": "uniform"}}


def scenario(policy: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = {"name": "whole", "hardware": "rtx5080-14900k", "model": PACKED, "runtime": "llama-cpp", "workload": WORKLOAD}
    return {**data, "policy": {"kind": "llama_cpp", **policy}, **more}


def step(count: int) -> float:
    """Seconds of the last decode step with `count` layers on the GPU."""
    return float(moesim.run(scenario({"gpu_layers": count})).frame("steps")["step_time_s"].iloc[-1])


def test_a_layer_of_the_cpu_takes_what_its_products_attention_and_feed_forward_part_take_there() -> None:
    source = loaded(scenario({"gpu_layers": 8}))
    problem = problem_of(source, *source.build())
    costs, model, context = problem.costs, problem.model, 64 + 2
    gpu, cpu, host = problem.gpu_tier, str(costs.cpu_name), problem.main_memory
    flops, nbytes = model.core_flops_decode([context]), model.core_bytes_decode([context])

    def attention(device: str, tier: str) -> float:
        core = float(costs.core(device, flops, nbytes, "decode", tier)[0])
        return float(costs.projections(device, 1) + costs.output(device, 1)) + core

    ways = float(costs.copy(model.token_bytes, gpu, host) + costs.copy(model.token_bytes, host, gpu))
    ids = float(costs.copy(4 * model.top_k, gpu, host))  # routing is read back, of one expert, too
    there, here = costs.calls(cpu), costs.calls(problem.system.attending_gpu)
    experts = float(costs.cpu([1], host)[0]) + there.hand_over + there.once + ids
    on_cpu = attention(cpu, host) + experts + 2 * ways
    on_gpu = attention(problem.system.attending_gpu, gpu) + float(costs.gpu([1])[0]) + here.once
    assert (step(8) - step(10)) / 2 == pytest.approx(on_cpu - on_gpu, rel=1e-3)


def test_weights_and_cache_lie_where_their_layer_runs() -> None:
    source = loaded(scenario({"gpu_layers": 16}))
    problem = problem_of(source, *source.build())
    deployment = source.scenario.policy.deploy(problem)
    model, plan = problem.model, deployment.plan
    assert deployment.resident.any(axis=1).tolist() == [layer >= 48 for layer in range(64)]
    attention = 48 * (model.qkv_bytes + model.output_bytes)
    assert problem.host_shares(plan) == {
        "ddr": {"KV cache": 0.75 * problem.kv_bytes(1), "weights other than routed experts": pytest.approx(attention)}
    }
    shares = problem.gpu_shares(plan)
    assert shares["KV cache"] == 0.25 * problem.kv_bytes(1)
    assert shares["those that live elsewhere"] == pytest.approx(-attention)


def test_a_dense_model_that_does_not_fit_leaves_as_few_whole_layers_to_the_cpu_as_it_has_to() -> None:
    source = loaded(scenario({}))
    problem = problem_of(source, *source.build())
    deployment = source.scenario.policy.deploy(problem)
    count, sizes = deployment.plan.homes.kept_layers, problem.expert_bytes().sum(axis=1)
    assert 0 < count < 64
    free = problem.gpu_free(deployment.plan) - float(sizes[-count:].sum())
    assert 0 <= free < float(sizes[-count - 1]) + problem.model.qkv_bytes + problem.model.output_bytes + problem.kv_bytes(1)
    small = loaded(scenario({}, model={**PACKED, "name": "llama-3.1-8b"}))
    assert small.scenario.policy.deploy(problem_of(small, *small.build())).plan.homes.attends is None


def test_prompts_upload_attention_weights_and_attend_on_the_cpu_and_both_engines_agree() -> None:
    fast, plain = (
        run_loaded(loaded(scenario({"gpu_layers": 40}, simulation={"engine": engine}))) for engine in ("kernel", "reference")
    )
    assert {**fast.summary, "wall_s": 0} == {**plain.summary, "wall_s": 0}
    work = fast.frame("operations")
    places = {(row.phase, row.operation, row.device) for row in work.itertuples()}
    assert ("prefill", "attention core", "cpu") in places
    assert ("prefill", "QKV projection", "cpu") not in places
    assert ("decode", "QKV projection", "cpu") in places


def test_a_mixture_whose_attention_does_not_fit_leaves_whole_layers_too_and_an_export_says_how_many() -> None:
    hardware = {"profile": "a5000-epyc7453", "tiers": {"hbm": {"capacity": "3 GB"}}}
    data = scenario({}, hardware=hardware, model="qwen3-30b-a3b")
    result = moesim.run(data)
    command = moesim.export("llama-cpp", result).command
    source = loaded(data)
    plan = source.scenario.policy.deploy(problem_of(source, *source.build())).plan
    assert plan.homes.attends == "cpu"
    assert f"--n-gpu-layers {plan.homes.kept_layers + 1}" in command  # which counts the output


def test_whole_layers_and_a_list_of_layers_without_experts_do_not_go_together() -> None:
    with pytest.raises(InputError, match="leave one out"):
        load("quickstart", sets=["policy=llama_cpp", "policy.gpu_layers=4", "policy.host_layers=[0]"])
