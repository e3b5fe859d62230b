"""A policy with a cache whose visits are answered together: what they find, and what it may not do with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.cached import Snapshot, cached_residents, check_cached
from moesim.errors import PolicyError

CONTEXT: Any = SimpleNamespace(problem=SimpleNamespace(attending_index=0))
COUNTS = np.array([[3, 0, 1]])


def answers(*device: int, load: Any = None) -> Any:
    return SimpleNamespace(device=np.array([device]), load=load)


def test_experts_with_tokens_go_to_the_gpu_and_others_may_be_anywhere() -> None:
    check_cached(CONTEXT, answers(0, 0, 0), COUNTS)
    check_cached(CONTEXT, answers(0, 1, 0), COUNTS)


@pytest.mark.parametrize("wrong", [answers(1, 0, 0), answers(0, 0, 1), answers(0, 0, 0, load=np.ones((1, 3)))])
def test_an_expert_with_tokens_elsewhere_or_loads_of_its_own_are_refused(wrong: Any) -> None:
    with pytest.raises(PolicyError, match="all experts with tokens, and no others, to the GPU"):
        check_cached(CONTEXT, wrong, COUNTS)


# Residents that follow from a rule


class Rule:
    """Keeps all uploads; whoever was there and is not used leaves. Remembers what it was asked."""

    def __init__(self, ordered: bool) -> None:
        self.ordered, self.clock = ordered, 7
        self.uses: list[Any] = []

    def after(self, uses: Any) -> tuple[np.ndarray, np.ndarray]:
        self.uses.append((uses.layers.tolist(), uses.clock.tolist(), uses.uploaded.tolist()))
        return uses.uploaded, uses.resident & (uses.counts == 0)


class Books:
    """Two layers of three experts of 2, 3 and 4 bytes."""

    def __init__(self) -> None:
        self.resident = np.array([[True, True, False], [False, False, False]])
        self.bytes = np.tile([2.0, 3.0, 4.0], (2, 1))
        self.held, self.peak = 5.0, {"hbm": 5.0}
        self.gained: list[float] = []

    def follow(self, resident: np.ndarray, gained: np.ndarray) -> None:
        self.resident[:], self.gained = resident, gained.tolist()
        self.held += sum(self.gained)


def ruled(**rule: Any) -> Any:
    model = SimpleNamespace(expert_bytes=3.0)
    deployment = SimpleNamespace(**{"cache": None, "pool": None} | rule)
    return SimpleNamespace(deployment=deployment, residency=Books(), problem=SimpleNamespace(model=model))


VISITED, ROUTED = np.array([0, 1, 0, 1]), np.array([[0, 2, 1], [0, 0, 5], [0, 0, 3], [1, 0, 0]])
"""Layer 0 uses experts 1 and 2, then 2; layer 1 uses 2, then 0."""


@pytest.mark.parametrize("ordered", [False, True])
def test_each_visit_finds_what_the_one_before_in_its_layer_has_left(ordered: bool) -> None:
    """Expert 0 leaves layer 0 and 2 comes (+4 - 2), 2 comes to layer 1 (+4); then 1 leaves (-3), and 0 comes for 2 (+2 - 4)."""
    rule = Rule(ordered)
    context = ruled(cache=rule)
    before = cached_residents(context, VISITED, ROUTED, [slice(0, 2), slice(2, 4)])
    assert before.tolist() == [[True, True, False], [False] * 3, [False, True, True], [False, False, True]]
    assert context.residency.resident.tolist() == [[False, False, True], [True, False, False]]
    assert context.residency.gained == [2.0, 4.0, -3.0, -2.0]
    assert rule.clock == 11
    layers = [[0], [1], [0], [1]] if ordered else [[0, 1], [0, 1]]
    assert [use[0] for use in rule.uses] == layers, "one by one, or a pass at a time"
    assert [number for use in rule.uses for number in use[1]] == [8, 9, 10, 11]
    assert rule.uses[0][2][0] == [False, False, True]


def test_a_pool_answers_for_all_visits_itself() -> None:
    def walk(visited: Any, counts: Any, resident: Any) -> tuple[Any, Any]:
        before = resident[visited].copy()
        resident[1, 2] = True
        return before, np.array([0, 1, 0, 0])

    context = ruled(pool=SimpleNamespace(walk=walk))
    before = cached_residents(context, VISITED, ROUTED, [])
    assert before[0].tolist() == [True, True, False]
    assert context.residency.resident[1].tolist() == [False, False, True]
    assert context.residency.gained == [0.0, 3.0, 0.0, 0.0], "a copy more, in bytes"


def test_visits_that_are_taken_back_leave_cache_and_books_as_they_were() -> None:
    rule = Rule(False)
    context = ruled(cache=rule)
    books, memory = context.residency, np.array([1, 2])
    rule.keys = memory  # type: ignore[attr-defined]
    snapshot = Snapshot(context)
    cached_residents(context, VISITED, ROUTED, [slice(0, 2), slice(2, 4)])
    books.peak["hbm"], memory[0] = 9.0, 99
    snapshot.restore()
    assert (rule.clock, rule.uses, rule.keys.tolist()) == (7, [], [1, 2])  # type: ignore[attr-defined]
    assert books.resident.tolist() == [[True, True, False], [False, False, False]]
    assert (books.held, books.peak) == (5.0, {"hbm": 5.0})
