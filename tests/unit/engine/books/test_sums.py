"""Sums over visits as the kernel lays them out: by phase, taken once, widened when kinds of copies come."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.engine.books.sums import VisitBooks
from moesim.engine.kernel import kernel as k

LAYERS, EXPERTS, HELPERS, DEVICES = 2, 3, 1, 2
HOLDERS = pytest.mark.parametrize("arrays", [True, False])
"""The compiled kernel reads arrays, plain Python lists."""


def books(arrays: bool) -> VisitBooks:
    sums = VisitBooks(LAYERS, EXPERTS, HELPERS, DEVICES, arrays)
    sums.turn_to("decode")
    return sums


@HOLDERS
def test_each_sort_has_a_place_of_its_own(arrays: bool) -> None:
    """5 by layer, 2 by expert, copies by expert, runs by device and expert, then what is odd, GPU, sides, met and times."""
    sums, pairs = books(arrays), LAYERS * EXPERTS
    sizes = (
        [LAYERS] * 5
        + [pairs] * 3
        + [2 * pairs, 1, 2, 3, k.SIDE_BOOKS, 2 * DEVICES, 2 * LAYERS, 2 * LAYERS * k.MOST_LANES, k.MOST_LANES]
    )
    assert [len(sums.part(number)) for number in range(k.B_HEADER)] == sizes
    starts = list(sums.B[: k.B_HEADER])
    assert starts == [k.B_HEADER + sum(sizes[:number]) for number in range(k.B_HEADER)]
    assert len(sums.B) == k.B_HEADER + sum(sizes)


@HOLDERS
def test_what_is_taken_starts_again_from_zero(arrays: bool) -> None:
    sums = books(arrays)
    sums.add(k.B_VISITS, np.array([1, 2]))
    sums.add(k.B_VISITS, np.array([3, 4]))
    sums.add(k.B_TOKENS, np.arange(6).reshape(2, 3))
    sums.add(k.B_TRAILING, np.array([7]))
    visits, tokens = sums.take(k.B_VISITS, k.B_TOKENS)
    assert (visits.tolist(), tokens.tolist()) == ([4, 6], [0, 1, 2, 3, 4, 5])
    visits, trailing = sums.take(k.B_VISITS, k.B_TRAILING)
    assert (visits.tolist(), int(trailing.sum()), int(trailing[0])) == ([0, 0], 7, 7)


@HOLDERS
def test_phases_have_books_of_their_own(arrays: bool) -> None:
    sums = books(arrays)
    sums.add(k.B_HITS, np.array([5, 0]))
    sums.turn_to("prefill")
    sums.add(k.B_HITS, np.array([1, 1]))
    assert sums.part(k.B_HITS).tolist() == [1, 1]
    sums.turn_to("decode")
    assert sums.part(k.B_HITS).tolist() == [5, 0]


@HOLDERS
def test_a_further_kind_of_copy_leaves_all_sums_as_they_are(arrays: bool) -> None:
    """Odd runs are [devices, kinds]: row by row, so that a further kind comes in between."""
    sums = books(arrays)
    sums.add(k.B_ODD_COPIES, np.array([9]))
    sums.add(k.B_ODD_RUNS, np.array([3, 4]))
    sums.add(k.B_TRAILING, np.array([7]))
    sums.turn_to("prefill")
    sums.add(k.B_ODD_RUNS, np.array([5, 6]))
    sums.for_kinds(3)
    assert sums.part(k.B_ODD_RUNS).tolist() == [5, 0, 0, 6, 0, 0]
    sums.turn_to("decode")
    assert sums.part(k.B_ODD_COPIES).tolist() == [9, 0, 0]
    assert sums.part(k.B_ODD_RUNS).tolist() == [3, 0, 0, 4, 0, 0]
    assert int(sums.part(k.B_TRAILING)[0]) == 7
    before = sums.all
    sums.for_kinds(3)
    assert sums.all is before


@HOLDERS
def test_the_fewest_and_the_most_tokens_of_a_device_are_those_of_both_phases(arrays: bool) -> None:
    sums = books(arrays)
    assert sums.met() == {}
    for phase, pairs in (("prefill", [4, 9, -1, -1]), ("decode", [2, 5, -1, -1])):
        sums.turn_to(phase)  # type: ignore[arg-type]
        sums.add(k.B_MET, np.array(pairs) + 1)
    assert sums.met() == {0: (2, 9)}
    sums.add(k.B_MET, np.array([0, 0, 1, 4]))
    assert sums.met() == {0: (2, 9), 1: (0, 3)}
