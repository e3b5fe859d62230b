"""What the kernel notes of a visit, in books that a test lays out: called as plain Python on lists."""

from __future__ import annotations

import pytest

from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.compiled.operations import plus, times
from moesim.engine.kernel.compiled.visit_work import note_met


@pytest.mark.parametrize("begin", [20, 21, 22, 23])
def test_a_device_s_fewest_and_most_tokens_stand_at_its_place_wherever_the_books_begin(begin: int) -> None:
    books = [-1] * 40
    books[k.B_MET] = begin
    for device, tokens in ((1, 5), (1, 3), (2, 7), (1, 4), (0, 9)):
        note_met(books, device, tokens)
    assert books[begin : begin + 8] == [9, 9, 3, 5, 7, 7, -1, -1]
    assert books[:begin].count(-1) == begin - 1, "nothing else has changed"


def test_times_that_the_clock_does_not_hold_stop_at_its_end() -> None:
    assert (plus(3, 4), times(3, 4), times(0, 4)) == (7, 12, 0)
    assert plus(k.MOST - 3, 3) == k.MOST
    assert plus(k.MOST - 3, 9) == plus(k.MOST, k.MOST) == k.MOST
    assert times(k.MOST // 2, 2) == k.MOST - 1
    assert times(k.MOST // 2 + 1, 2) == times(k.MOST, 3) == k.MOST
