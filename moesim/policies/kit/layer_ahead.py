"""Prefills that fetch the whole next layer while a layer runs, into room that is the cache's while tokens are decoded.

Knows a cache per layer and the books of GPU memory; who computes what is for policies to say.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import NO_MOVES, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerCache
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.predictors import Mind
from moesim.policies.kit.prefetch_buffers import Aim, Buffers, with_evicted

__all__ = ["LayerAhead"]


class LayerAhead:
    """Buffers of one run. `cache` begins with the capacities that leave them free, as every prefill does."""

    def __init__(self, problem: Problem, cache: LayerCache, slots: int, roomy: IntArray) -> None:
        self.buffers = Buffers(_Everything(problem.layers), cache, slots, Aim(), problem.popularity)
        self._cache = cache
        self._tight, self._roomy = cache.capacity, roomy.copy()
        """[L] experts that the cache holds beside the buffers, and with their room."""
        self._roomy[0] = self._tight[0]  # a prefill needs the buffers when its first layer runs, and can't evict from that

    def before(self, visit: Visit, view: View) -> Moves | None:
        """What sets out with a visit of a prefill: every missing expert of the next layer that finds a buffer."""
        if not self.buffers.slots:
            return None
        surplus = self._make_room(view) if visit.layer == 0 else np.zeros((0, 2), dtype=np.int64)
        moves = self.buffers.before(visit, view)
        return with_evicted(moves or NO_MOVES, surplus) if moves or len(surplus) else None

    def after(self, step: Step, view: View) -> Moves:
        """What a layer of a prefill leaves behind: what was fetched and used enters the cache as an upload does."""
        return self.buffers.after(step, view)

    def decoding(self, view: View) -> IntArray:
        """[n, 2] copies that a prefill still had on their way and that are not needed; when all have gone, the cache has their
        room."""
        dropped = self.buffers.dropped(view)
        if not self.buffers.late:
            self._cache.capacity = self._roomy
        return dropped

    def _make_room(self, view: View) -> IntArray:
        """[n, 2] cached experts, those that would leave first, that give the buffers their room back."""
        self._cache.capacity = self._tight
        self.buffers.late.update((layer, expert) for layer, expert in np.argwhere(view.in_flight).tolist())
        surplus = [np.zeros((0, 2), dtype=np.int64)]
        for layer in (np.flatnonzero(view.resident[1:].sum(axis=1) > self._tight[1:]) + 1).tolist():
            held = np.flatnonzero(view.resident[layer])
            first = np.argsort(self._cache.keys[layer, held], kind="stable")[: len(held) - int(self._tight[layer])]
            surplus.append(pairs_of(layer, held[first]))
        return np.concatenate(surplus)


class _Everything(Mind):
    """Expects every expert of every layer."""

    definite = True

    def __init__(self, layers: int) -> None:
        self._layers = layers

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        return np.ones(len(visit.counts)) if visit.layer + depth < self._layers else None
