"""Caches of experts in GPU memory, one per layer, under one rule each for who leaves: the bookkeeping that `adapt` needs.

Knows one layer at a time; moves nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, BatchPlan, Deployment, Moves, Problem, Step
from moesim.policies.migration import pairs_of
from moesim.policies.placement import place, quota, ranks

__all__ = ["LayerCache", "LayerFifo", "LayerLfu", "LayerLifo", "LayerLru", "LayerRandom", "LayerScore", "deploy_cached"]

_TIE = 1 << 24
"""Room for a token count below one tick of the clock."""
_USE = 1 << 32
"""Room for the clock below one use."""


class LayerCache:
    """A capacity per layer, and a key per expert: the idle expert with the lowest key is the first to leave.

    All experts of a visit are used at once. A victim is never one that the running layer uses, so a layer that uses more
    experts than fit keeps the ones it had and fills what is left with the missing experts of the highest keys. A rule is a
    class that says in `touch` what a visit does to the keys.
    """

    def __init__(self, capacity: IntArray, layers: int, experts: int, dtype: Any = np.int64) -> None:
        self.capacity = capacity
        """[L] experts of each layer that stay in GPU memory."""
        self.keys: Any = np.zeros((layers, experts), dtype=dtype)
        """[L, E] who leaves first."""
        self.clock = 0
        """Visits so far."""

    def warm(self, scores: Any) -> None:
        """Orders experts that have not been used yet: `scores` [L, E], the lowest is the first to go."""
        self.keys = scores.astype(self.keys.dtype)
        self.clock = 1

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """Updates `keys` [E] of the layer of `step`, of which `used` [E] got tokens and `resident` [E] were there before."""
        raise NotImplementedError

    def after_layer(self, step: Step, resident: BoolArray, coming: int = 0) -> Moves:
        """Keeps and evictions after a visit; `resident` [E]: copies of that layer in GPU memory, `coming` are on their way."""
        self.clock += 1
        keys, used = self.keys[step.layer], step.counts > 0
        self.touch(keys, step, used, resident)
        if not len(step.uploaded):
            return NO_MOVES
        idle = np.flatnonzero(resident & ~used)
        free = int(self.capacity[step.layer]) - int(np.count_nonzero(resident)) - coming
        new = step.uploaded[used[step.uploaded]]
        if len(new) > free + len(idle):
            new = np.sort(new)  # ties go by expert id, whatever order the uploads had
            new = new[np.argsort(keys[new], kind="stable")[len(new) - max(free + len(idle), 0) :]]
        surplus = len(new) - free
        if surplus <= 0:
            return Moves(keep=new)
        victims = idle[np.argsort(keys[idle], kind="stable")[:surplus]]
        return Moves(keep=new, evict=pairs_of(step.layer, victims))


class LayerLru(LayerCache):
    """Least recently used; of the experts of one visit, the one with more tokens counts as used later (then the higher id)."""

    @property
    def last_use(self) -> IntArray:
        """[L, E] when each expert was last used: clock, then tokens."""
        keys: IntArray = self.keys
        return keys

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """The time of this visit for all that were used."""
        np.copyto(keys, step.counts + self.clock * _TIE, where=used)


class LayerLfu(LayerCache):
    """Least frequently used, counted in visits since the start of the run; ties: least recently used."""

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """One more use."""
        np.copyto(keys, (keys // _USE + 1) * _USE + self.clock, where=used)


class LayerFifo(LayerCache):
    """First in, first out: uses do not count; of the experts that come in together, the one with more tokens is later."""

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """The time of entry."""
        np.copyto(keys, step.counts + self.clock * _TIE, where=used & ~resident)


class LayerLifo(LayerCache):
    """Idle experts first, else the last one that came in, with a layer's experts run in the order of their ids.

    A layer whose missing experts outnumber the slots that are free or idle rotates the rest through one slot, so that the first
    of them and the very last one stay. Where no slot is free or idle, that slot is the one filled last.
    Source: Huang et al. 2023, arXiv:2303.06182. Inferred: idle experts leave last in, first out too.
    """

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """Minus the time of entry; of the experts that come in together, the higher id is later."""
        np.copyto(keys, -(self.clock * _TIE + np.arange(len(keys))), where=used & ~resident)

    def after_layer(self, step: Step, resident: BoolArray, coming: int = 0) -> Moves:
        """As `LayerCache.after_layer`, but an overflowing layer gives up the slot that was filled last."""
        self.clock += 1
        keys, used = self.keys[step.layer], step.counts > 0
        self.touch(keys, step, used, resident)
        new = np.sort(step.uploaded[used[step.uploaded]])
        held = np.flatnonzero(resident)
        if not len(new) or self.capacity[step.layer] < 1:
            return NO_MOVES
        idle = held[~used[held]]
        room = int(self.capacity[step.layer]) - len(held) - coming + len(idle)
        if len(new) > room:
            if room < 1:
                idle = held[np.argsort(keys[held], kind="stable")[:1]]
                room = min(len(idle), 1)
            new = np.concatenate((new[: max(room - 1, 0)], new[len(new) - min(room, 1) :]))
        surplus = len(new) - (room - len(idle))
        victims = idle[np.argsort(keys[idle], kind="stable")[: max(surplus, 0)]]
        return Moves(keep=new, evict=pairs_of(step.layer, victims))


class LayerRandom(LayerCache):
    """A victim drawn at random among the idle."""

    def __init__(self, capacity: IntArray, layers: int, experts: int, rng: np.random.Generator) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._rng = rng

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """Draws afresh where somebody may have to leave."""
        if len(step.uploaded):
            keys[:] = self._rng.random(len(keys))


class LayerScore(LayerCache):
    """The lowest moving score leaves: S <- a s + (1 - a) S, with s an expert's share of the layer's tokens if it is among the
    `top` highest, else 0.

    Source: HybriMoE 2025, arXiv:2504.05897 (minus recent score). Inferred: shares of tokens stand for gate scores, which
    routing tables do not hold.
    """

    def __init__(self, capacity: IntArray, layers: int, experts: int, alpha: float = 0.5, top: int = 0) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._alpha, self._top = alpha, top

    def touch(self, keys: Any, step: Step, used: BoolArray, resident: BoolArray) -> None:
        """One step of the average."""
        share = step.counts * (self._alpha / float(step.counts.sum()))
        if 0 < self._top < len(share):
            share[np.argsort(-share, kind="stable")[self._top :]] = 0.0
        keys *= 1.0 - self._alpha
        keys += share


def deploy_cached(
    problem: Problem,
    cut: BatchPlan,
    limit: int | None,
    make: Callable[[IntArray], LayerCache],
    *,
    scores: FloatArray | None = None,
    empty: bool = False,
    deployment: Deployment | None = None,
    reserve: float = 0.0,
) -> Deployment:
    """A deployment with one cache per layer of at most `limit` experts, filled by `scores` [L, E] (default: the profile).

    `make` builds the cache from its capacities [L]; `empty` starts with nothing in it. `deployment` (default: homes by the
    profile) is one without residents. `reserve` bytes of GPU memory stay free.
    """
    first = problem.popularity if scores is None else scores
    # masters by popularity whatever is cached at first: cached experts are evicted, and read again, like others
    deployment = deployment or place(problem, cut=cut, movable=True)
    full = quota(first, limit)(problem.gpu_free(cut) - reserve, deployment.expert_bytes)
    cache = make(full.sum(axis=1))
    cache.warm(first if cache.keys.dtype.kind == "f" else problem.experts - ranks(first))
    return replace(deployment, resident=full & (not empty), state=cache)
