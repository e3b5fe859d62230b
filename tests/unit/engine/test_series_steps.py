"""The steps of a series as arrays: who decodes, how they are cut, what policies see of them, and how long the next may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.contract import Dispatch
from moesim.contract.steps import Pace, Series
from moesim.engine import series
from moesim.engine.dispatches import Answers
from moesim.engine.series import SeriesWalk, _parts, _Steps, _Visits, _woven
from moesim.workload.table import Job
from tests.policy_problems import model, problem

JOB = Job(np.zeros(3), np.array([3, 2, 8]), np.array([4, 4, 4]), layers=2)


def steps(*rows: list[tuple[int, int, int]]) -> _Steps:
    """A step for each list of (request, new tokens, tokens before)."""
    flat = [row for step in rows for row in step]
    requests, new, before = (np.array(column) for column in zip(*flat, strict=True))
    yields = before + new >= JOB.prompt[requests]
    none = np.zeros(0, dtype=np.int64)
    return _Steps.of_series(Series(np.array([len(step) for step in rows]), requests, new, before, yields, none), JOB)


MIXED = ([(0, 3, 0), (1, 2, 0)], [(0, 1, 3), (1, 1, 2), (2, 5, 0)], [(0, 1, 4), (1, 1, 3)], [(0, 1, 5), (2, 3, 5)])
"""Two prompts; two decodes beside a part of a third; two decodes; a decode beside the last part."""


def test_a_sequence_decodes_when_one_token_behind_its_prompt_passes() -> None:
    known = steps(*MIXED)
    assert known.decoding.tolist() == [False, False, True, True, False, True, True, True, False]
    assert (known.number, known.tokens.tolist(), known.decoded.tolist()) == (4, [5, 7, 2, 4], [0, 2, 2, 1])
    assert known.decodes.tolist() == [False, False, True, False]
    assert known.of.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    last_of_prompt, again = steps([(0, 1, 2)]), steps([(0, 2, 3)])
    assert not last_of_prompt.decoding.any(), "the last token of a prompt, alone"
    assert not again.decoding.any(), "two tokens that are computed again"


def test_the_first_steps_are_those_of_a_shorter_series() -> None:
    known = steps(*MIXED)
    assert known.first(4) is known
    first = known.first(2)
    assert (first.number, first.tokens.tolist(), len(first.series.requests)) == (2, [5, 7], 5)
    assert first.decoding.tolist() == known.decoding[:5].tolist()
    assert first.prompt.tolist() == [3, 2, 3, 2, 8]


def test_counts_of_a_step_are_those_of_its_decodes_and_of_each_prompt() -> None:
    """Two experts in one layer; the table says which part of a prompt was asked for, and which token was decoded."""
    questions: list[Any] = []

    def step_counts(requests: Any, tokens: Any, of: Any, number: int) -> Any:
        questions.append((requests.tolist(), tokens.tolist(), of.tolist(), number))
        return np.zeros((number, 1, 2), dtype=np.int64) + np.bincount(of, minlength=number)[:, None, None]

    def chunk_counts(requests: Any, begin: Any, end: Any, prompt: Any) -> Any:
        questions.append((requests.tolist(), begin.tolist(), end.tolist(), prompt.tolist()))
        return np.array([[0, int((end - begin).sum())]])

    routing: Any = SimpleNamespace(step_counts=step_counts, chunk_counts=chunk_counts)
    counts = steps(*MIXED).counts(routing)
    assert questions == [
        ([0, 1, 0, 1, 0], [0, 0, 1, 1, 2], [1, 1, 2, 2, 3], 4),
        ([0, 1], [0, 0], [3, 2], [3, 2]),
        ([2], [0], [5], [8]),
        ([2], [5], [8], [8]),
    ]
    assert counts[:, 0].tolist() == [[0, 5], [2, 7], [2, 2], [1, 4]]


def test_parts_are_what_the_model_says_of_the_prompts_and_of_the_decodes_of_each_step() -> None:
    work, shape = problem(shape=model(layers=2), work=JOB), model(layers=2)
    known: Any = {}
    parts = _parts(steps(*MIXED), steps(*MIXED).of, 4, work, [0, 1], known)
    assert parts.tokens.tolist() == [5, 7, 2, 4]
    assert parts.sampled.tolist() == [2, 2, 2, 2], "the third prompt yields with its last part"
    assert parts.of_phase.tolist() == [[5, 0], [5, 2], [0, 2], [3, 1]]
    assert parts.flops[0, 0].tolist() == shape.core_flops_prefill([3, 2], [0, 0]).tolist()
    assert parts.flops[3, 0].tolist() == shape.core_flops_prefill([3], [5]).tolist()
    assert parts.nbytes[1, 0].tolist() == shape.core_bytes_prefill([5], [0]).tolist()
    assert parts.flops[2, 1].tolist() == shape.core_flops_decode([5, 4]).tolist()
    assert parts.nbytes[1, 1].tolist() == shape.core_bytes_decode([4, 3]).tolist()
    assert not parts.flops[2, 0].any()
    assert not parts.nbytes[0, 1].any()


def test_attention_of_prompts_is_found_once_and_forgotten_when_too_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    work, known = problem(shape=model(layers=2), work=JOB), {}  # type: ignore[var-annotated]
    prompts = steps([(0, 3, 0)], [(1, 2, 0)], [(2, 3, 5)])
    monkeypatch.setattr(series, "_KNOWN", 2)
    _parts(prompts, prompts.of, 3, work, [0], known)
    assert len(known) == 1, "two were known when the third came"
    first = dict(known)
    _parts(steps([(2, 3, 5)]), np.array([0]), 1, work, [0], known)
    assert known == first


# What policies see


def test_a_policy_sees_the_rows_that_it_is_asked_about() -> None:
    times = SimpleNamespace(
        gpu=np.arange(8.0).reshape(4, 2), cpu=np.ones((4, 2)), local=np.full((4, 2), 2.0), copy=np.full((4, 2), 3.0)
    )
    placement = SimpleNamespace(times=lambda counts, layers: times)
    residency = SimpleNamespace(resident=np.array([[True, False], [False, True]]))
    context: Any = SimpleNamespace(placement=placement, residency=residency)
    demand = series._Asked(context, np.arange(8).reshape(4, 2), np.array([0, 1, 0, 1]))
    visits = _Visits(7, "decode", np.array([5, 5]), demand, np.array([1, 2]))
    assert (visits.index, visits.phase, visits.layer.tolist(), visits.tokens.tolist()) == (7, "decode", [1, 0], [5, 5])
    assert visits.counts.tolist() == [[2, 3], [4, 5]]
    assert visits.gpu.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert [visits.cpu[0, 0], visits.local[0, 0], visits.copy[0, 0]] == [1.0, 2.0, 3.0]
    assert visits.resident.tolist() == [[False, True], [True, False]]


def test_answers_of_two_phases_are_woven_by_their_rows() -> None:
    first = Answers(np.array([[0, 1]]), np.array([[1, 0]]), None)
    second = Answers(np.array([[1, 1], [0, 0]]), None, np.array([[True, False], [False, False]]))
    woven = _woven([(np.array([1]), first), (np.array([0, 2]), second)], (3, 2))
    assert woven.device.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert woven.order is not None
    assert woven.order.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert woven.load is not None
    assert woven.load.tolist() == [[True, False], [False, False], [False, False]]
    plain = _woven([(np.array([1, 0]), Answers(np.array([[0, 1], [1, 0]])))], (2, 2))
    assert (plain.device.tolist(), plain.order, plain.load) == ([[1, 0], [0, 1]], None, None)


def test_a_policy_is_asked_once_for_each_phase_and_shown_the_number_of_its_first_step() -> None:
    """Steps 3, 4 and 6 hold prompts, step 5 decodes alone; all of an expert per layer go where the policy says."""
    questions: list[Any] = []

    def dispatch(visits: Any, _view: Any) -> Dispatch:
        questions.append((visits.index, visits.phase, visits.layer.tolist(), visits.tokens.tolist()))
        return Dispatch(np.full(visits.counts.shape, len(questions)))

    walker = SeriesWalk.__new__(SeriesWalk)
    walker._context = SimpleNamespace(  # type: ignore[assignment]
        problem=SimpleNamespace(layers=2), policy=SimpleNamespace(dispatch=dispatch), view=None
    )
    demand = series._Asked(walker._context, np.ones((8, 1), dtype=np.int64), np.tile([0, 1], 4))
    answers = walker._answers(3, steps(*MIXED), demand)
    assert questions == [(3, "prefill", [0, 1] * 3, [5, 5, 7, 7, 4, 4]), (5, "decode", [0, 1], [2, 2])]
    assert answers.device[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 1, 1]


# How many steps


def walk(prefill: int = 9, decode: int = 9, **changes: Any) -> SeriesWalk:
    """A walk with micro-batches of so many sequences, as far as the choice of steps needs one."""
    known = {"layers": 2, "experts": 4, "ruled": False, "now": 1000, "pace": Pace(0, 0, 0.0, 1)} | changes
    plan = SimpleNamespace(prefill=SimpleNamespace(micro_batch=prefill), decode=SimpleNamespace(micro_batch=decode))
    walker = SeriesWalk.__new__(SeriesWalk)
    walker._context = SimpleNamespace(
        deployment=SimpleNamespace(plan=plan, ruled=known["ruled"]), machine=SimpleNamespace(now=known["now"]),
        problem=SimpleNamespace(layers=known["layers"], experts=known["experts"]),
    )  # type: ignore[assignment]  # fmt: skip
    walker._pace = known["pace"]
    return walker


def test_as_many_steps_are_asked_for_as_begin_before_something_happens() -> None:
    """At 100 ps a step: 350 ps hold three and some, and two more are tried; 64 at most, or 150,000 experts met."""
    pace = Pace(0, 100, 0.5, 1)
    assert walk(pace=pace)._asked(1350) == (5, Pace(1000, 100, 0.5, 64))
    assert walk(pace=pace)._asked(500)[0] == 2, "what was to happen is past"
    assert walk(pace=pace, ruled=True)._asked(1350) == (3, None)
    assert walk(pace=pace, ruled=True)._asked(500) == (1, None), "a step at least"
    assert walk(pace=pace)._asked(10**9)[0] == 64
    assert walk(pace=pace, layers=100, experts=500)._asked(10**9)[0] == 3
    assert walk(layers=1000, experts=500)._asked(None) == (1, None)
    assert walk(layers=0)._asked(None) == (64, None)
    assert walk()._asked(1350) == (64, None), "no step has been timed yet"


def test_steps_that_fit_pass_as_many_micro_batches_as_the_first() -> None:
    assert walk()._fitting(steps(*MIXED)) == (4, 1)
    assert walk(prefill=3, decode=2)._fitting(steps(*MIXED)) == (4, 1), "one micro-batch of each part"
    assert walk(prefill=1, decode=2)._fitting(steps(*MIXED)) == (1, 2)
    assert walk(decode=1)._fitting(steps(MIXED[1])) == (0, 0), "prompts and decodes are cut apart"
    decodes = [[(0, 1, 3), (1, 1, 2)], [(0, 1, 4)], [(0, 1, 5), (1, 1, 3)]]
    assert walk(decode=1)._fitting(steps(*decodes)) == (1, 2)
    assert walk(decode=1)._fitting(steps(decodes[0], decodes[2])) == (2, 2)
    assert walk(decode=2)._fitting(steps(*decodes)) == (3, 1)


def test_sequences_of_a_step_go_to_its_micro_batches_in_turn() -> None:
    prompts_and_decodes = steps([(0, 3, 0), (1, 2, 0), (2, 5, 0)], [(0, 1, 3), (1, 1, 2)])
    assert walk(prefill=2, decode=1)._micro_batch(prompts_and_decodes).tolist() == [0, 0, 1, 0, 1]


# Pace


@pytest.mark.parametrize(
    ("rows", "lasted", "pace"),
    [
        (MIXED[2:3], [40], (40, 0.0)),
        (MIXED[:1], [50], (50, 10.0)),
        ([MIXED[2], MIXED[0]], [40, 90], (40, 10.0)),
        ([MIXED[2], MIXED[2]], [40, 44], (44, 0.0)),
        ([MIXED[2], MIXED[3]], [40, 100], (40, 20.0)),
        ([MIXED[2], MIXED[3]], [40, 30], (40, 0.0)),
    ],
)
def test_the_pace_is_that_of_the_last_step_of_each_kind(rows: Any, lasted: list[int], pace: tuple[int, float]) -> None:
    """A token of a prompt takes what its step lasted beyond one that decodes: 50 for 5 tokens, or 100 - 40 for 3."""
    walker = walk()
    walker._look_at(steps(*rows), np.array(lasted))
    assert (walker._pace.step, walker._pace.token, walker._pace.now, walker._pace.most) == (*pace, 0, 1)


def test_the_pace_of_decodes_stays_while_prompts_are_read() -> None:
    walker = walk(pace=Pace(0, 30, 0.0, 1))
    walker._look_at(steps(*MIXED[:1]), np.array([80]))
    assert (walker._pace.step, walker._pace.token) == (30, 10.0)
