"""Passes and what lanes did in them, kept as columns of whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.results.rows import BusyRows, PassRow, PassRows

FIRST = PassRow(0, "prefill", 5, 20, 2, 7, 14, 10, 4)
SECOND = PassRow(1, "decode", 20, 26, 2, 2, 4, 3, 1)


def test_rows_come_back_as_they_were_added() -> None:
    rows = PassRows([FIRST])
    rows.append(SECOND)
    assert (len(rows), list(rows), rows[1], rows[-2]) == (2, [FIRST, SECOND], SECOND, FIRST)
    assert rows[:1] == [FIRST]
    assert rows[::-1] == [SECOND, FIRST]
    for place in (2, -3):
        with pytest.raises(IndexError):
            rows[place]


def test_columns_may_be_added_and_read_whole_or_in_part() -> None:
    rows = PassRows([FIRST])
    rows.extend(np.array([[1, 1, 20, 26, 2, 2, 4, 3, 1], [2, 0, 26, 40, 1, 9, 18, 0, 9]]))
    assert rows[1] == SECOND
    assert rows[2].phase == "prefill"
    assert rows.column("end").tolist() == [20, 26, 40]
    assert rows.column("phase").tolist() == [0, 1, 0]
    assert rows.columns(slice(1, 2))["tokens"].tolist() == [2]
    column = rows.column("hits")
    column[0] = 99
    assert rows[0].hits == 10, "a column is a copy"


def test_rows_are_equal_by_what_they_hold() -> None:
    assert PassRows([FIRST, SECOND]) == PassRows([FIRST, SECOND])
    assert PassRows([FIRST]) != PassRows([SECOND])
    assert PassRows([FIRST]) != [FIRST]
    assert repr(PassRows([FIRST])) == f"PassRows([{FIRST!r}])"


def test_a_lane_that_comes_later_was_idle_before_and_one_that_stops_has_nothing() -> None:
    busy = BusyRows()
    busy.append({"gpu": 4})
    busy.append({"gpu": 9, "up": 3})
    busy.append({"up": 5})
    assert [busy[place] for place in range(len(busy))] == [{"gpu": 4, "up": 0}, {"gpu": 9, "up": 3}, {"gpu": 0, "up": 5}]


def test_many_passes_at_once_are_as_many_one_by_one() -> None:
    together, apart = BusyRows(), BusyRows()
    for busy in (together, apart):
        busy.append({"gpu": 4})
    together.extend({"up": np.array([1, 2]), "gpu": np.array([6, 7])}, 2)
    together.extend({"gpu": np.array([9])}, 1)
    for row in ({"up": 1, "gpu": 6}, {"up": 2, "gpu": 7}, {"gpu": 9}):
        apart.append(row)
    assert [together[place] for place in range(4)] == [apart[place] for place in range(4)]
    assert len(together) == len(apart) == 4


def test_time_within_a_pass_is_what_was_added_in_it() -> None:
    """`gpu` has 4, 9 and 9 ps behind it after the passes, `up` 0, 3 and 8; `down` never worked."""
    busy = BusyRows()
    for row in ({"gpu": 4, "down": 0}, {"gpu": 9, "up": 3, "down": 0}, {"gpu": 9, "up": 8, "down": 0}):
        busy.append(row)
    assert busy.worked() == ["gpu", "up"]
    assert busy.within(["gpu", "up"], slice(0, 3)).tolist() == [[4, 0], [5, 3], [0, 5]]
    assert busy.within(["up"], slice(2, 3)).tolist() == [[5]]
    assert busy.within([], slice(0, 3)).shape == (3, 0)
