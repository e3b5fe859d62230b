"""A scheduler's step with the routing of its tokens; what a policy may see of it beforehand, and what bounds may see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Foresight
from moesim.contract.steps import StepPlan
from moesim.engine.foresight_view import Oracle, Seer, hindsight
from moesim.engine.passes import Pass, check_plan, core_work, pass_of
from moesim.errors import MoesimError
from moesim.workload.table import Job, RoutingTable
from tests.policy_problems import model, problem

PROMPTS = np.array([[[[0], [1]], [[2], [0]], [[0], [1]]], [[[1], [1]], [[1], [2]], [[9], [9]]]])
"""[R, P, L, k] two requests of 3 and 2 prompt tokens, two layers, three experts, one of them a token."""
DECODE = np.array([[[[2], [2]], [[0], [1]]], [[[1], [0]], [[9], [9]]]], dtype=np.uint8)
"""[R, G, L, k] two and one decode passes."""
JOB = Job(np.zeros(2), np.array([3, 2]), np.array([3, 2]), layers=2)


def table() -> RoutingTable:
    prefill = np.zeros((2, 2, 3), dtype=np.uint32)
    for request, tokens in enumerate((3, 2)):
        for token in range(tokens):
            for layer in range(2):
                prefill[request, layer, PROMPTS[request, token, layer, 0]] += 1
    return RoutingTable(prefill, DECODE, 3, np.full((2, 3), 1 / 3), prompts=lambda: PROMPTS.clip(0, 2).astype(np.uint8))


def plan(*rows: tuple[int, int, int, bool]) -> StepPlan:
    """A step of (request, new tokens, tokens before, whether it yields)."""
    requests, new, before, yields = (np.array(column) for column in zip(*rows, strict=True))
    return StepPlan(requests, new, before, yields)


def composed(*rows: tuple[int, int, int, bool], batch: int = 0) -> Pass:
    return pass_of(4, plan(*rows), JOB, table(), batch)


def test_a_step_has_the_experts_of_its_tokens_in_groups_that_pass_them_together() -> None:
    step = composed((0, 3, 0, True), (1, 2, 0, True))
    assert step.counts[:, 0].tolist() == [[2, 2, 1], [1, 3, 1]]
    assert (step.group_tokens.tolist(), step.phase, step.sampled) == ([5], "prefill", 2)
    apart = composed((0, 3, 0, True), (1, 2, 0, True), batch=1)
    assert apart.counts[:, 0].tolist() == [[2, 0, 1], [1, 2, 0]]
    assert apart.counts[:, 1].tolist() == [[0, 2, 0], [0, 1, 1]]
    assert apart.group_tokens.tolist() == [3, 2]


def test_parts_of_a_prompt_have_their_own_tokens() -> None:
    assert composed((0, 2, 0, False)).counts[:, 0].tolist() == [[1, 0, 1], [1, 1, 0]]
    assert composed((0, 1, 2, True)).counts[:, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_a_step_of_prompts_and_decodes_goes_by_the_plan_of_prefill_and_attends_in_two_parts() -> None:
    step = composed((0, 1, 3, True), (1, 2, 0, True))
    assert (step.decoding.tolist(), step.phase) == ([True, False], "prefill")
    prompts, decodes = step.parts
    assert (prompts.phase, prompts.new_tokens.tolist(), prompts.before.tolist()) == ("prefill", [2], [0])
    assert (decodes.phase, decodes.new_tokens.tolist(), decodes.context.tolist()) == ("decode", [1], [4])
    assert step.counts[:, 0].tolist() == [[0, 2, 1], [0, 1, 2]]
    alone = composed((0, 1, 3, True))
    assert (alone.phase, [part.phase for part in alone.parts]) == ("decode", ["decode"])


def test_the_first_and_the_last_token_of_a_request_are_marked() -> None:
    def marks(*rows: tuple[int, int, int, bool]) -> tuple[list[int], list[int]]:
        step = composed(*rows)
        return step.first.tolist(), step.ending.tolist()

    assert marks((0, 3, 0, True), (1, 2, 0, True)) == ([0, 1], [])
    assert marks((0, 1, 3, True), (1, 1, 2, True)) == ([], [1])
    assert marks((0, 1, 4, True)) == ([], [0])
    assert marks((0, 2, 0, False)) == ([], [])


def test_the_core_of_a_decode_is_priced_by_its_context_and_that_of_a_prompt_by_its_pairs() -> None:
    shape = model()
    prompts, decodes = composed((0, 1, 3, True), (1, 2, 0, True)).parts
    flops, nbytes = core_work(shape, decodes)
    assert (flops == shape.core_flops_decode([4])).all()
    assert (nbytes == shape.core_bytes_decode([4])).all()
    flops, nbytes = core_work(shape, prompts)
    assert (flops == shape.core_flops_prefill([2], [0])).all()
    assert (nbytes == shape.core_bytes_prefill([2], [0])).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 1, 3, True), (0, 1, 4, True)], "a scheduler put a request into a step twice"),
        ([(0, 1, 5, True)], "a step of tokens that a request does not have"),
        ([(0, 0, 3, True)], "a step of tokens that a request does not have"),
        ([(0, 2, -1, False)], "a step of tokens that a request does not have"),
        ([(0, 2, 0, True)], "expects an output token before the prompt has been read"),
    ],
)
def test_what_a_scheduler_may_not_compose(rows: list[Any], message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        composed(*rows)


def test_a_step_needs_sequences_and_may_have_the_last_token_of_all() -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(MoesimError, match="a scheduler composed a step without sequences"):
        check_plan(JOB, StepPlan(none, none, none, none > 0), none)
    check_plan(JOB, plan((0, 1, 4, True), (1, 2, 0, True)), np.array([0, 1]))


def sight(**changes: Any) -> Seer:
    work = problem(shape=model(experts=3, layers=2, top_k=1), work=JOB)
    return Seer(work, Foresight(**changes))


def test_a_perfect_predictor_sees_the_true_routing_of_the_layers_ahead_and_nothing_beyond() -> None:
    step, seer = composed((0, 3, 0, True), (1, 2, 0, True), batch=1), sight(recall=(1.0,))
    together, second = seer.of(step, 0, -1), seer.of(step, 0, 1)
    seen = together(1)
    assert seen is not None
    assert seen.tolist() == [1, 3, 1]
    alone = second(1)
    assert alone is not None
    assert alone.tolist() == [0, 1, 1]
    assert [together(depth) for depth in (0, 2, 3)] == [None] * 3
    assert seer.of(step, 1, -1)(1) is None
    assert seer.of(step, -1, -1)(1) is None


def test_layers_that_a_predictor_is_blind_to_are_empty() -> None:
    step = composed((0, 3, 0, True), (1, 2, 0, True))
    blind = sight(recall=(1.0,), blind_layers=2).of(step, 0, -1)(1)
    assert blind is not None
    assert blind.tolist() == [0, 0, 0]
    clear = sight(recall=(1.0,), blind_layers=1).of(step, 0, -1)(1)
    assert clear is not None
    assert clear.tolist() == [1, 3, 1]


def test_the_same_question_has_the_same_answer_and_another_step_another() -> None:
    def routed(index: int) -> Pass:
        return pass_of(index, plan((0, 3, 0, True), (1, 2, 0, True)), JOB, table(), 0)

    first, answers = routed(1), []
    seer = sight(recall=(0.0,))
    for step in (first, routed(2), routed(3), first):
        seen = seer.of(step, 0, -1)(1)
        assert seen is not None
        assert seen.sum() == 5
        answers.append(seen.tolist())
        seen[:] = 0  # the answer is a copy
        again = seer.of(step, 0, -1)(1)
        assert again is not None
        assert again.tolist() == answers[-1]
    assert answers[0] == answers[3]
    assert len({tuple(answer) for answer in answers}) > 1


def test_runs_of_different_seeds_foresee_different_experts() -> None:
    work = problem(shape=model(experts=3, layers=2, top_k=1), work=JOB)
    step, answers = composed((0, 3, 0, True), (1, 2, 0, True)), set()
    for seed in range(4):
        seen = Seer(replace(work, foresight=np.random.default_rng(seed)), Foresight(recall=(0.0,))).of(step, 0, -1)(1)
        assert seen is not None
        answers.add(tuple(seen.tolist()))
    assert len(answers) > 1


def test_hindsight_is_the_share_of_each_expert_over_prompts_and_decodes() -> None:
    # layer 0: experts 0, 2, 0 and 1, 1 of the prompts, 2, 0 and 1 of the decodes; layer 1: 1, 0, 1, 1, 2 and 2, 1, 0
    assert hindsight(JOB, table()) == pytest.approx(np.array([[3, 3, 2], [2, 4, 2]]) / 8)


def test_an_oracle_knows_every_round_and_where_the_run_is() -> None:
    steps = [composed((0, 3, 0, True), (1, 2, 0, True), batch=1), composed((0, 1, 3, True), (1, 1, 2, True), batch=1)]
    oracle = Oracle([steps[0], Pass(**{**steps[1].__dict__, "index": 5})])
    oracle.move(steps[0], 0, 0)
    upcoming = oracle.future.counts(0)
    assert upcoming is not None
    assert upcoming.tolist() == [0, 2, 0], "the second group of the first step"
    oracle.move(Pass(**{**steps[1].__dict__, "index": 5}), 1, 0)
    upcoming = oracle.future.counts(1)
    assert upcoming is not None
    assert upcoming.tolist() == [1, 0, 0], "the second group of the second step: request 1 asks for expert 0"
    assert oracle.future.counts(0) is None
