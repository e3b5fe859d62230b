"""A pool of experts of all layers whose victims follow from the past alone: by numpy, or compiled for many visits.

Knows uses and residence. Source of the rules: MoE-Infinity's code.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.policies.kit.compiled import pool_kernel as k
from moesim.policies.kit.expert_pool import Pool

__all__ = ["Past", "PastRule", "worth_of_past"]

Past = Literal["lfu", "lru", "lru_ds"]
_NUMBERS: dict[Past, int] = {"lfu": k.LFU, "lru": k.LRU, "lru_ds": k.LRU_DS}
_NEAR = 3
"""Layers whose experts `lru_ds` protects: the next three. Source: MoE-Infinity's code."""
_EACH, _COMPILING = 5e-8, 1.5
"""Seconds that numpy takes for a copy that might leave, and that compiling takes."""


def worth_of_past(pool: Pool, rule: Past, layer: int) -> FloatArray:
    """[L, E] what each expert is worth after `layer`; the copy that is worth least leaves."""
    if rule == "lfu":
        return pool.by_use()
    layers, last = len(pool.uses), pool.last.astype(np.float64)
    distance = (np.arange(layers) - layer - 1) % layers + 1
    return np.where((distance <= _NEAR)[:, None], np.inf, last) if rule == "lru_ds" else last


class PastRule:
    """A `PoolRule`: what is uploaded stays, the least worth of what the layer does not use leaves."""

    def __init__(self, pool: Pool, rule: Past, visits: int) -> None:
        """`visits`: about how many there will be."""
        self.pool, self.rule = pool, rule
        self._compiled = jit.native(k) if jit.repaid(k, visits * pool.uses.size * _EACH, _COMPILING) else None

    def walk(self, layers: IntArray, counts: IntArray, resident: BoolArray) -> tuple[BoolArray, IntArray]:
        """See `PoolRule.walk`."""
        if self._compiled is None:
            return self._walk(layers, counts, resident)
        pool, experts = self.pool, resident.shape[1]
        there, before, change = resident.astype(np.int64), np.empty(counts.shape, dtype=np.int64), np.empty_like(layers)
        room = np.empty(experts), np.empty(experts, dtype=np.int64)
        books = pool.uses, pool.last, pool.tie
        number = _NUMBERS[self.rule]
        self._compiled.walk(number, _NEAR, pool.slots, pool.clock, layers, counts, there, *books, before, change, *room)
        pool.clock += len(layers)
        resident[:] = there > 0
        return before > 0, change

    def _walk(self, layers: IntArray, counts: IntArray, resident: BoolArray) -> tuple[BoolArray, IntArray]:
        """The same visit by visit."""
        pool, before, change = self.pool, np.empty(counts.shape, dtype=np.bool_), np.zeros_like(layers)
        for visit, layer in enumerate(layers.tolist()):
            pool.used(layer, counts[visit])
            before[visit] = resident[layer]
            new = np.flatnonzero((counts[visit] > 0) & ~resident[layer])
            if len(new):
                room = pool.slots - int(np.count_nonzero(resident))
                worth = worth_of_past(pool, self.rule, layer)
                keep, drop = pool.exchanged(layer, counts[visit], new, room, resident, worth)
                resident.ravel()[drop] = False
                resident[layer, keep] = True
                change[visit] = len(keep) - len(drop)
        return before, change
