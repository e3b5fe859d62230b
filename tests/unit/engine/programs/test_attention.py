"""Attention of a layer as a chain of stages: who runs what, what crosses between devices, what waits for what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.clock import to_ps
from moesim.contract import BatchPlan, Module, PhasePlan, Problem
from moesim.engine.passes import Part, core_work
from moesim.engine.programs.attention import (
    Chain,
    Core,
    Stage,
    chain_operations,
    chains_of_pass,
    cores_of_step,
    stage_operation,
)
from moesim.engine.programs.program import ACTIVATION, DEMAND
from tests.policy_problems import job, model, problem, system

SHAPE = model()
BATCH, CONTEXT = 3, 20


def posed() -> Problem:
    return problem(system(), SHAPE, job(layers=3))


def plan(kv: str = "hbm", micro_batch: int = 2, **changes: Any) -> Any:
    """Decodes of 3 sequences in micro-batches of 2 and 1."""
    decode = PhasePlan(micro_batch, **changes)
    return SimpleNamespace(plan=BatchPlan(BATCH, PhasePlan(1), decode, kv=kv))


def step(prompt: int = 0) -> Any:
    parts = [Part("decode", np.ones(BATCH, dtype=np.int64), np.full(BATCH, CONTEXT - 1))]
    if prompt:
        parts.insert(0, Part("prefill", np.array([prompt]), np.array([0])))
    return SimpleNamespace(parts=parts)


def cores_in(work: Problem, deployment: Any, passed: Any) -> list[list[Core]]:
    return cores_of_step(work, deployment, passed.parts, [core_work(work.model, part) for part in passed.parts])


def chain_of(work: Problem, deployment: Any, passed: Any = None) -> Chain:
    cores = cores_in(work, deployment, passed or step())
    (chains, *further), kinds = chains_of_pass(work, deployment, cores)
    assert (further, kinds) == ([], [0, 0, 0]), "all layers attend alike"
    (chain,) = chains
    return chain


def ps(seconds: Any) -> list[int]:
    return to_ps(np.asarray(seconds, dtype=np.float64), "x").tolist()


def core_seconds(work: Problem, device: str, tier: str, sizes: tuple[int, ...] = (2, 1)) -> list[float]:
    flops = [SHAPE.core_flops_decode([CONTEXT] * number)[0] for number in sizes]
    nbytes = [SHAPE.core_bytes_decode([CONTEXT] * number)[0] for number in sizes]
    return [float(work.costs.core(device, f, n, "decode", tier)) for f, n in zip(flops, nbytes, strict=True)]


def test_what_the_gpu_does_alone_is_a_single_stage() -> None:
    work = posed()
    chain = chain_of(work, plan())
    costs, sizes = work.costs, np.array([2, 1])
    expected = (
        np.array(ps(costs.projections("gpu", sizes))) + ps(core_seconds(work, "gpu", "hbm")) + ps(costs.output("gpu", sizes))
    )
    assert [(stage.lane, stage.service.tolist()) for stage in chain.stages] == [("gpu", expected.tolist())]
    assert (chain.core, chain.kv_read, chain.kv_store, chain.aside) == (0, None, None, ())
    assert chain.stages[0].usage == {}


def test_a_core_on_the_cpu_gets_queries_and_entries_over_the_link_and_gives_its_results_back() -> None:
    work = posed()
    chain = chain_of(work, plan(kv="ddr", core="cpu"))
    costs, sizes = work.costs, np.array([2, 1])
    out, back = SHAPE.qkv_activation_bytes * sizes, SHAPE.core_activation_bytes * sizes
    assert [stage.lane for stage in chain.stages] == ["gpu", "pcie:reverse", "cpu", "pcie:forward", "gpu"]
    services = [stage.service.tolist() for stage in chain.stages]
    assert services[0] == ps(costs.projections("gpu", sizes))
    assert services[1] == ps(costs.copy(out, "hbm", "ddr"))
    assert services[2] == ps(core_seconds(work, "cpu", "ddr"))
    assert services[3] == ps(costs.copy(back, "ddr", "hbm"))
    assert services[4] == ps(costs.output("gpu", sizes))
    assert (chain.core, chain.kv_read, chain.kv_store) == (2, None, None)
    read = SHAPE.core_bytes_decode([CONTEXT] * 3)[0]
    assert dict(chain.stages[2].usage)["ddr:read"] == pytest.approx(read)
    assert dict(chain.stages[1].usage)["pcie:reverse"] == pytest.approx(float(out.sum()))


def test_all_of_attention_on_the_cpu_is_a_stage_between_two_transfers_of_hidden_states() -> None:
    work = posed()
    chain = chain_of(work, plan(kv="ddr", projections="cpu", core="cpu", output="cpu"))
    costs, sizes = work.costs, np.array([2, 1])
    assert [stage.lane for stage in chain.stages] == ["pcie:reverse", "cpu", "pcie:forward"]
    together = (
        np.array(ps(costs.projections("cpu", sizes))) + ps(core_seconds(work, "cpu", "ddr")) + ps(costs.output("cpu", sizes))
    )
    assert chain.stages[1].service.tolist() == together.tolist()
    assert chain.stages[2].service.tolist() == ps(costs.copy(SHAPE.token_bytes * sizes, "ddr", "hbm"))
    assert chain.core == 1


def test_a_core_on_the_gpu_waits_for_a_cache_in_the_host_and_new_entries_go_back() -> None:
    work = posed()
    chain = chain_of(work, plan(kv="ddr"))
    costs, sizes = work.costs, np.array([2, 1])
    assert [stage.lane for stage in chain.stages] == ["gpu", "gpu"], "projections need not wait for the cache"
    assert chain.core == 1
    assert chain.kv_read is not None
    assert chain.kv_store is not None
    cached = [SHAPE.core_bytes_decode([CONTEXT] * number)[0] for number in (2, 1)]
    assert (chain.kv_read.lane, chain.kv_read.service.tolist()) == ("pcie:forward", ps(costs.copy(cached, "ddr", "hbm")))
    entries = 2 * 2 * 128 * 2.0 * sizes
    assert (chain.kv_store.lane, chain.kv_store.service.tolist()) == ("pcie:reverse", ps(costs.copy(entries, "hbm", "ddr")))


def test_a_share_of_the_sequences_attends_on_the_cpu_while_the_gpu_has_the_rest() -> None:
    work, share = posed(), 0.25
    chain = chain_of(work, plan(kv="ddr", pipeline=Module(cpu_share=share)))
    costs, sizes = work.costs, share * np.array([2, 1])
    work_of = [
        (share * SHAPE.core_flops_decode([CONTEXT] * number)[0], share * SHAPE.core_bytes_decode([CONTEXT] * number)[0])
        for number in (2, 1)
    ]
    assert [stage.lane for stage in chain.aside] == ["pcie:reverse", "cpu", "pcie:forward"]
    services = [stage.service.tolist() for stage in chain.aside]
    assert services[0] == ps(costs.copy(SHAPE.qkv_activation_bytes * sizes, "hbm", "ddr"))
    assert services[1] == ps([float(costs.core("cpu", *sums, "decode", "ddr")) for sums in work_of])
    assert services[2] == ps(costs.copy(SHAPE.core_activation_bytes * sizes, "ddr", "hbm"))
    assert chain.kv_read is not None
    left = [0.75 * SHAPE.core_bytes_decode([CONTEXT] * number)[0] for number in (2, 1)]
    assert chain.kv_read.service.tolist() == ps(costs.copy(left, "ddr", "hbm"))


def test_a_whole_prompt_reads_nothing_from_the_cache_but_stores_its_entries() -> None:
    work = posed()
    alone = SimpleNamespace(parts=[Part("prefill", np.array([7]), np.array([0]))])
    chain = chain_of(work, plan(kv="ddr"), alone)
    assert chain.kv_read is None
    assert chain.kv_store is not None


def test_prompts_and_decodes_pass_one_chain_where_their_plans_name_the_same_devices_and_two_elsewhere() -> None:
    work = posed()
    (cores,) = cores_in(work, plan(), step(prompt=7))
    assert [core.phase for core in cores] == ["prefill", "decode"]
    assert [core.tokens.tolist() for core in cores] == [[7, 0], [2, 1]], "as many micro-batches as the larger has"
    apart = cores_in(work, plan(kv="ddr", core="cpu"), step(prompt=7))
    assert [[core.phase for core in part] for part in apart] == [["prefill"], ["decode"]]


def test_a_chain_waits_micro_batch_by_micro_batch_and_its_core_for_the_cache() -> None:
    def stage(lane: str) -> Stage:
        return Stage(lane, np.array([10, 30]), {"ddr:read": 8.0}, "attention", "kv")

    chain = Chain((stage("gpu"), stage("cpu"), stage("gpu")), 1, stage("up"), stage("down"))
    lanes = {"gpu": 0, "cpu": 1, "up": 2, "down": 3}
    operations, ends, stores = chain_operations(chain, lanes.__getitem__, "gpu", 50, [7], [8])
    assert [(operation.lane, operation.service, list(operation.after)) for operation in operations] == [
        (2, 10, [7]), (2, 30, [7]),
        (0, 10, [7, 8]), (0, 30, [7, 8]),
        (3, 10, [52]), (3, 30, [53]),
        (1, 10, [52, 50]), (1, 30, [53, 51]),
        (0, 10, [56]), (0, 30, [57]),
    ]  # fmt: skip
    assert (ends, stores) == ([58, 59], [54, 55])
    assert {operation.priority for operation in operations if operation.lane == 0} == {DEMAND}
    assert {operation.priority for operation in operations if operation.lane} == {ACTIVATION}


def test_a_micro_batch_draws_its_share_of_what_a_stage_moves() -> None:
    stage = Stage("cpu", np.array([10, 30]), {"ddr:read": 8.0}, "attention", "kv")
    assert [stage_operation(stage, item, 1, (), DEMAND).draws for item in (0, 1)] == [{"ddr:read": 2.0}, {"ddr:read": 6.0}]
    still = Stage("cpu", np.array([0, 0]), {"ddr:read": 8.0}, "attention", "kv")
    assert stage_operation(still, 0, 1, (), DEMAND).draws == {"ddr:read": 0.0}
    assert replace(still, name="read KV").total == 0
