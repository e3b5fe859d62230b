"""Prefetch into buffers beside caches of one layer each: what is asked for, when it leaves, and what becomes of it.

Knows a predictor, a cache and the books of GPU memory; who computes what is for policies to say.

A prefetched copy takes a buffer until its layer has run. If it was used it enters the cache of its layer, as an uploaded one
would; if not it is dropped, and the cache never knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerCache
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy
from moesim.policies.kit.predictors import Mind, best

__all__ = ["Aim", "BufferedPolicy", "Buffers", "buffer_slots", "with_evicted"]

_MODEST = 8
"""Modest buffers take at most one of so many expert slots, unless that is less than one."""
_NONE: IntArray = np.zeros((0, 2), dtype=np.int64)
_NOBODY: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Aim:
    """Which layers are predicted from a visit, and how many copies leave."""

    first: int = 1
    """The nearest layer predicted, in layers ahead."""
    depth: int = 1
    """The farthest."""
    most: int | None = None
    """Copies per visit; as many as there are buffers if None."""
    prompts: bool = True
    """Whether passes over prompts prefetch too."""
    lone: bool = False
    """Whether only visits of a single token prefetch."""


def with_evicted(moves: Moves, pairs: IntArray) -> Moves:
    """The same moves, and `pairs` [n, 2] are evicted too."""
    if not len(pairs):
        return moves
    return moves._replace(evict=pairs if moves.evict is None else np.concatenate([moves.evict, pairs]))


def buffer_slots(problem: Problem, cut: BatchPlan, requested: int, *, modest: bool = False) -> int:
    """Experts that buffers may hold: `requested` if they fit, 0 if all experts do; `modest`: an eighth of the room at most."""
    slots = int(max(problem.gpu_free(cut), 0.0) // problem.model.expert_bytes)
    if slots >= problem.layers * problem.experts:
        return 0
    return min(requested, max(slots // _MODEST, 1) if modest else slots, slots)


@dataclass
class Buffers:
    """Buffers of one run. [L, E] arrays are True for copies that are neither the cache's nor in staging."""

    mind: Mind
    cache: LayerCache
    slots: int
    aim: Aim
    tie: FloatArray
    """[L, E] order of experts with equal scores."""
    borrowed: BoolArray = field(init=False)
    """[L, E] copies in buffers, or on their way there, whose layer is still to come."""
    late: set[tuple[int, int]] = field(default_factory=set)
    """Copies of layers that have run, on their way although they are not needed any more."""
    _waiting: list[tuple[float, IntArray]] = field(default_factory=list)
    """(time at which it is known, places in [L, E] laid flat) of predictions that the host still computes."""

    def __post_init__(self) -> None:
        self.borrowed = np.zeros(self.tie.shape, dtype=np.bool_)
        self.order: IntArray = np.argsort(-self.tie, axis=1, kind="stable")
        """[L, E] experts with equal scores, who comes first."""

    def before(self, visit: Visit, view: View) -> Moves | None:
        """What sets out with a visit, behind its own uploads; what was expected of this layer in vain is called off."""
        self.mind.meet(visit)
        layer = visit.layer
        if layer == 0:
            self._waiting = []
        for expert in np.flatnonzero(visit.counts).tolist() if self.late else ():
            self._wanted_again((layer, expert))
        vain = np.flatnonzero(self.borrowed[layer] & view.in_flight[layer] & (visit.counts == 0))
        if self.slots and (self.aim.prompts or visit.phase == "decode") and (visit.tokens == 1 or not self.aim.lone):
            self._waiting.append((view.now + self.mind.seconds, self._foreseen(visit)))
        evict, dropped = pairs_of(layer, vain), self.dropped(view)
        evict = np.concatenate([evict, dropped]) if len(dropped) else evict
        load = self._leave(view, layer)
        return Moves(evict=evict, load=load) if len(evict) or len(load) else None

    def after(self, step: Step, view: View) -> Moves:
        """What a layer that has run leaves behind: keeps and evictions of its cache, with used prefetches among its uploads."""
        layer = step.layer
        mine, resident = self.borrowed[layer], view.resident[layer]
        if mine.any():
            there = np.zeros(len(mine), dtype=np.bool_)
            there[step.uploaded] = True
            there |= mine & resident & (step.counts > 0)
            stay, leave = self.cache.after_visit(step, there, resident & ~mine)
            spent = mine & ~stay
            called_off = spent & view.in_flight[layer]
            if called_off.any():
                self.late.update((layer, expert) for expert in np.flatnonzero(called_off).tolist())
            evict = np.concatenate([np.flatnonzero(spent), np.flatnonzero(leave)])
            moves = Moves(keep=np.flatnonzero(stay & ~mine), evict=pairs_of(layer, evict))
            mine[:] = False
        else:
            moves = self.cache.after_layer(step, resident)
        dropped = self.dropped(view)
        load = self._leave(view, layer)
        if not len(dropped) and not len(load):
            return moves
        return with_evicted(moves, dropped)._replace(load=load)

    def dropped(self, view: View) -> IntArray:
        """[n, 2] late copies that have landed; those that were called off in time are forgotten."""
        if not self.late:
            return _NONE
        landed = sorted(pair for pair in self.late if view.resident[pair])
        self.late = {pair for pair in self.late if view.in_flight[pair]}
        return np.array(landed, dtype=np.int64).reshape(-1, 2)

    def _foreseen(self, visit: Visit) -> IntArray:
        """[n] places of the experts expected, nearest layer first, in it the best first."""
        number = len(visit.counts) if self.mind.definite else int(np.count_nonzero(visit.counts))
        groups = []
        for depth in range(self.aim.first, self.aim.depth + 1):
            scores = self.mind.scores(visit, depth)
            if scores is not None:
                target = visit.layer + depth
                groups.append(target * len(scores) + best(scores, self.order[target], number))
        return groups[0] if len(groups) == 1 else np.concatenate([_NOBODY, *groups])

    def _leave(self, view: View, layer: int) -> IntArray:
        """[n, 2] copies that set out now: of the predictions known by now, what is missing and finds a buffer."""
        known = [places for time, places in self._waiting if time <= view.now]
        if not known:
            return _NONE
        self._waiting = [entry for entry in self._waiting if entry[0] > view.now]
        places, experts = known[0] if len(known) == 1 else np.concatenate(known), self.borrowed.shape[1]
        ahead = places[places >= (layer + 1) * experts]
        there = view.resident.reshape(-1)[ahead] | view.in_flight.reshape(-1)[ahead]
        for place in ahead[there].tolist() if self.late else ():
            self._wanted_again(divmod(place, experts))
        room = self.slots - int(np.count_nonzero(self.borrowed)) - len(self.late)
        chosen = ahead[~there][: max(room if self.aim.most is None else min(room, self.aim.most), 0)]
        self.borrowed.reshape(-1)[chosen] = True
        pairs = np.empty((len(chosen), 2), dtype=np.int64)
        np.divmod(chosen, experts, out=(pairs[:, 0], pairs[:, 1]))
        return pairs

    def _wanted_again(self, pair: tuple[int, int]) -> None:
        """A late copy has found a use before it was dropped."""
        if pair in self.late:
            self.late.discard(pair)
            self.borrowed[pair] = True


class BufferedPolicy(SizedPolicy):
    """What policies share that fetch ahead into buffers beside a cache per layer; `deploy` leaves `Buffers` as the state."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing, and behind it what is expected of later layers."""
        buffers: Buffers = view.state
        return upload_missing(visit, view)._replace(moves=buffers.before(visit, view))

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was used, drops what was fetched in vain."""
        buffers: Buffers = view.state
        return buffers.after(step, view)
