"""The table of copies under way: how it grows."""

from __future__ import annotations

import numpy as np

from moesim.engine.copies import Copies
from moesim.engine.kernel import kernel as k


def test_the_table_doubles_when_rows_find_no_room() -> None:
    copies, rooms = Copies.__new__(Copies), list[int]()
    copies.make_room = rooms.append  # type: ignore[method-assign]
    copies.K = np.zeros(k.K_HEADER, dtype=np.int64)
    copies.K[[k.K_COUNT, k.K_WIDTH]] = 9, 10
    copies.reserve(1)
    assert rooms == []
    copies.reserve(3)
    assert rooms == [24]
