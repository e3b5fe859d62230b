"""Where llama.cpp leaves the weights of mixtures whose layers differ: dense first layers, shared experts, every second one."""

from __future__ import annotations

from typing import Any

import pytest

import moesim
from moesim.contract import Deployment, Problem
from moesim.contract.homes import HERE
from moesim.runs.run import loaded, problem_of, run_loaded

LITE = {"name": "deepseek-v2-lite", "precision": {"weights": "4.5 bits", "experts": "4.5 bits"}}
WORKLOAD = {"kind": "offline", "requests": 1, "prompt": 40, "output": 3, "routing": {"kind": "uniform"}}


def scenario(policy: dict[str, Any], model: Any = LITE, hardware: Any = "rtx4090-desktop", **more: Any) -> dict[str, Any]:
    data = {"name": "homes", "hardware": hardware, "model": model, "runtime": "llama-cpp", "workload": WORKLOAD, **more}
    return {**data, "policy": {"kind": "llama_cpp", **policy}}


def deployed(policy: dict[str, Any], **more: Any) -> tuple[Problem, Deployment]:
    source = loaded(scenario(policy, **more))
    problem = problem_of(source, *source.build())
    return problem, source.scenario.policy.deploy(problem)


@pytest.mark.parametrize(
    ("model", "count", "in_host"),
    [("deepseek-v3", 5, 2), ("deepseek-v3", 61, 58), ("glm-4.5-air", 2, 1), ("llama-4-maverick", 4, 2), ("mixtral-8x7b", 4, 4)],
)
def test_n_cpu_moe_counts_decoder_layers_those_without_experts_too(model: str, count: int, in_host: int) -> None:
    big = {"profile": "rtx4090-desktop", "tiers": {"hbm": {"capacity": "2 TB"}, "ddr": {"capacity": "2 TB"}}}
    _, deployment = deployed({"cpu_layers": count}, model=model, hardware=big)
    whole = deployment.resident.all(axis=1)
    assert (~whole).sum() == in_host
    assert not whole[:in_host].any()


def test_shared_experts_and_dense_layers_stay_on_the_gpu_where_experts_alone_are_left_to_the_cpu() -> None:
    # -ot exps=CPU names ffn_*_exps: not ffn_*_shexp, not the ffn_* of a dense layer, no attention
    problem, deployment = deployed({"cpu_layers": 27})
    assert deployment.plan.homes == HERE
    assert not deployment.resident.any()
    assert "weights other than routed experts" not in problem.host_shares(deployment.plan).get("ddr", {})


def test_whole_layers_take_their_shared_experts_and_dense_parts_with_them() -> None:
    # the first layer of 27 is dense; 20 on the GPU leave it and six with experts to the CPU
    problem, deployment = deployed({"gpu_layers": 20})
    model, plan = problem.model, deployment.plan
    assert [plan.homes.away(layer) for layer in range(27)] == [True] * 7 + [False] * 20
    assert deployment.resident.all(axis=1).tolist() == [False] * 6 + [True] * 20
    there = 7 * (model.qkv_bytes + model.output_bytes) + model.dense_bytes + 6 * model.shared_bytes
    assert problem.host_shares(plan)["ddr"]["weights other than routed experts"] == pytest.approx(there)
    # prompts take all of it to the GPU, decoding nothing
    assert sum(nbytes for parts in problem.crossing(plan, "prefill") for _, nbytes in parts) == pytest.approx(there)
    assert problem.crossing(plan, "decode") == [()] * 27


def step(count: int) -> float:
    """Seconds of the last decode step with `count` layers on the GPU."""
    return float(moesim.run(scenario({"gpu_layers": count})).frame("steps")["step_time_s"].iloc[-1])


def test_a_layer_of_the_cpu_takes_what_its_parts_take_there() -> None:
    problem, _ = deployed({"gpu_layers": 20})
    costs, model, context = problem.costs, problem.model, 40 + 2
    gpu, cpu, hbm, host = problem.system.attending_gpu, str(costs.cpu_name), problem.gpu_tier, problem.main_memory
    flops, nbytes = model.core_flops_decode([context]), model.core_bytes_decode([context])

    def attention(device: str, tier: str) -> float:
        core = float(costs.core(device, flops, nbytes, "decode", tier)[0])
        return float(costs.projections(device, 1) + costs.output(device, 1)) + core

    ways = float(costs.copy(model.token_bytes, hbm, host) + costs.copy(model.token_bytes, host, hbm))
    ids = float(costs.copy(4 * model.top_k, hbm, host))
    there, here = costs.calls(cpu), costs.calls(gpu)
    experts = 6 * float(costs.cpu([1], host)[0]) + there.hand_over + there.once + ids
    on_cpu = attention(cpu, host) + float(costs.shared(1, cpu)) + experts + 2 * ways
    on_gpu = attention(gpu, hbm) + float(costs.shared(1)) + 6 * float(costs.gpu([1])[0]) + here.once
    assert (step(18) - step(20)) / 2 == pytest.approx(on_cpu - on_gpu, rel=1e-3)
    # the dense layer has no experts and no router
    dense = attention(cpu, host) + float(costs.dense(1, cpu)) + ways - attention(gpu, hbm) - float(costs.dense(1))
    assert step(26) - step(27) == pytest.approx(dense, rel=1e-3)


def test_both_engines_agree_and_the_bound_holds() -> None:
    fast, plain = (
        run_loaded(loaded(scenario({"gpu_layers": 9}, simulation={"engine": engine}))) for engine in ("kernel", "reference")
    )
    assert {**fast.summary, "wall_s": 0} == {**plain.summary, "wall_s": 0}
    assert fast.summary["share_of_bound"] <= 1
    work = fast.frame("operations")
    places = {(row.phase, row.operation, row.device) for row in work.itertuples()}
    for operation in ("shared experts", "dense layers"):
        assert {("prefill", operation, "gpu"), ("decode", operation, "cpu")} <= places
