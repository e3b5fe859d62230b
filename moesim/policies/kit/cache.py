"""Caches of experts in GPU memory, one per layer, under one rule each for who leaves: the bookkeeping that `adapt` needs.

Knows one layer at a time; moves nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, BatchPlan, Deployment, Moves, Problem, Step, Uses
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import place, quota, ranks

__all__ = [
    "LayerCache",
    "LayerFifo",
    "LayerLfu",
    "LayerLifo",
    "LayerLru",
    "LayerRandom",
    "LayerScore",
    "deploy_cached",
    "emptied",
]

_TIE = 1 << 24
"""Room for a token count below one tick of the clock."""
_USE = 1 << 32
"""Room for the clock below one use."""


class LayerCache:
    """A capacity per layer, and a key per expert: the idle expert with the lowest key is the first to leave.

    All experts of a visit are used at once. A victim is never one that the running layer uses, so a layer that uses more
    experts than fit keeps the ones it had and fills what is left with the missing experts of the highest keys. A rule is a
    class that says in `touch` what visits do to the keys. Layers know nothing of each other, so visits of different layers
    may be handed over together.
    """

    ordered = False

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

    def touch(self, keys: Any, uses: Uses) -> None:
        """Updates `keys` [n, E] of the layers of `uses`."""
        raise NotImplementedError

    def after(self, uses: Uses) -> tuple[BoolArray, BoolArray]:
        """([n, E] uploaded experts that stay, [n, E] residents that leave) after visits of n different layers."""
        keys = self.keys[uses.layers]
        self.touch(keys, uses)
        self.keys[uses.layers] = keys
        return self.exchange(keys, uses)

    def exchange(self, keys: Any, uses: Uses) -> tuple[BoolArray, BoolArray]:
        """As `after`, with the keys [n, E] as they are now."""
        if len(keys) == 1 and (changes := _of_one_layer(int(self.capacity[uses.layers[0]]), keys[0], uses)) is not None:
            return changes
        used = uses.counts > 0
        idle = uses.resident & ~used
        free = self.capacity[uses.layers] - np.count_nonzero(uses.resident, axis=1) - uses.coming
        room = np.maximum(free + np.count_nonzero(idle, axis=1), 0)
        # ties go by expert id, whatever order the uploads had
        stay = _last(keys, uses.uploaded & used, room)
        surplus = np.where(uses.uploaded.any(axis=1), np.count_nonzero(stay, axis=1) - free, 0)
        return stay, _first(keys, idle, surplus)

    def after_layer(self, step: Step, resident: BoolArray, coming: int = 0) -> Moves:
        """The moves after one visit; `resident` [E]: copies of its layer in GPU memory, `coming` are on their way."""
        uploaded = np.zeros(len(resident), dtype=np.bool_)
        uploaded[step.uploaded] = True
        stay, leave = self.after_visit(step, uploaded, resident, coming)
        if not stay.any() and not leave.any():
            return NO_MOVES
        victims = np.flatnonzero(leave)
        evict = pairs_of(step.layer, victims) if len(victims) else None
        return Moves(keep=np.flatnonzero(stay), evict=evict)

    def after_visit(self, step: Step, uploaded: BoolArray, resident: BoolArray, coming: int = 0) -> tuple[BoolArray, BoolArray]:
        """([E] copies that stay, [E] residents that leave) after one visit that `uploaded` [E] experts; see `after_layer`."""
        self.clock += 1
        place = np.array([step.layer]), np.array([self.clock])
        stay, leave = self.after(Uses(*place, step.counts[None], uploaded[None], resident[None], coming))
        return stay[0], leave[0]


def _of_one_layer(capacity: int, keys: Any, uses: Uses) -> tuple[BoolArray, BoolArray] | None:
    """`exchange` of a single visit, sooner than that of many; None where more would have to leave than are idle."""
    used, resident = uses.counts[0] > 0, uses.resident[0]
    new, idle = np.flatnonzero(uses.uploaded[0] & used), np.flatnonzero(resident & ~used)
    free = capacity - int(np.count_nonzero(resident)) - uses.coming
    number = min(len(new), max(free + len(idle), 0))
    surplus = number - free if uses.uploaded[0].any() else 0
    if surplus > len(idle):
        return None
    stay, leave = np.zeros((1, len(keys)), dtype=np.bool_), np.zeros((1, len(keys)), dtype=np.bool_)
    # ties go by expert id, whatever order the uploads had
    stay[0, new if number == len(new) else new[keys[new].argsort(kind="stable")[len(new) - number :]]] = True
    if surplus > 0:
        leave[0, idle if surplus == len(idle) else idle[keys[idle].argsort(kind="stable")[:surplus]]] = True
    return stay, leave


def _last(keys: Any, among: BoolArray, number: IntArray) -> BoolArray:
    """[n, E] the `number` [n] experts `among` [n, E] with the highest keys; of equal ones, the higher id."""
    chosen = among.copy()
    crowded = np.flatnonzero(np.count_nonzero(among, axis=1) > number)
    if len(crowded):
        # the highest are all but the lowest
        rest = keys.shape[1] - number[crowded]
        chosen[crowded] = ~_least(np.where(among[crowded], keys[crowded], _lowest(keys)), rest)
    return chosen


def _first(keys: Any, among: BoolArray, number: IntArray) -> BoolArray:
    """[n, E] the `number` [n] experts `among` [n, E] with the lowest keys; of equal ones, the lower id."""
    chosen = np.zeros(keys.shape, dtype=np.bool_)
    full_rows = np.flatnonzero(number > 0)
    if len(full_rows):
        values = np.where(among[full_rows], keys[full_rows], _highest(keys))
        chosen[full_rows] = _least(values, number[full_rows])
    return chosen


def _least(values: Any, number: IntArray) -> BoolArray:
    """[n, E] the `number` [n] lowest `values` [n, E] of each row, at least one; of equal ones, those of lower id."""
    edge = np.take_along_axis(np.sort(values, axis=1), number[:, None] - 1, axis=1)
    below, level = values < edge, values == edge
    short = number - np.count_nonzero(below, axis=1)
    if (np.count_nonzero(level, axis=1) > short).any():
        level &= np.cumsum(level, axis=1) <= short[:, None]
    return np.asarray(below | level)


def _lowest(keys: Any) -> Any:
    return -np.inf if keys.dtype.kind == "f" else np.iinfo(keys.dtype).min


def _highest(keys: Any) -> Any:
    return np.inf if keys.dtype.kind == "f" else np.iinfo(keys.dtype).max


class LayerLru(LayerCache):
    """Least recently used; of the experts of one visit, the one with more tokens counts as used later (then the higher id)."""

    @property
    def last_use(self) -> IntArray:
        """[L, E] when each expert was last used: clock, then tokens."""
        keys: IntArray = self.keys
        return keys

    def touch(self, keys: Any, uses: Uses) -> None:
        """The time of this visit for all that were used."""
        np.copyto(keys, uses.counts + uses.clock[:, None] * _TIE, where=uses.counts > 0)


class LayerLfu(LayerCache):
    """Least frequently used, counted in visits since the start of the run; ties: least recently used."""

    def touch(self, keys: Any, uses: Uses) -> None:
        """One more use."""
        np.copyto(keys, (keys // _USE + 1) * _USE + uses.clock[:, None], where=uses.counts > 0)


class LayerFifo(LayerCache):
    """First in, first out: uses do not count; of the experts that come in together, the one with more tokens is later."""

    def touch(self, keys: Any, uses: Uses) -> None:
        """The time of entry."""
        new = (uses.counts > 0) & ~uses.resident
        np.copyto(keys, uses.counts + uses.clock[:, None] * _TIE, where=new)


class LayerLifo(LayerCache):
    """Idle experts first, else the last one that came in, with a layer's experts run in the order of their ids.

    A layer whose missing experts outnumber the slots that are free or idle rotates the rest through one slot, so that the first
    of them and the very last one stay. Where no slot is free or idle, that slot is the one filled last.
    Source: Huang et al. 2023, arXiv:2303.06182. Inferred: idle experts leave last in, first out too.
    """

    def touch(self, keys: Any, uses: Uses) -> None:
        """Minus the time of entry; of the experts that come in together, the higher id is later."""
        new = (uses.counts > 0) & ~uses.resident
        np.copyto(keys, -(uses.clock[:, None] * _TIE + np.arange(keys.shape[1])), where=new)

    def exchange(self, keys: Any, uses: Uses) -> tuple[BoolArray, BoolArray]:
        """As `LayerCache.exchange`, but an overflowing layer gives up the slot that was filled last."""
        stay, leave = np.zeros(keys.shape, dtype=np.bool_), np.zeros(keys.shape, dtype=np.bool_)
        for row, layer in enumerate(uses.layers.tolist()):
            used, resident = uses.counts[row] > 0, np.flatnonzero(uses.resident[row])
            new = np.flatnonzero(uses.uploaded[row] & used)
            if len(new) and self.capacity[layer] >= 1:
                idle = resident[~used[resident]]
                room = int(self.capacity[layer]) - len(resident) - uses.coming + len(idle)
                entered, victims = self._rotate(keys[row], new, idle, resident, room)
                stay[row, entered], leave[row, victims] = True, True
        return stay, leave

    def _rotate(
        self, keys: IntArray, new: IntArray, idle: IntArray, resident: IntArray, room: int
    ) -> tuple[IntArray, IntArray]:
        """(who of `new` stays, who of `idle` or `resident` leaves), with `room` for copies, slots of the idle included."""
        if len(new) > room:
            if room < 1:
                idle = resident[np.argsort(keys[resident], kind="stable")[:1]]
                room = min(len(idle), 1)
            new = np.concatenate((new[: max(room - 1, 0)], new[len(new) - min(room, 1) :]))
        surplus = len(new) - (room - len(idle))
        return new, idle[np.argsort(keys[idle], kind="stable")[: max(surplus, 0)]]


class LayerRandom(LayerCache):
    """A victim drawn at random among the idle."""

    ordered = True

    def __init__(self, capacity: IntArray, layers: int, experts: int, rng: np.random.Generator) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._rng = rng

    def touch(self, keys: Any, uses: Uses) -> None:
        """Draws afresh where an expert may have to leave."""
        for row in np.flatnonzero(uses.uploaded.any(axis=1)):
            keys[row] = self._rng.random(keys.shape[1])


class LayerScore(LayerCache):
    """The lowest moving score leaves: S <- a s + (1 - a) S, with s an expert's share of the layer's tokens if it is among the
    `top` highest, else 0.

    Source: HybriMoE 2025, arXiv:2504.05897 (minus recent score). Inferred: shares of tokens stand for gate scores, which
    routing tables do not hold.
    """

    def __init__(self, capacity: IntArray, layers: int, experts: int, alpha: float = 0.5, top: int = 0) -> None:
        super().__init__(capacity, layers, experts, np.float64)
        self._alpha, self._top = alpha, top

    def touch(self, keys: Any, uses: Uses) -> None:
        """One step of the average."""
        share = uses.counts * (self._alpha / uses.counts.sum(axis=1, keepdims=True, dtype=np.float64))
        if 0 < self._top < share.shape[1]:
            lower = np.argsort(-share, axis=1, kind="stable")[:, self._top :]
            np.put_along_axis(share, lower, 0.0, axis=1)
        keys *= 1.0 - self._alpha
        keys += share


def deploy_cached(
    problem: Problem,
    cut: BatchPlan,
    limit: int | None,
    make: Callable[[IntArray], LayerCache],
    *,
    scores: FloatArray | None = None,
    deployment: Deployment | None = None,
    reserve: float = 0.0,
) -> Deployment:
    """A deployment with one cache per layer of at most `limit` experts, filled by `scores` [L, E] (default: the profile).

    `make` builds the cache from its capacities [L]; `emptied` takes out what it begins with. `deployment` (default: homes by
    the profile) is one without residents. `reserve` bytes of GPU memory stay free.
    """
    first = problem.popularity if scores is None else scores
    # masters by popularity whatever is cached at first: cached experts are evicted, and read again, like others
    deployment = deployment or place(problem, cut=cut, movable=True)
    full = quota(first, limit)(problem.gpu_free(cut) - reserve, deployment.expert_bytes)
    cache = make(full.sum(axis=1))
    cache.warm(first if cache.keys.dtype.kind == "f" else problem.experts - ranks(first))
    return replace(deployment, resident=full, state=cache)


def emptied(deployment: Deployment) -> Deployment:
    """The same with nothing in GPU memory yet."""
    return replace(deployment, resident=np.zeros_like(deployment.resident))
