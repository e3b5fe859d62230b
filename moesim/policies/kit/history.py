"""Prediction of experts from history: which experts of a later layer follow the ones just used.

Knows token counts per layer, learnt online; moves nothing itself. Tables are summed row by row: a product of a matrix adds in
an order that depends on the processor and its library, and with it the last bits and now and then a decision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim import jit
from moesim.arrays import FloatArray, IntArray
from moesim.policies.kit.compiled import rows_kernel as k
from moesim.portable import one_or_more

__all__ = ["CoOccurrence", "Rows", "hashed"]

_PER_CELL, _COMPILING = 1e-9, 0.7
"""Seconds that numpy takes for a number of a row, and that compiling takes."""


class Rows:
    """T tables of N rows of W numbers (float32), of which sums are asked for about so many `times`."""

    def __init__(self, values: NDArray[Any], times: int = 0, *, uniform: bool = False) -> None:
        """`values` [T, N, W] are the numbers to begin with; they are this object's from now on.

        `uniform`: the rows of each table are equal; until something is added to a table, its first row is all that is read.
        """
        self.values: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
        self._flat = self.values.reshape(-1)
        tables, rows, width = self.values.shape
        self.uniform = [uniform] * tables
        """[T] whether the rows of a table are equal still."""
        compiled = jit.repaid(k, times * rows * width * _PER_CELL, _COMPILING)
        self._functions: Any = jit.native(k) if compiled else None
        self._weights, self._row, self._sums = (np.zeros(size, dtype=np.float32) for size in (rows, width, width))

    def weighted(self, table: int, weights: NDArray[Any], size: int | None = None) -> NDArray[np.float32]:
        """[`size`] sum of the beginnings of all rows of a table (whole rows by default), each by its weight [N]."""
        _, rows, width = self.values.shape
        size = width if size is None else size
        self._weights[:] = weights
        if self._functions is None:
            used = np.flatnonzero(self._weights)
            if size == 1:  # which numpy would add in pairs
                return np.array([sum(self.values[table, used, 0] * self._weights[used], np.float32(0.0))])
            return np.asarray(np.add.reduce(self.values[table, used, :size] * self._weights[used, None], axis=0))
        apart = 0 if self.uniform[table] else width
        self._functions.weighted(rows, apart, size, table * rows * width, self._weights, self._flat, self._sums)
        return self._sums[:size].copy()

    def add(self, table: int, weights: NDArray[Any], row: NDArray[Any]) -> None:
        """Adds `row` [W] to each row of a table by its weight [N]."""
        _, rows, width = self.values.shape
        self._weights[:], self._row[:], self.uniform[table] = weights, row, False
        if self._functions is None:
            used = np.flatnonzero(self._weights)
            self.values[table, used] += self._weights[used, None] * self._row
        else:
            self._functions.added(rows, width, table * rows * width, self._weights, self._row, self._flat)


class CoOccurrence:
    """First-order table P(expert e' in layer l + distance | expert e in layer l), started from the profile.

    Source: first-order co-occurrence predicts 35 % (DeepSeek-V2-Lite) to 56 % (gpt-oss) of the next layer's experts. Valid:
    learnt from counts per visit, so that a lone token teaches most; a visit in which most experts have tokens says nothing
    about pairs and teaches nothing.
    """

    def __init__(self, popularity: FloatArray, top_k: int, distance: int = 1, prior: float = 1.0, *, visits: int = 0) -> None:
        """`visits`: about how many it will be asked about."""
        layers, experts = popularity.shape
        self.distance = distance
        self._top_k = top_k
        later = popularity[distance:].astype(np.float32) * top_k
        table = np.repeat((prior * later)[:, None, :], experts, axis=1)  # [L - distance, E, E]
        self._table = Rows(table, visits, uniform=True)
        self._seen = np.full((max(layers - distance, 0), experts), prior)

    def learn(self, layer: int, before: IntArray, after: IntArray) -> None:
        """`before` [E] counts of `layer` and `after` [E] of layer + distance, of the same tokens."""
        if 2 * np.count_nonzero(before) > len(before):
            return
        share = before * (self._top_k / float(before.sum()))
        self._seen[layer] += share
        self._table.add(layer, share, after * (self._top_k / float(after.sum())))

    def expected(self, layer: int, counts: IntArray) -> FloatArray:
        """[E] expected tokens per expert in layer + distance after `counts` [E] in `layer`; the sum is kept."""
        return self._table.weighted(layer, counts / (self._seen[layer] * self._top_k)).astype(np.float64)

    def chance(self, layer: int, counts: IntArray) -> FloatArray:
        """[E] probability that an expert gets any token there, taking tokens as independent."""
        return one_or_more(self.expected(layer, counts))

    def follower(self, layer: int, expert: int) -> int:
        """The expert of layer + distance that has followed an expert of `layer` most often."""
        return int(self._table.values[layer, expert].argmax())

    def start(self, pairs: IntArray) -> None:
        """Begins from `pairs` [L - distance, E, E]: tokens that used an expert and then another one, counted beforehand."""
        self._table.values += pairs.astype(np.float32)
        self._table.uniform = [False] * len(pairs)
        self._seen += pairs.sum(axis=2) / self._top_k

    def fade(self, share: float) -> None:
        """Forgets a `share` of everything learnt."""
        self._table.values *= np.float32(1.0 - share)
        self._seen *= 1.0 - share


def hashed(layers: int, experts: int) -> FloatArray:
    """[L, E] a number in [0, 1) from (layer, expert) alone: the same in every run, without pattern (SplitMix64)."""
    z = np.arange(1, layers * experts + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64).reshape(layers, experts) / 2.0**53
