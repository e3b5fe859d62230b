"""When the compiled walk stops for larger buffers, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.engine.kernel.compiled import moving
from moesim.engine.kernel.compiled.copy_layout import K_NODES, K_NUMBERS, K_OPERATIONS
from moesim.engine.kernel.compiled.layout import (
    ITEM_SIZE,
    ITEM_USED,
    LISTS_USED,
    NODE_SIZE,
    NODE_USED,
    OP_SIZE,
    OP_USED,
)

COPIES = 3
HALF_FULL = {OP_USED: 50, OP_SIZE: 100, NODE_USED: 50, NODE_SIZE: 100, ITEM_USED: 50, ITEM_SIZE: 100, LISTS_USED: 1}
NEEDED = {K_OPERATIONS: 10, K_NODES: 20, K_NUMBERS: 30}
"""Of the next visit."""


def roomy(sizes: dict[int, int]) -> bool:
    machine, walk = np.zeros(64, np.int64), np.zeros(64, np.int64)
    for place, number in (HALF_FULL | sizes).items():
        machine[place] = number
    for place, number in NEEDED.items():
        walk[place] = number
    return bool(moving.roomy(machine, walk, COPIES))


@pytest.mark.parametrize(("buffer", "least"), [(OP_SIZE, 50 + COPIES + 10), (NODE_SIZE, 50 + 20), (ITEM_SIZE, 50 + 30)])
def test_a_visit_and_its_copies_begin_where_each_buffer_holds_them_to_the_last_place(buffer: int, least: int) -> None:
    assert roomy({buffer: least})
    assert not roomy({buffer: least - 1})


def test_numbers_of_items_need_room_only_once_items_have_lists() -> None:
    """Until then a visit adds none, and the buffer may be empty."""
    assert roomy({LISTS_USED: 0, ITEM_USED: 0, ITEM_SIZE: 0})
    assert not roomy({LISTS_USED: 1, ITEM_USED: 0, ITEM_SIZE: 0})
