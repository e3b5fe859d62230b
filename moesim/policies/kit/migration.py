"""When a copy should change places: the test of MoE-CXL, for GPU memory and for host tiers.

Knows frequencies, times per use and room; knows no visit and no queue of a link.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray

__all__ = ["Terms", "exchanges", "highest", "pairs_of", "under_way"]


class Terms(NamedTuple):
    """What a move has to earn."""

    horizon: float
    """Periods over which a gain counts."""
    hysteresis: float
    """How much more than its cost a move must gain, as a share."""
    limit: int
    """Moves per period."""
    margin: float = 0.0
    """How much more than what leaves whoever takes its place must save, as a share: for averages whose noise nobody counts."""


def exchanges(
    frequency: FloatArray,
    saved: FloatArray,
    held: BoolArray,
    evictable: BoolArray,
    slots: int,
    terms: Terms,
    cost: FloatArray | None = None,
) -> tuple[IntArray, IntArray]:
    """Copies to load into GPU memory and copies to drop, as flat indices of equal or smaller number; all arrays flat [N].

    `held`: in GPU memory or on the way there; `evictable`: those of them that are there already.

    The hottest experts outside the best `slots` displace the coldest inside, pairwise, where
    (F_in t_in - (1 + margin) F_out t_out) * horizon > (1 + h) cost_in with t = `saved`, seconds per use that a copy in GPU
    memory saves; `cost` [N] are the seconds of the copy, by default what one use saves.
    """
    target = highest(frequency, slots)
    incoming, outgoing = np.flatnonzero(target & ~held), np.flatnonzero(evictable & ~target)
    incoming = incoming[np.argsort(-frequency[incoming], kind="stable")]
    outgoing = outgoing[np.argsort(frequency[outgoing], kind="stable")]
    free = max(slots - int(np.count_nonzero(held)), 0)
    incoming = incoming[: min(free + len(outgoing), terms.limit)]
    outgoing = outgoing[: max(len(incoming) - free, 0)]
    lost = np.zeros(len(incoming))
    lost[len(incoming) - len(outgoing) :] = (frequency * saved)[outgoing]
    factor = 1.0 + terms.hysteresis
    price = factor * (saved if cost is None else cost)[incoming]
    worth = ((frequency * saved)[incoming] - (1.0 + terms.margin) * lost) * terms.horizon > price
    return incoming[worth], outgoing[worth[len(incoming) - len(outgoing) :]]


def highest(values: FloatArray, number: int) -> BoolArray:
    """[N] which of `values` [N] are the `number` highest, of equal ones those in front: without putting them in order."""
    if number <= 0 or number >= len(values):
        return np.full(len(values), number > 0)
    border = np.partition(values, len(values) - number)[len(values) - number]
    high: BoolArray = values > border
    high[np.flatnonzero(values == border)[: number - int(np.count_nonzero(high))]] = True
    return high


def pairs_of(layer: int, experts: IntArray) -> IntArray:
    """[n, 2] (layer, expert)."""
    pairs = np.empty((len(experts), 2), dtype=np.int64)
    pairs[:, 0], pairs[:, 1] = layer, experts
    return pairs


def under_way(moving: IntArray, home: IntArray, heat: FloatArray) -> IntArray | None:
    """[n, 3] (layer, expert, tier) of the changes of home to ask for now: the hottest on each way from tier to tier, or None.

    `moving` [L, E]: tier an expert is to move to, -1 for none; what has arrived is struck out of it. A way takes one migration
    at a time, when it is idle; asking again for one that is under way changes nothing.
    """
    moving[moving == home] = -1
    due = np.argwhere(moving >= 0)
    if not len(due):
        return None
    layer, expert = due.T
    target = moving[layer, expert]
    hottest = np.argsort(-heat[layer, expert], kind="stable")
    way = (home[layer, expert] * (1 + int(target.max())) + target)[hottest]
    first = hottest[np.sort(np.unique(way, return_index=True)[1])]
    return np.column_stack([due[first], target[first]])
