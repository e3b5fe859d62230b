"""The work that a bound is taken over: tokens per expert and pass, and dense operations on either device, summed exactly."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Problem
from moesim.engine.books.work_done import WorkTally
from moesim.engine.passes import Part, core_work
from moesim.engine.programs.gpu_steps import Parts
from tests.policy_problems import job, model, problem, system

SHAPE = model(shared=512, dense=1)
INFINITE = float("inf")


def posed(**machine: Any) -> Problem:
    return problem(system(**machine), SHAPE, job(layers=3))


def step(prompts: int, decodes: int, context: int = 9) -> Any:
    """A pass of a prompt, or of sequences that decode with `context` tokens before, or of both."""
    parts = [Part("prefill", np.array([prompts]), np.array([0]))] if prompts else []
    if decodes:
        parts.append(Part("decode", np.ones(decodes, dtype=np.int64), np.full(decodes, context)))
    new = np.concatenate([part.new_tokens for part in parts])
    phase = "prefill" if prompts else "decode"
    return SimpleNamespace(phase=phase, new_tokens=new, sampled=len(new), parts=parts)


def counts(*rows: tuple[int, ...]) -> np.ndarray:
    """[3, G, 8] tokens of the first experts of layer 0, a row for each group."""
    computed = np.zeros((3, len(rows), 8), dtype=np.int64)
    for group, row in enumerate(rows):
        computed[0, group, : len(row)] = row
    return computed


def add(tally: WorkTally, passed: Any, computed: np.ndarray) -> None:
    tally.add(passed, computed, [core_work(SHAPE, part) for part in passed.parts])


def test_tokens_of_an_expert_are_those_of_all_groups_of_a_pass_and_none_is_not_counted() -> None:
    tally = WorkTally(posed())
    add(tally, step(7, 0), counts((2, 5, 1), (3, 0, 1)))
    add(tally, step(7, 0), counts((5, 5)))
    add(tally, step(0, 2), counts((1, 1)))
    assert tally.counts == {"prefill": {5: 4, 2: 1}, "decode": {1: 2}}
    assert tally.passes == {"prefill": 2, "decode": 1}


def test_dense_work_is_priced_without_calls_on_the_gpu_and_where_a_cpu_can_do_it() -> None:
    work, passed = posed(cxl={"near": (1e9, 22e9)}), step(7, 2)
    tally, costs = WorkTally(work), work.costs.bare
    add(tally, passed, counts((1,)))
    cores = [(part.phase, core_work(SHAPE, part)) for part in passed.parts]
    gpu = sum(float(costs.core("gpu", *sizes, phase, "hbm").sum()) for phase, sizes in cores)
    cpu = sum(float(costs.core("cpu", *sizes, phase, "ddr").sum()) for phase, sizes in cores)
    only_gpu = 3 * float(costs.router(9)) + float(costs.head(3)) + float(costs.dense(9))
    expected = [
        (3 * float(costs.shared(9)), INFINITE),
        (only_gpu, INFINITE),
        (4 * float(costs.projections("gpu", 9)), 4 * float(costs.projections("cpu", 9))),
        (4 * float(costs.output("gpu", 9)), 4 * float(costs.output("cpu", 9))),
        (gpu, cpu),
    ]
    assert np.array(tally.dense("prefill")) == pytest.approx(np.array(expected), rel=1e-12)
    assert cpu < sum(float(costs.core("cpu", *sizes, phase, "near").sum()) for phase, sizes in cores), "the best tier counts"


def test_without_a_cpu_no_operation_can_go_there_and_without_attention_there_are_shared_experts_alone() -> None:
    work = posed(cpu=False)
    tally = WorkTally(work)
    add(tally, step(7, 0), counts((1,)))
    assert [cpu for _, cpu in tally.dense("prefill")] == [INFINITE] * 5
    lone = replace(work, job=replace(work.job, attention=False))
    bare = WorkTally(lone)
    add(bare, step(7, 0), counts((1,)))
    assert bare.dense("prefill") == [(pytest.approx(3 * float(lone.costs.bare.shared(7))), INFINITE)]


def test_many_steps_at_once_are_the_same_bits_as_one_by_one() -> None:
    work, contexts = posed(), (9, 30, 31, 500)
    alone, together = WorkTally(work), WorkTally(work)
    flops, nbytes = np.zeros((4, 2, 4)), np.zeros((4, 2, 4))
    for number, context in enumerate(contexts):
        passed = step(0, 2, context)
        add(alone, passed, counts((1, 3)))
        flops[number, 1], nbytes[number, 1] = core_work(SHAPE, passed.parts[0])
    of_phase = np.repeat([[0, 2]], 4, axis=0)
    parts = Parts(np.full(4, 2), np.full(4, 2), of_phase, flops, nbytes)
    together.steps("decode", parts, np.ones(4, dtype=np.int64), np.array([9, 4, 0, 4]))
    assert together.dense("decode") == alone.dense("decode")
    assert (together.counts, together.passes) == (alone.counts, alone.passes)
    backwards = WorkTally(work)
    for context in contexts[::-1]:
        add(backwards, step(0, 2, context), counts((1, 3)))
    assert backwards.dense("decode") == alone.dense("decode"), "the order of a sum does not matter"


def test_passes_that_wait_to_be_priced_are_priced_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesim.engine.books.work_done._MOST", 3)
    at_once, in_pieces = WorkTally(posed()), WorkTally(posed())
    for context in (9, 30, 31, 500):
        add(in_pieces, step(0, 2, context), counts((1, 3)))
    assert len(in_pieces._waiting) == 1
    monkeypatch.setattr("moesim.engine.books.work_done._MOST", 9)
    for context in (500, 31, 30, 9):
        add(at_once, step(0, 2, context), counts((1, 3)))
    assert in_pieces.dense("decode") == at_once.dense("decode") == at_once.dense("decode")
