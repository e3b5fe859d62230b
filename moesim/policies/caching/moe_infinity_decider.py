"""The decisions of a pool that fetches ahead, on arrays: what `Pool` says, where its moves are compiled.

Knows what a `Desk` shows; what is expected, and what an expert is worth, is for others to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from moesim import jit
from moesim.arrays import FloatArray, IntArray
from moesim.contract import Desk, View, Visit
from moesim.policies.kit.compiled import pool_moves_kernel as k
from moesim.policies.kit.compiled.order_kernel import scratch
from moesim.policies.kit.expert_pool import Pool
from moesim.policies.kit.pool_moves import Changes
from moesim.policies.kit.predictors_sequence import SequenceMind

__all__ = ["PoolDecider"]

_NOBODY: IntArray = np.zeros(0, dtype=np.int64)


class PoolDecider:
    """All that is missing is uploaded; behind it sets out what the sequence most alike used in later layers."""

    looks, beside = True, False

    def __init__(self, pool: Pool, mind: SequenceMind, worth: Callable[[int], FloatArray], desk: Desk, view: View) -> None:
        """`worth`: of a layer, [L, E] what each expert is worth after it."""
        assert pool.compiled is not None
        pool.compiled.read(desk.resident, desk.in_flight)
        self._functions: Any = jit.native(k)
        self._pool, self._mind, self._worth, self._desk, self._view = pool, mind, worth, desk, view
        self._experts = experts = len(desk.order)
        self._bins, self._values, self._places = scratch(experts)

    def begin(self, visits: Visit) -> None:
        """A pass begins."""
        self._phase = visits.phase
        self._rows = list(zip(visits.layer.tolist(), np.ascontiguousarray(visits.counts), strict=True))

    def dispatch(self, row: int) -> bool:
        """What sets out with a visit, behind its own uploads; what comes for layers in vain is called off."""
        (layer, counts), pool, mind, view, desk = self._rows[row], self._pool, self._mind, self._view, self._desk
        pool.used(layer, counts)
        mind.met(layer, self._phase, counts)
        self._functions.before(
            layer, self._experts, counts, desk.resident, desk.in_flight, desk.order, desk.evict, self._bins, self._values,
            self._places,
        )  # fmt: skip
        pool.look_ahead(view.now + mind.seconds, pool.likely(layer, mind.nearest_shares(), mind.decay, view))
        if pool.known(view):
            self._write(pool.changes(layer, counts, _NOBODY, view, mind.outlook(layer)))
        return True

    def adapt(self, row: int) -> bool:
        """What was uploaded stays, the least worth leaves; then predictions that have become known."""
        (layer, counts), uploaded = self._rows[row], np.flatnonzero(self._desk.uploaded)
        if len(uploaded) or self._pool.awaits:
            self._write(self._pool.changes(layer, counts, uploaded, self._view, self._worth(layer)))
        return True

    def _write(self, changes: Changes) -> None:
        keep, drop, load, out = changes
        for room, part in ((self._desk.keep, keep), (self._desk.evict, drop), (self._desk.evict, out), (self._desk.load, load)):
            if len(part):
                first = int(room[0]) + 1
                room[first : first + len(part)] = part
                room[0] += len(part)
