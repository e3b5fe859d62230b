"""The table of copies under way: how it grows."""

from __future__ import annotations

from moesim.engine.copies import Copies


def test_the_table_doubles_when_rows_find_no_room() -> None:
    copies, rooms = Copies.__new__(Copies), list[int]()
    copies._make_room = rooms.append  # type: ignore[method-assign]
    copies._count, copies._width = 9, 10
    copies._reserve(1)
    assert rooms == []
    copies._reserve(3)
    assert rooms == [24]
