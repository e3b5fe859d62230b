"""Steps that are kept and entered all at once: what comes out is what each would have entered, by phase."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.engine.books import steps as module
from moesim.engine.books.steps import StepBooks
from moesim.engine.programs.gpu_steps import Parts

LAYERS = np.array([2, 1])


class Listener:
    """What the books of operations and of work are given."""

    def __init__(self) -> None:
        self.entered: list[tuple[Any, ...]] = []

    def steps(self, phase: str, parts: Parts, *more: Any) -> None:
        self.entered.append((phase, parts.tokens.tolist(), *(array.tolist() for array in more)))


def books() -> tuple[StepBooks, Listener, Listener]:
    operations, tally = Listener(), Listener()
    return StepBooks(operations, tally, LAYERS), operations, tally  # type: ignore[arg-type]


def parts(*tokens: int) -> Parts:
    number = len(tokens)
    zeros = np.zeros((number, 2, 2))
    return Parts(np.array(tokens), np.array(tokens), np.zeros((number, 2), dtype=np.int64), zeros, zeros)


def test_nothing_is_entered_before_the_books_are_closed_and_then_once() -> None:
    ledger, operations, tally = books()
    ledger.add("decode", parts(3, 4), np.array([[3], [4]]), np.array([[[0, 3]], [[2, 2]]]))
    assert operations.entered == tally.entered == []
    ledger.close()
    # no expert had 1 token, one had none, two had 2, one had 3
    assert tally.entered == [("decode", [3, 4], [2, 1], [1, 0, 2, 1])]
    assert operations.entered == [("decode", [3, 4], [3, 4], [2, 1])]
    ledger.close()
    assert len(operations.entered) == len(tally.entered) == 1


def test_steps_of_a_phase_are_entered_together_in_their_order() -> None:
    """Micro-batches of 2 + 1 and of 5 tokens; numbers of tokens grow with the largest."""
    ledger, operations, tally = books()
    ledger.add("prefill", parts(3), np.array([[2, 1]]), np.array([[[1, 2]]]))
    ledger.add("decode", parts(1), np.array([[1]]), np.array([[[1, 0]]]))
    ledger.add("prefill", parts(5), np.array([[5, 0]]), np.array([[[5, 0]]]))
    ledger.close()
    assert operations.entered == [("prefill", [3, 5], [2, 1, 5, 0], [2, 1]), ("decode", [1], [1], [2, 1])]
    assert tally.entered == [("prefill", [3, 5], [2, 1], [1, 1, 1, 0, 0, 1]), ("decode", [1], [2, 1], [1, 1])]
    ledger.add("decode", parts(1), np.array([[1]]), np.array([[[1, 0]]]))
    ledger.close()
    assert tally.entered[2:] == [("decode", [1], [2, 1], [1, 1])]


def test_no_more_steps_are_kept_than_are_entered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    ledger, operations, _ = books()
    ledger.add("decode", parts(1, 1), np.array([[1], [1]]), np.ones((2, 1, 2), dtype=np.int64))
    assert not operations.entered
    ledger.add("prefill", parts(7), np.array([[7]]), np.ones((1, 1, 2), dtype=np.int64))
    assert [entry[:2] for entry in operations.entered] == [("prefill", [7]), ("decode", [1, 1])]
    ledger.add("decode", parts(1, 1), np.array([[1], [1]]), np.ones((2, 1, 2), dtype=np.int64))
    assert len(operations.entered) == 2  # counted anew from there
