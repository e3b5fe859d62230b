"""Steps of an offline job, composed by hand: rounds, portions of a prefill, chunks, and sequences that end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.contract import Deployment, Problem
from moesim.contract.steps import StepPlan
from moesim.plugins import find
from moesim.scheduling.rounds import Rounds, steps_of_job
from moesim.workload.table import Job
from tests.policy_problems import problem


def placed(requests: list[tuple[int, int]], *, batch: int, sequences: int = 0, chunk: int = 0) -> tuple[Problem, Deployment]:
    """A job of (prompt, output) requests in rounds of `batch`."""
    prompt, output = np.array(requests).T
    work = problem(work=Job(np.zeros(len(requests)), prompt, output, layers=3, attention=True))
    deployment = find("policies", "on_demand")().deploy(work)
    prefill = replace(deployment.plan.prefill, sequences=sequences, chunk=chunk)
    return work, replace(deployment, plan=replace(deployment.plan, batch=batch, prefill=prefill))


def shown(step: StepPlan) -> dict[int, tuple[int, int, bool]]:
    """Request -> new tokens, tokens before, whether it yields a token."""
    rows = zip(step.requests, step.new_tokens, step.before, step.yields, strict=True)
    return {int(request): (int(new), int(before), bool(yields)) for request, new, before, yields in rows}


def test_a_round_prefills_decodes_and_goes_on_without_who_has_finished() -> None:
    work, deployment = placed([(3, 1), (5, 3), (2, 2)], batch=2)
    assert [shown(step) for step in steps_of_job(work.job, deployment)] == [
        {0: (3, 0, True), 1: (5, 0, True)},
        {1: (1, 5, True)},
        {1: (1, 6, True)},
        {2: (2, 0, True)},
        {2: (1, 2, True)},
    ]


def test_a_prefill_goes_in_portions_and_chunks_and_yields_with_the_last_token_of_a_prompt() -> None:
    work, deployment = placed([(3, 1), (5, 1), (2, 1)], batch=3, sequences=2, chunk=4)
    assert [shown(step) for step in steps_of_job(work.job, deployment)] == [
        {0: (3, 0, True), 1: (1, 0, False)},
        {1: (4, 1, True)},
        {2: (2, 0, True)},
    ]


def test_an_order_of_the_policy_is_kept() -> None:
    work, deployment = placed([(3, 1), (5, 1), (2, 1)], batch=2)
    steps = steps_of_job(work.job, replace(deployment, order=np.array([2, 0, 1])))
    assert [list(shown(step)) for step in steps] == [[2, 0], [1]]


def test_the_scheduler_hands_out_these_steps_whatever_the_clock_says() -> None:
    work, deployment = placed([(3, 1), (5, 3), (2, 2)], batch=2)
    rounds = Rounds(work, deployment)
    expected = [shown(step) for step in steps_of_job(work.job, deployment)]
    assert [shown(step) for step in rounds.foreseen()] == expected
    assert rounds.follows() == "prefill"
    first = rounds.compose(0)
    assert first is not None
    assert shown(first) == expected[0]
    assert (rounds.follows(), rounds.until()) == ("decode", None)
    series = rounds.sure(3)
    assert series.sizes.tolist() == [2, 1, 1]
    assert series.requests.tolist() == [0, 1, 1, 1]
    assert series.before.tolist() == [0, 0, 5, 6]
    rounds.passed([10, 20, 30])  # the first and the two that were composed with it
    rounds.ended(first, 30)
    rest = [rounds.compose(30), rounds.compose(40)]
    assert [shown(step) for step in rest if step is not None] == expected[3:]
    assert rounds.follows() is None
    assert rounds.compose(50) is None


def test_room_is_that_of_a_batch_of_the_longest_requests() -> None:
    work, deployment = placed([(3, 1), (5, 3)], batch=2)
    assert Rounds(work, deployment).kv_room() == pytest.approx(work.kv_bytes(2))
