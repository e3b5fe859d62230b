"""What dispatches mean in work where layers overlap: uploads in their order, GPU time behind each, and what helpers do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.plan_visit import VisitWork, work_of_visits

LAUNCH = 7
"""ps of a call to the GPU of its own."""
COUNTS = np.array([[3, 2, 0, 1]])
TIMES: Any = SimpleNamespace(copy_ps=np.array([[10, 20, 30, 40]]), gpu_ps=np.array([[1, 2, 3, 4]]))


def path(rate: float) -> Any:
    """Copies at `rate` B/ps behind 5 ps."""
    return SimpleNamespace(
        source="hbm",
        target="ddr",
        seconds=lambda nbytes, chunks=1: (5 + np.asarray(nbytes) / rate) * 1e-12,
        rate=rate * 1e12,
        setup=5e-12,
        chunk=None,
    )


def helper(index: int) -> Any:
    return SimpleNamespace(index=index, name=f"unit{index}", out=path(2.0), back=path(4.0))


def work(answers: Answers, up: Any, helpers: list[Any] | None = None, sides: list[tuple[int, int]] | None = None) -> VisitWork:
    """Of one visit of 4 tokens that the kernel measured: 9 ps of residents, 6 of ids, (pairs, ps) of each side."""
    T = [0] * k.T_HEADER
    T[k.T_APART] = LAUNCH
    measured = np.zeros((1, k.W_SIDES + 2 * len(helpers or [])), dtype=np.int64)
    measured[0, k.W_FIRST], measured[0, k.W_IDS] = 9, 6
    for number, (pairs, time) in enumerate(sides or []):
        measured[0, k.W_SIDES + 2 * number : k.W_SIDES + 2 * number + 2] = pairs, time
    tables: Any = SimpleNamespace(T=T, helpers=helpers or [], token_bytes=8.0)
    return work_of_visits(tables, measured, COUNTS, np.array([4]), answers, np.array([up]) > 0, TIMES)


ON_GPU = np.zeros((1, 4), dtype=np.int64)


def test_an_upload_takes_its_copy_and_its_expert_a_call_behind_it() -> None:
    planned = work(Answers(ON_GPU), [1, 0, 0, 1])
    assert planned.copy.tolist() == [[10, 0, 0, 40]]
    assert planned.gpu_after.tolist() == [[1 + LAUNCH, 0, 0, 4 + LAUNCH]]
    assert (planned.gpu_first.tolist(), planned.ids.tolist(), planned.helpers, planned.order) == ([9], [6], [], None)


def test_an_expert_without_tokens_takes_the_link_alone() -> None:
    planned = work(Answers(ON_GPU), [0, 0, 1, 1])
    assert planned.copy.tolist() == [[0, 0, 30, 40]]
    assert planned.gpu_after.tolist() == [[0, 0, 0, 4 + LAUNCH]]


def test_uploads_stand_in_the_order_of_the_dispatch() -> None:
    order = np.array([[3, 1, 0, 2]])
    planned = work(Answers(ON_GPU, order), [1, 0, 1, 1])
    assert planned.order is order
    assert planned.copy.tolist() == [[40, 0, 10, 30]]
    assert planned.gpu_after.tolist() == [[4 + LAUNCH, 0, 1 + LAUNCH, 0]]
    assert planned.up.tolist() == [[True, False, True, True]], "by number"


def test_a_helper_is_sent_each_token_once_and_those_without_work_are_left_out() -> None:
    """3 + 2 pairs of 4 tokens: 4 tokens of 8 bytes at 2 B/ps out and 4 B/ps back, behind 5 ps each."""
    device = np.array([[1, 1, 1, 0]])
    planned = work(Answers(device), [0, 0, 0, 1], [helper(1), helper(2)], [(5, 50), (0, 0)])
    (part,) = planned.helpers
    assert (part.helper.name, part.tokens.tolist(), part.work.tolist()) == ("unit1", [5], [50])
    assert part.nbytes.tolist() == [32.0]
    assert part.runs.tolist() == [[True, True, False, False]], "expert 2 has no tokens"
    assert (part.out.tolist(), part.back.tolist()) == ([21], [13])


def test_few_pairs_are_as_many_tokens() -> None:
    planned = work(Answers(np.array([[0, 1, 0, 0]])), [0] * 4, [helper(1)], [(2, 50)])
    assert planned.helpers[0].nbytes.tolist() == [16.0]
    assert planned.helpers[0].out.tolist() == [pytest.approx(13)]
