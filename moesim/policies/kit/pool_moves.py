"""The compiled moves of a pool: room for what `pool_moves_kernel` reads and writes, and its answers as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moesim import jit
from moesim.arrays import FloatArray, IntArray
from moesim.contract import View
from moesim.policies.kit.compiled import pool_moves_kernel as k

__all__ = ["Changes", "PoolMoves"]

_EACH, _COMPILING = 5e-8, 2.0
"""Seconds that numpy takes for an expert of the pool at a visit, and that compiling takes."""


class Changes(NamedTuple):
    """What a visit changes in a pool; experts of its layer [n], or places in [L, E] laid flat."""

    keep: IntArray
    """Uploaded experts of the layer that stay."""
    drop: IntArray
    """Copies that leave for them."""
    load: IntArray
    """Predicted experts that set out, best first."""
    out: IntArray
    """Copies that leave for those."""


class PoolMoves:
    """Calls of the kernel on arrays that stay where they are."""

    def __init__(self, uses: IntArray, last: IntArray, tie: FloatArray, by_use: FloatArray) -> None:
        """The books of the pool, [L, E], which the kernel keeps."""
        self._compiled: Any = jit.native(k)
        self._layers, self._experts = uses.shape
        self._size = size = uses.size
        self._last, self._books = last, (uses, tie, by_use)
        self._resident, self._in_flight, self._spared = (np.zeros(size, dtype=np.uint8) for _ in range(3))
        self._values, self._value = np.zeros(size), np.zeros(size)
        self._counts, self._uploaded, self._keep = (np.zeros(self._experts, dtype=np.int64) for _ in range(3))
        self._predicted, self._drop, self._load, self._out = (np.zeros(size, dtype=np.int64) for _ in range(4))
        self._idle, self._places = np.zeros(size + 1, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self._answer = np.zeros(4, dtype=np.int64)
        self._reads = False

    @classmethod
    def repaid(cls, shape: tuple[int, ...], visits: int) -> bool:
        """Whether compiling costs less than it saves, for a pool of `shape` [L, E] in a run of about so many `visits`."""
        return jit.repaid(k, visits * shape[0] * shape[1] * _EACH, _COMPILING)

    def read(self, resident: Any, in_flight: Any) -> None:
        """Looks at these flags [L * E] from now on, which are those of the views to come."""
        self._resident, self._in_flight, self._reads = resident, in_flight, True

    def used(self, layer: int, tick: int, counts: IntArray) -> None:
        """A visit of `layer` uses experts with `counts` [E] tokens, at a `tick` of the clock."""
        self._counts[:] = counts
        self._compiled.meet(layer, self._experts, tick, self._counts, self._last, *self._books)

    def likely(self, layer: int, number: int, shares: FloatArray, decay: FloatArray, view: View) -> tuple[IntArray, FloatArray]:
        """Places [n] of the best missing experts of later layers, best first, and their scores: `shares` [L, E] times `decay`
        [L, L, 1], of each layer seen from another."""
        self._look(view)
        there, number = (self._resident, self._in_flight), min(number, self._size)
        count = self._compiled.likely(
            layer, self._layers, self._experts, number, shares, decay, *there, self._values, self._places
        )
        return self._places[:count].copy(), -self._values[:count]

    def after_layer(
        self, layer: int, room: tuple[int, int], counts: IntArray, uploaded: IntArray, worth: FloatArray, view: View,
        predicted: tuple[IntArray, FloatArray | None] | None,
    ) -> Changes:  # fmt: skip
        """What `uploaded` [n] displaces, and what is `predicted`: places [n] with their value, if what they displace has to be
        worth less. `room`: slots of the pool, and copies that may be on their way."""
        self._look(view)
        self._counts[:] = counts
        self._uploaded[: len(uploaded)] = uploaded
        predictions = valued = 0
        if predicted is not None:
            predictions, valued = len(predicted[0]), int(predicted[1] is not None)
            self._predicted[:predictions] = predicted[0]
            if predicted[1] is not None:
                self._value[:predictions] = predicted[1]
        self._compiled.after_layer(
            layer, self._experts, self._size, *room, self._counts, self._uploaded, len(uploaded), worth, self._resident,
            self._in_flight, self._predicted, self._value, predictions, valued, *self._books, self._keep, self._drop,
            self._load, self._out, self._idle, self._spared, self._values, self._places, self._answer,
        )  # fmt: skip
        parts = zip((self._keep, self._drop, self._load, self._out), self._answer.tolist(), strict=True)
        return Changes(*(part[:count].copy() for part, count in parts))

    def _look(self, view: View) -> None:
        """Copies what may be read alone to where the kernel finds it, unless it looks at the same."""
        if self._reads:
            return
        self._resident[:] = view.resident.ravel()
        self._in_flight[:] = view.in_flight.ravel()
