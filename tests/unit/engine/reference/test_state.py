"""What the reference keeps of a lane's work: when it is due at changing speeds, what has landed, fair shares by hand."""

from __future__ import annotations

import pytest

from moesim.engine.programs.program import Operation
from moesim.engine.reference.state import Running, Stretch, max_min


def stretch(total: int, start: int = 0) -> Stretch:
    return Stretch(Running(0, Operation(0, total)), 0, 0, start, None, total=total, since=start)


class TestDue:
    def test_at_full_speed_behind_its_start(self) -> None:
        assert stretch(40, start=7).due() == 47

    def test_at_half_speed_what_is_left_takes_twice_as_long(self) -> None:
        """10 of 40 are served by 10; 30 at half speed take 60."""
        work = stretch(40)
        work.set_speed(0.5, 10)
        assert (work.due(), work.done, work.since) == (70, 10, 10)
        work.set_speed(0.25, 50)  # 20 more are served by 50; 10 at a quarter take 40
        assert (work.due(), work.done) == (90, 30)
        work.set_speed(1.0, 70)  # 5 more by 70; 5 are left
        assert work.due() == 75

    def test_times_are_rounded_up_to_whole_ps(self) -> None:
        work = stretch(10)
        work.set_speed(0.3, 0)
        assert work.due() == 34  # 33.3
        work.set_speed(1.0, 1)  # 0.3 are served, 9.7 are left
        assert work.due() == 11

    def test_the_same_speed_changes_nothing(self) -> None:
        work = stretch(40)
        work.set_speed(1.0, 13)
        assert (work.since, work.done, work.due()) == (0, 0.0, 40)


@pytest.mark.parametrize(
    ("landed", "ended", "ratio", "there"),
    [(0, 0, 1, False), (1, 0, 1, True), (1, 1, 1, False), (2, 0, 3, False), (3, 0, 3, True), (5, 1, 3, False), (6, 1, 3, True)],
)
def test_an_item_is_there_when_all_of_its_parts_have_landed(landed: int, ended: int, ratio: int, there: bool) -> None:
    feed = Running(0, Operation(0, 1, count=9), next=landed)
    assert Running(1, Operation(1, 1, count=3, ratio=ratio), feed=feed, next=ended).item_there() == there
    assert Running(1, Operation(1, 1, count=3, ratio=ratio), next=ended).item_there(), "nothing to wait for"


CAPACITY = {"a": 8.0, "b": 6.0}
"""Bytes per ps of two links."""


class TestFairShares:
    @pytest.mark.parametrize(
        ("draws", "speeds"),
        [
            ([], []),
            ([[]], [1.0]),  # draws from nothing
            ([[("a", 8.0)]], [1.0]),
            ([[("a", 16.0)]], [0.5]),
            ([[("a", 8.0)], [("a", 8.0)]], [0.5, 0.5]),
            ([[("a", 2.0)], [("a", 8.0)]], [1.0, 0.75]),  # the small one is served whole, the other has the rest, 6
            ([[("a", 6.0)], [("a", 6.0)], [("a", 1.0)]], [3.5 / 6, 3.5 / 6, 1.0]),
            # the first crosses both: b gives each 3, then a has 5 left for the third
            ([[("a", 6.0), ("b", 6.0)], [("b", 6.0)], [("a", 6.0)]], [0.5, 0.5, 5 / 6]),
            # the first draws half as much of b as of a: rates rise to 4 of a for both, b has room
            ([[("a", 8.0), ("b", 4.0)], [("a", 8.0)]], [0.5, 0.5]),
            ([[("a", 8.0)], [("b", 6.0)], []], [1.0, 1.0, 1.0]),
        ],
    )
    def test_all_rise_together_until_one_is_served_or_a_link_is_full(
        self, draws: list[list[tuple[str, float]]], speeds: list[float]
    ) -> None:
        assert max_min(draws, CAPACITY) == pytest.approx(speeds)
