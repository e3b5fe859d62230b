"""The compiled decisions of policies that prefetch into buffers: room for what `buffers_kernel` reads and writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim import jit
from moesim.arrays import IntArray
from moesim.contract import Desk, Visit
from moesim.policies.kit.cache import LayerCache, LayerFifo, LayerLfu, LayerLru
from moesim.policies.kit.compiled import buffers_kernel as k
from moesim.policies.kit.compiled.order_kernel import scratch
from moesim.policies.kit.prefetch_buffers import Buffers

__all__ = ["BuffersDecider"]

_EACH, _COMPILING = 2e-4, 2.0
"""Seconds that numpy takes for a visit, and that compiling takes."""
_RULES: dict[type[LayerCache], int] = {LayerLru: k.LRU, LayerLfu: k.LFU, LayerFifo: k.FIFO}


class BuffersDecider:
    """Decides as `Buffers` does, to the bit, for predictors that answer without delay."""

    looks = beside = False

    def __init__(self, buffers: Buffers, desk: Desk) -> None:
        layers, experts = buffers.borrowed.shape
        self._functions: Any = jit.native(k)
        self._buffers, self._desk, self._rule = buffers, desk, _RULES[type(buffers.cache)]
        self._shape, self._clock = (layers, experts), buffers.cache.clock
        self._keys: IntArray = np.array(buffers.cache.keys, dtype=np.int64).ravel()
        self._capacity = np.array(buffers.cache.capacity, dtype=np.int64)
        self._ranked = np.array(buffers.order, dtype=np.int64).ravel()
        self._borrowed, self._late = (np.zeros(layers * experts, dtype=np.uint8) for _ in range(2))
        self._comers, self._sums = np.zeros(1 + 2 * layers * experts, dtype=np.int64), np.zeros(2, dtype=np.int64)
        self._stays = np.zeros(experts, dtype=np.uint8)
        self._bins, self._values, self._places = scratch(experts)

    @classmethod
    def of(cls, buffers: Buffers, desk: Desk, visits: int) -> BuffersDecider | None:
        """For a run of about so many `visits`; None where compiling is not repaid, or for other predictors and caches."""
        seen = buffers.mind.sees and not buffers.mind.seconds and type(buffers.cache) in _RULES
        return cls(buffers, desk) if seen and jit.repaid(k, visits * _EACH, _COMPILING) else None

    def begin(self, visits: Visit) -> None:
        """A pass begins: what is seen of it is drawn at once."""
        aim, slots = self._buffers.aim, self._buffers.slots
        self._counts, layers = np.ascontiguousarray(visits.counts).reshape(-1), visits.layer
        number, useful = len(layers), slots > 0 and (aim.prompts or visits.phase == "decode")
        predicts = np.full(number, useful) & ((visits.tokens == 1) | (not aim.lone))
        self._rows = list(zip(layers.tolist(), predicts.tolist(), strict=True))
        seen = [visits.ahead(depth) for depth in range(aim.first, aim.depth + 1)] if predicts.any() else []
        self._seen = np.concatenate([np.zeros(0, dtype=np.int64), *(part.ravel() for part in seen if part is not None)])

    def dispatch(self, row: int) -> bool:
        """What sets out with a visit, behind its own uploads."""
        (layer, predicts), (layers, experts), desk = self._rows[row], self._shape, self._desk
        aim, slots = self._buffers.aim, self._buffers.slots
        self._functions.before(
            layer, row, experts, slots, -1 if aim.most is None else aim.most, predicts, aim.first, aim.depth, layers,
            len(self._rows), self._counts, self._seen, self._ranked, desk.resident, desk.in_flight, self._borrowed, self._late,
            self._comers, self._sums, desk.order, desk.evict, desk.load, self._bins, self._values, self._places,
        )  # fmt: skip
        return True

    def adapt(self, row: int) -> bool:
        """What a layer that has run leaves behind."""
        self._clock += 1
        desk = self._desk
        self._functions.after(
            self._rows[row][0], row, self._shape[1], self._rule, self._clock, self._counts, desk.uploaded, desk.resident,
            desk.in_flight, self._borrowed, self._late, self._comers, self._sums, self._keys, self._capacity, desk.evict,
            desk.keep, self._stays, self._values, self._places,
        )  # fmt: skip
        return True
