"""Experts in the order of their tokens, few or more than are counted into bins: the order that numpy gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.policies.kit.compiled.order_kernel import MOST, by_residence, most_first
from moesim.policies.kit.dispatch import in_order

tokens = st.one_of(st.integers(0, 3), st.sampled_from([MOST - 1, MOST, MOST + 1, 9 * MOST]))


def room(experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Bins and values for so many experts."""
    return np.zeros(max(MOST, experts), dtype=np.int64), np.zeros(experts)


@given(st.lists(st.tuples(tokens, st.booleans()), min_size=1, max_size=12))
def test_residents_stand_before_others_and_each_by_tokens_then_number(rows: list[tuple[int, bool]]) -> None:
    counts, resident = np.array(rows, dtype=np.int64).T
    experts = len(rows)
    order, places = np.full(experts, -1), np.zeros(experts, dtype=np.int64)
    bins, values = room(experts)
    shifted = np.concatenate([[7], counts]), np.concatenate([[1, 0], resident])  # a layer and a visit that lie further on
    by_residence(experts, 1, 2, *shifted, order, bins, values, places)
    assert order.tolist() == in_order(counts, resident > 0).tolist()


@given(st.lists(tokens, min_size=1, max_size=12), st.integers(0, 3))
def test_equal_experts_stay_as_they_stood_and_what_lies_before_is_not_touched(counts: list[int], before: int) -> None:
    ranked = np.arange(len(counts))[::-1].copy()
    ordered = np.full(before + len(counts), -1)
    most_first(len(counts), 0, np.array(counts), ranked, ordered, before, *room(len(counts)))
    assert ordered[:before].tolist() == [-1] * before
    assert ordered[before:].tolist() == sorted(ranked.tolist(), key=lambda expert: -counts[expert])
