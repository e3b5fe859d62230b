"""Steps and series of them, and how a job is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.contract import BatchPlan, PhasePlan
from moesim.contract.plan import Deferred, Overlap, Precomputed, Serial, ahead_of, chunk_of
from moesim.contract.steps import Series, StepPlan
from tests.policy_problems import job


def step(*requests: int, dropped: tuple[int, ...] = (), cached: bool = False) -> StepPlan:
    numbers = np.array(requests)
    prefix = numbers * 2 if cached else None
    return StepPlan(numbers, numbers + 1, numbers * 10, numbers % 2 == 0, np.array(dropped, dtype=np.int64), prefix)


def test_a_series_has_its_steps_one_behind_the_other_and_the_drops_of_the_first() -> None:
    series = Series.of([step(4, 1, dropped=(3,)), step(2)])
    assert series.sizes.tolist() == [2, 1]
    assert (series.requests.tolist(), series.new_tokens.tolist(), series.before.tolist()) == (
        [4, 1, 2],
        [5, 2, 3],
        [40, 10, 20],
    )
    assert (series.yields.tolist(), series.dropped.tolist()) == ([True, False, True], [3])
    assert series.from_prefix is None
    assert series.prefix_tokens.tolist() == [0, 0, 0]


def test_steps_without_a_cache_of_prefixes_have_nothing_from_it_in_a_series_with_one() -> None:
    series = Series.of([step(4, 1), step(2, cached=True)])
    assert series.from_prefix is not None
    assert series.from_prefix.tolist() == series.prefix_tokens.tolist() == [0, 0, 4]


def test_the_first_steps_of_a_series_are_cut_by_their_sequences() -> None:
    series = Series.of([step(4, 1, dropped=(3,), cached=True), step(2), step(0, 5, 6)])
    assert series.first(3) is series
    first = series.first(2)
    assert (first.sizes.tolist(), first.requests.tolist(), first.new_tokens.tolist()) == ([2, 1], [4, 1, 2], [5, 2, 3])
    assert (first.before.tolist(), first.yields.tolist(), first.dropped.tolist()) == ([40, 10, 20], [True, False, True], [3])
    assert first.prefix_tokens.tolist() == [8, 2, 0]
    assert Series.of([step(4), step(1)]).first(1).from_prefix is None


def test_the_least_chunk_that_anybody_asks_for_holds_and_none_is_whole_prompts() -> None:
    work, plan = job(), PhasePlan(4)
    assert chunk_of(work, plan) == 0
    assert chunk_of(replace(work, chunk=8), plan) == chunk_of(work, replace(plan, chunk=8)) == 8
    assert chunk_of(replace(work, chunk=8), replace(plan, chunk=5)) == 5
    assert chunk_of(replace(work, chunk=3), replace(plan, chunk=5)) == 3


def test_a_plan_knows_its_slots_and_the_plan_of_a_phase() -> None:
    plan = BatchPlan(4, PhasePlan(1), PhasePlan(2), staging=3, swap=2)
    assert plan.slots == 5
    assert (plan.of("prefill").micro_batch, plan.of("decode").micro_batch) == (1, 2)
    serial = plan.piped(Serial(1))
    assert (serial.prefill.pipeline, serial.decode.pipeline, serial.batch) == (Serial(1), Serial(1), 4)
    assert [ahead_of(pipeline) for pipeline in (Overlap(2), Serial(), Deferred(), Precomputed(5))] == [2, 0, 0, 0]


@pytest.mark.parametrize("batch", [1, 3])
def test_two_plans_that_cut_alike_are_equal(batch: int) -> None:
    assert BatchPlan(batch, PhasePlan(1), PhasePlan(2)) == BatchPlan(batch, PhasePlan(1), PhasePlan(2))
    assert BatchPlan(batch, PhasePlan(1), PhasePlan(2)) != BatchPlan(batch, PhasePlan(1), PhasePlan(1))
