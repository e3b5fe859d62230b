"""What the GPU does before the experts of each layer, for many steps at once: the sum of what each operation costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.clock import to_ps
from moesim.contract import Deployment, Homes, Module, Problem
from moesim.contract.costs import StepLoad
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.gpu_steps import GpuSteps, Parts, attends_alone
from moesim.plugins import find
from tests.policy_problems import job, model, problem, system

SHAPE = model(dense=1)
"""A dense layer, then three with experts."""


def posed(shape: Any = SHAPE) -> Problem:
    return problem(system(), shape, job(layers=3))


def parts(rows: list[tuple[int, int]], sampled: list[int], kinds: int = 1) -> Parts:
    """Steps of (tokens of prompts, tokens that decode), with FLOP and bytes of their cores from their numbers."""
    of_phase = np.array(rows)
    work = np.repeat(of_phase[:, :, None] * 1e9, kinds, axis=2)
    return Parts(of_phase.sum(axis=1), np.array(sampled), of_phase, work, work / 100)


def ps(seconds: Any) -> int:
    return int(to_ps(float(seconds), "x"))


def core(work: Problem, prompts: int, decodes: int) -> int:
    """Prompts and decodes attend one after another; each knows of the other."""
    both, seconds = prompts > 0 and decodes > 0, 0.0
    for tokens, phase in ((prompts, "prefill"), (decodes, "decode")):
        if tokens:
            load = StepLoad(tokens, both, prompts + decodes)
            seconds += float(work.costs.core("gpu", tokens * 1e9, tokens * 1e7, phase, "hbm", load))  # type: ignore[arg-type]
    return ps(seconds)


def alone(table: np.ndarray, of_visit: np.ndarray) -> list[list[int]]:
    """[n, L + 1] ps of the template of each visit, 0 for none."""
    times = table.reshape(-1, k.A_WIDTH)[:, k.A_ALONE]
    return np.where(of_visit < 0, 0, times[of_visit]).tolist()


@pytest.mark.parametrize("step", [(7, 0), (0, 3), (7, 3)])
def test_a_step_is_the_sum_of_its_operations_and_layers_without_experts_go_with_the_next(step: tuple[int, int]) -> None:
    work = posed()
    sums = parts([step], [2])
    tokens, costs = sum(step), work.costs
    attention = ps(costs.projections("gpu", tokens)) + ps(costs.output("gpu", tokens)) + core(work, *step)
    later = attention + ps(costs.router(tokens))
    first = later + attention + ps(costs.dense(tokens))
    templates = GpuSteps(work, 1).templates(sums, sums)
    assert alone(templates.packed.table, templates.of_visit) == [[first, later, later, ps(costs.head(2))]]


def test_nothing_follows_the_layers_of_a_step_that_yields_no_token() -> None:
    work = posed()
    sums = parts([(7, 0), (0, 3)], [0, 3])
    templates = GpuSteps(work, 1).templates(sums, sums)
    assert (templates.of_visit[:, -1] < 0).tolist() == [True, False]


def test_micro_batches_attend_one_after_another_and_meet_the_router_together() -> None:
    work = posed(model())
    whole, pieces = parts([(0, 6)], [6]), parts([(0, 4), (0, 2)], [4, 2])
    templates = GpuSteps(work, 2).templates(whole, pieces)
    costs = work.costs
    attention = sum(ps(costs.projections("gpu", n)) + ps(costs.output("gpu", n)) + core(work, 0, n) for n in (4, 2))
    layer = attention + ps(costs.router(6))
    assert alone(templates.packed.table, templates.of_visit) == [[layer, layer, layer, ps(costs.head(6))]]


def test_large_steps_are_priced_by_themselves_as_small_ones_from_a_table() -> None:
    work = posed(model())
    steps = GpuSteps(work, 1)
    small = parts([(100, 0)], [1])
    before = alone(steps.templates(small, small).packed.table, steps.templates(small, small).of_visit)
    large = parts([(20_000, 0), (100, 0)], [1, 1])
    templates = steps.templates(large, large)
    assert alone(templates.packed.table, templates.of_visit)[1] == before[0]


def placed(**changes: Any) -> tuple[Problem, Deployment]:
    work = posed()
    deployment = find("policies", "gpu_only")().deploy(work)
    return work, replace(deployment, plan=replace(deployment.plan, **changes))


def test_the_gpu_attends_alone_where_nothing_of_a_step_but_experts_is_elsewhere() -> None:
    work, deployment = placed()
    plan = deployment.plan
    assert attends_alone(work, deployment)
    elsewhere = [
        {"kv": "ddr"}, {"homes": Homes(head="ddr")}, {"prefill": replace(plan.prefill, projections="cpu")},
        {"decode": replace(plan.decode, core="cpu")}, {"decode": replace(plan.decode, output="cpu")},
        {"decode": replace(plan.decode, pipeline=Module())},
    ]  # fmt: skip
    assert not any(attends_alone(*placed(**changes)) for changes in elsewhere)
    lone = replace(work, job=replace(work.job, attention=False))
    assert not attends_alone(lone, deployment)
