"""The book of the KV cache: tokens of each request, step by step and many at once, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.contract.steps import Series, StepPlan
from moesim.engine.kv import KvBook
from moesim.errors import MoesimError
from moesim.workload.table import Job
from tests.policy_problems import problem

TOKEN = 3 * 2 * 2 * 128 * 2.0
"""Bytes of a token: 3 layers, 2 heads of 128 values in 2 bytes, keys and values."""


def book(tokens: float = 1000.0, attention: bool = True, prompts: tuple[int, ...] = (600, 600, 600)) -> KvBook:
    """Room for `tokens` tokens, and requests with `prompts` and two tokens of output each."""
    work = Job(np.zeros(3), np.array(prompts), np.full(3, 2), layers=3, attention=attention)
    return KvBook(problem(work=work), tokens * TOKEN)


def plan(*rows: tuple[int, int, int], dropped: tuple[int, ...] = (), cached: list[int] | None = None) -> StepPlan:
    """A step of (request, new tokens, tokens before)."""
    requests, new, before = np.array(rows).T
    prefix = None if cached is None else np.array(cached)
    return StepPlan(requests, new, before, new > 0, np.array(dropped, dtype=np.int64), prefix)


def test_a_step_adds_its_tokens_and_the_peak_is_the_most_that_was_held() -> None:
    kv = book()
    kv.enter(plan((0, 5, 0), (2, 3, 0)))
    assert kv.peak == 8 * TOKEN
    kv.enter(plan((0, 1, 5)))
    assert kv.peak == 9 * TOKEN
    kv.leave(np.array([0]))
    kv.enter(plan((2, 1, 3)))
    assert kv.peak == 9 * TOKEN
    kv.enter(plan((0, 6, 0)))
    assert kv.peak == 10 * TOKEN


def test_a_request_that_lost_its_cache_begins_anew_and_a_prefix_is_there_already() -> None:
    kv = book()
    kv.enter(plan((0, 5, 0)))
    kv.enter(plan((1, 2, 4), dropped=(0,), cached=[4]))
    assert kv.peak == 6 * TOKEN
    kv.enter(plan((0, 5, 0)))
    assert kv.peak == 11 * TOKEN


def test_another_count_than_the_book_s_is_a_fault_of_the_scheduler() -> None:
    for rows in ([(0, 1, 4)], [(0, 1, 6)], [(1, 1, 5)]):
        kv = book()
        kv.enter(plan((0, 5, 0)))
        with pytest.raises(
            MoesimError, match="a scheduler counts other tokens in the KV cache than the steps before have left"
        ):
            kv.enter(plan(*rows))


def test_a_step_may_fill_the_room_and_no_more() -> None:
    kv = book(tokens=8)
    kv.enter(plan((0, 8, 0)))
    with pytest.raises(MoesimError, match=r"a step needs 27,648 B of KV cache, and 24,576 B are set aside for it; a scheduler"):
        kv.enter(plan((0, 1, 8)))
    unread = book(tokens=1, attention=False)
    unread.enter(plan((0, 8, 0)))
    assert unread.peak == 0.0


def passed(kv: KvBook, *plans: StepPlan) -> None:
    series = Series.of(plans)
    kv.pass_through(series, np.repeat(np.arange(len(plans)), series.sizes))


def test_steps_that_pass_many_at_once_hold_what_they_hold_one_by_one() -> None:
    kv = book(prompts=(5, 600, 600))
    # request 1 has 3 tokens from a prefix; request 0 ends with the second step, so the third holds 6 + 3
    passed(kv, plan((0, 5, 0)), plan((0, 1, 5), (1, 2, 3), cached=[0, 3]), plan((1, 1, 5), (2, 3, 0)))
    kv.settle()
    assert kv.peak == 11 * TOKEN
    kv.enter(plan((0, 2, 0), (1, 1, 6), (2, 1, 3)))
    assert kv.peak == 13 * TOKEN


def test_a_series_goes_on_from_what_is_held_already() -> None:
    kv = book()
    kv.enter(plan((0, 5, 0), (2, 3, 0)))
    passed(kv, plan((0, 1, 5)), plan((0, 1, 6), (2, 1, 3)))
    kv.settle()
    assert kv.peak == 11 * TOKEN


def test_series_one_behind_the_other_are_counted_together_until_a_request_loses_its_cache() -> None:
    kv = book()
    passed(kv, plan((0, 5, 0)))
    passed(kv, plan((0, 1, 5)), plan((0, 1, 6)))
    passed(kv, plan((1, 4, 0), dropped=(0,)))
    kv.settle()
    assert kv.peak == 7 * TOKEN
    kv.enter(plan((0, 2, 0), (1, 1, 4)))
    assert kv.peak == 7 * TOKEN


def test_a_series_that_counts_otherwise_or_needs_more_than_the_room_is_refused_when_it_is_settled() -> None:
    kv = book()
    passed(kv, plan((0, 5, 0)), plan((0, 1, 4)))
    with pytest.raises(MoesimError, match="counts other tokens"):
        kv.settle()
    kv = book(tokens=5)
    passed(kv, plan((0, 5, 0)), plan((0, 1, 5)))
    with pytest.raises(MoesimError, match="18,432 B of KV cache, and 15,360 B are set aside"):
        kv.enter(plan((0, 1, 6)))


def test_no_more_than_256_steps_are_kept() -> None:
    kv = book()
    for number in range(255):
        passed(kv, plan((0, 1, number)))
    assert kv.peak == 0.0
    passed(kv, plan((0, 1, 255)))
    assert kv.peak == 256 * TOKEN
