"""Tokens, pairs and entries that attention meets, against a count of every query and key."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from moesim.model.windows import Groups, attended, cached_tokens, causal_pairs, entries, entry_pairs, summed, visible_before

WINDOWS = (0, 4, 1)
"""Three layers: one sees all, one four tokens, one the token itself alone."""
LENGTHS = range(14)


def sees(query: int, key: int, window: int, chunked: bool) -> bool:
    """Whether token `query` attends to token `key`, both counted from 0."""
    if key > query:
        return False
    if not window:
        return True
    return key >= query // window * window if chunked else key > query - window


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_tokens_and_pairs_are_those_of_a_count(length: int, chunked: bool) -> None:
    pairs = [[(q, k) for q, k in product(range(length), repeat=2) if sees(q, k, window, chunked)] for window in WINDOWS]
    assert causal_pairs([length], WINDOWS, chunked).tolist() == [len(seen) for seen in pairs]
    if length:
        last = [sum(q == length - 1 for q, _ in seen) for seen in pairs]
        assert attended([length], WINDOWS, chunked).tolist() == last
    if chunked or length:
        before = [sum(sees(length, key, window, chunked) for key in range(length)) for window in WINDOWS]
        assert visible_before([length], WINDOWS, chunked).tolist() == before


def test_a_cache_holds_no_more_than_a_window() -> None:
    assert cached_tokens([9, 3], WINDOWS).tolist() == [12, 7, 2]


def test_sequences_are_summed_by_their_group() -> None:
    """Lengths 3, 9 and 5 of groups 1, 0 and 1; nobody is in group 2."""
    groups = Groups(np.array([1, 0, 1]), 3)
    assert attended([3, 9, 5], WINDOWS, groups=groups).tolist() == [[9, 4, 1], [8, 7, 2], [0, 0, 0]]
    assert causal_pairs([3, 9, 5], (0, 0, 0), groups=groups)[:, 0].tolist() == [45, 6 + 15, 0]
    assert summed([1.0, 2.0, 4.0], groups).tolist() == [2.0, 5.0, 0.0]
    assert summed([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]], groups).tolist() == [[2.0, 1.0], [5.0, 2.0], [0.0, 0.0]]
    assert summed(7.0, None) == 7.0


RATES = (0, 1, 3, 4)
MOST = (0, 2, 2, 0)


@pytest.mark.parametrize("length", LENGTHS)
def test_entries_stand_for_whole_groups_of_tokens(length: int) -> None:
    """A rate of 0 makes none; at most two of them count in the second and third layer."""
    whole = [length // rate if rate else 0 for rate in RATES]
    assert entries([length], RATES).tolist() == whole
    assert entries([length], RATES, MOST).tolist() == [min(n, most) if most else n for n, most in zip(whole, MOST, strict=True)]
    pairs = [
        sum(min((query + 1) // rate, most or length) if rate else 0 for query in range(length))
        for rate, most in zip(RATES, MOST, strict=True)
    ]
    assert entry_pairs([length], RATES, MOST).tolist() == pairs


def test_entries_of_several_prompts_add_up() -> None:
    assert entries([7, 8], RATES).tolist() == [0, 15, 4, 3]
    groups = Groups(np.array([0, 1]), 2)
    assert entries([7, 8], RATES, groups=groups).tolist() == [[0, 7, 2, 1], [0, 8, 2, 2]]
    assert entry_pairs([7, 8], RATES, MOST, groups).sum(axis=0).tolist() == entry_pairs([7, 8], RATES, MOST).tolist()
