"""Answers of policies, stacked and checked: what is filled in where one says nothing, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.contract import Dispatch
from moesim.engine.dispatches import batched, stacked
from moesim.errors import PolicyError

DEVICE = np.array([0, 1, 0])
ROUTED = np.array([[3, 0, 2], [1, 4, 0]])
STORED = np.array([[6.0, 6.0, 6.0], [9.0, 9.0, 9.0], [8.0, 8.0, 8.0]])
"""[L, E]: visits are of layers 2 and 0."""
LAYERS = np.array([2, 0])


def answered(*answers: dict[str, Any]) -> Any:
    rows = [Dispatch(DEVICE, **answer) for answer in answers]
    return stacked(rows, ROUTED[: len(rows)], LAYERS[: len(rows)], STORED)


def test_what_no_visit_says_is_left_out() -> None:
    answers = answered({}, {})
    assert answers.device.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert all(part is None for part in answers[1:])
    alone = answered({"order": np.array([2, 0, 1])})
    assert (alone.device.tolist(), alone.order.tolist()) == ([[0, 1, 0]], [[2, 0, 1]])
    assert all(part is None for part in alone[2:])


def test_a_visit_that_says_nothing_has_the_plain_answer_beside_one_that_does() -> None:
    load, source = np.array([True, False, False]), np.array([2, -1, 2])
    spoken = {
        "order": np.array([2, 1, 0]), "load": load, "counts": np.array([2, 0, 2]), "nbytes": np.array([4.0, 8.0, 8.0]),
        "stale": np.array([1, 0, 2]), "source": source, "moves": [],
    }  # fmt: skip
    answers = answered(spoken, {})
    assert answers.order.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert answers.load.tolist() == [load.tolist(), [False] * 3]
    assert answers.counts.tolist() == [[2, 0, 2], [1, 4, 0]]
    assert answers.nbytes.tolist() == [[4.0, 8.0, 8.0], [6.0, 6.0, 6.0]]
    assert answers.stale.tolist() == [[1, 0, 2], [0, 0, 0]]
    assert answers.source.tolist() == [[2, -1, 2], [-1, -1, -1]]
    assert answers.moves.tolist() == [True, False]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"counts": np.array([-1, 0, 2])}, "dispatch.counts are token counts: integers of 0 or more"),
        ({"counts": np.array([1.0, 0.0, 2.0])}, "dispatch.counts are token counts: integers of 0 or more"),
        ({"counts": np.array([4, 0, 2])}, "dispatch.counts holds more tokens than the router gave out"),
        ({"nbytes": np.array([0.0, 8.0, 8.0])}, r"dispatch.nbytes lies outside \(0, bytes of the stored copy\]"),
        ({"nbytes": np.array([8.1, 8.0, 8.0])}, r"dispatch.nbytes lies outside \(0, bytes of the stored copy\]"),
        ({"stale": np.array([4, 0, 0])}, "dispatch calls more tokens of an expert stale than it computes"),
        ({"stale": np.array([-1, 0, 0])}, "dispatch calls more tokens of an expert stale than it computes"),
        ({"stale": np.array([3, 0, 0]), "counts": np.array([2, 1, 2])}, "more tokens of an expert stale than it computes"),
    ],
)
def test_answers_that_break_the_contract_are_refused(answer: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        answered(answer)


def test_tokens_may_change_their_expert_as_long_as_none_is_added() -> None:
    assert answered({"counts": np.array([0, 5, 0])}).counts.tolist() == [[0, 5, 0]]
    assert answered({"stale": np.array([3, 0, 2])}).stale.tolist() == [[3, 0, 2]]


def test_devices_of_another_shape_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"dispatch returned device of shape \(2,\), not \[E\] = \(3,\)"):
        stacked([Dispatch(np.array([0, 1]))], ROUTED[:1], LAYERS[:1], STORED)
    with pytest.raises(PolicyError, match=r"dispatch returned device of shape \(3,\), not \[V, E\] = \(2, 3\)"):
        batched(Dispatch(DEVICE), ROUTED)


def test_a_batched_answer_has_devices_an_order_and_loads_alone() -> None:
    both = np.stack([DEVICE, DEVICE])
    order, load = np.stack([DEVICE, DEVICE]) * 2, both > 0
    answers = batched(Dispatch(both, order, load), ROUTED)
    assert (answers.device is both, answers.order is order, answers.load is load) == (True, True, True)
    for more in ({"counts": ROUTED}, {"moves": []}, {"source": both}):
        with pytest.raises(PolicyError, match="a batched policy gives devices, an order and experts to load, and nothing else"):
            batched(Dispatch(both, **more), ROUTED)
