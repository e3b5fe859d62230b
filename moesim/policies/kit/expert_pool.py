"""One pool of experts for all layers, with prefetches that displace what is worth least: the books of MoE-Infinity's kind.

Knows uses and residence; what an expert is worth is for policies to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Moves, Problem, Step, View, Visit
from moesim.policies.kit.compiled.pool_kernel import TIE
from moesim.policies.kit.dispatch import by_tokens
from moesim.policies.kit.history import hashed
from moesim.policies.kit.least import least, most
from moesim.policies.kit.placement import SizedPolicy, overall, place, ranks
from moesim.policies.kit.pool_moves import Changes, PoolMoves
from moesim.units import Share

__all__ = ["Pool", "PoolMemory", "PooledPolicy", "Wanted"]

_NONE: IntArray = np.zeros((0, 2), dtype=np.int64)
_NOBODY: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Wanted:
    """Experts of later layers, best first."""

    places: IntArray
    """[n] places in [L, E] laid flat."""
    value: FloatArray | None = None
    """[n] what each is worth; None: more than anything in the pool."""


@dataclass
class Pool:
    """A number of slots for experts of any layer, and who used them when."""

    slots: int
    popularity: FloatArray
    """[L, E] orders experts that have not been used yet."""
    flight: int
    """Prefetched copies on their way at a time, at most."""
    tie: FloatArray = field(init=False)
    """[L, E] in [0, 1), the order of copies with equal uses: without pattern, the same in every run and under other labels."""
    uses: IntArray = field(init=False)
    """[L, E] visits since the expert came into the pool."""
    last: IntArray = field(init=False)
    """[L, E] when it was last used: clock, then tokens."""
    visits: int = 0
    """About how many there will be."""
    compiled: PoolMoves | None = field(init=False)
    clock: int = 1
    _waiting: tuple[float, Wanted] | None = None

    def __post_init__(self) -> None:
        self.uses = np.zeros(self.popularity.shape, dtype=np.int64)
        places = ranks(self.popularity)
        self.last = self.popularity.shape[1] - places
        self.tie = np.take_along_axis(hashed(*self.popularity.shape), places, axis=1)
        self._by_use = self.uses + self.tie
        repaid = PoolMoves.repaid(self.popularity.shape, self.visits)
        self.compiled = PoolMoves(self.uses, self.last, self.tie, self._by_use) if repaid else None

    def met(self, visit: Visit) -> None:
        """The routing of a visit is known."""
        self.used(visit.layer, visit.counts)

    def used(self, layer: int, counts: IntArray) -> None:
        """A visit of `layer` uses experts with `counts` [E] tokens."""
        self.clock += 1
        if layer == 0:
            self._waiting = None
        if self.compiled is not None:
            self.compiled.used(layer, self.clock * TIE, counts)
            return
        used = counts > 0
        np.copyto(self.last[layer], counts + self.clock * TIE, where=used)
        self.uses[layer] += used
        np.add(self.uses[layer], self.tie[layer], out=self._by_use[layer])

    def by_use(self) -> FloatArray:
        """[L, E] visits since entry; among equals nothing decides but a lot drawn once."""
        return self._by_use

    def _entered(self, places: IntArray, uses: int) -> None:
        """Copies at `places` [n] come in with so many `uses`."""
        self.uses.ravel()[places] = uses
        self._by_use.ravel()[places] = uses + self.tie.ravel()[places]

    def look_ahead(self, time: float, outlook: Wanted) -> None:
        """`outlook` is known at `time`; what was wanted before is forgotten."""
        self._waiting = time, outlook

    def likely(self, layer: int, shares: FloatArray, decay: FloatArray, view: View) -> Wanted:
        """The missing experts of layers after `layer` with the best scores: as many as may be on their way.

        Scores are the shares [L, E] of a matrix times `decay` [L, L, 1], by how much a layer counts, seen from another.
        """
        if self.compiled is not None:
            return Wanted(*self.compiled.likely(layer, self.flight, shares, decay, view))
        scores, missing = shares * decay[layer], ~(view.resident | view.in_flight)
        missing[: layer + 1] = False
        places = most(scores, missing, self.flight)
        return Wanted(places, scores.ravel()[places])

    def before(self, visit: Visit, view: View, worth: Callable[[], FloatArray]) -> Moves | None:
        """What sets out with a visit: calls off copies for layers that have passed or do not use them, and prefetches."""
        layer, vain = visit.layer, _NONE
        if view.in_flight[: layer + 1].any():
            over = view.in_flight[: layer + 1].copy()
            over[layer] &= visit.counts == 0
            vain = np.argwhere(over)
        if not self.known(view):
            return Moves(evict=vain, load=_NONE) if len(vain) else None
        changes = self.changes(layer, visit.counts, _NOBODY, view, worth())
        if not len(vain) and not len(changes.load):
            return None
        experts = view.resident.shape[1]
        return Moves(evict=np.concatenate([vain, _pairs(changes.out, experts)]), load=_pairs(changes.load, experts))

    def after(self, step: Step, view: View, worth: FloatArray) -> Moves:
        """What was uploaded stays, the least worth leaves; then predictions that have become known."""
        if not len(step.uploaded) and not self.awaits:
            return NO_MOVES
        awaited, experts = self.awaits, view.resident.shape[1]
        changes = self.changes(step.layer, step.counts, step.uploaded, view, worth)
        drop = _pairs(changes.drop, experts)
        if not awaited:
            return Moves(keep=changes.keep, evict=drop)
        if len(changes.out):
            drop = np.concatenate([drop, _pairs(changes.out, experts)])
        return Moves(keep=changes.keep, evict=drop, load=_pairs(changes.load, experts))

    @property
    def awaits(self) -> bool:
        """Whether there are predictions that have not set out, known or not."""
        return self._waiting is not None

    def known(self, view: View) -> bool:
        """Whether predictions are known by now that have not set out."""
        return self._waiting is not None and self._waiting[0] <= view.now

    def changes(self, layer: int, counts: IntArray, uploaded: IntArray, view: View, worth: FloatArray) -> Changes:
        """What stays and sets out, and what leaves for it, after `layer` has used experts with `counts` [E] tokens."""
        outlook = None
        if self._waiting is not None and self.known(view):
            outlook, self._waiting = self._waiting[1], None
        if self.compiled is not None:
            predicted = None if outlook is None else (outlook.places, outlook.value)
            return self.compiled.after_layer(layer, (self.slots, self.flight), counts, uploaded, worth, view, predicted)
        keep, drop, held = uploaded, _NOBODY, view.resident | view.in_flight
        if len(uploaded):
            room = self.slots - int(np.count_nonzero(held))
            keep, drop = self.exchanged(layer, counts, uploaded, room, view.resident, worth)
        changes = Changes(keep, drop, _NOBODY, _NOBODY)
        if outlook is not None:
            changes = self._set_out(layer, outlook, view, worth, counts, changes)
        self._entered(changes.load, 0)
        return changes

    def exchanged(
        self, layer: int, counts: IntArray, new: IntArray, room: int, resident: BoolArray, worth: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """(who of the uploaded experts `new` [n] stays, [m] places of who leaves), with `room` for so many more copies."""
        new = new[by_tokens(counts[new])]
        idle = resident.copy()
        idle[layer] &= counts == 0
        drop = least(worth, idle, len(new) - room)
        keep = new[: max(room + len(drop), 0)]
        self._entered(layer * len(counts) + keep, 1)
        return keep, drop

    def _set_out(
        self, layer: int, outlook: Wanted, view: View, worth: FloatArray, counts: IntArray, changes: Changes
    ) -> Changes:
        """`changes` with the copies to bring of `outlook`, and what they displace.

        No victims: what the layer uses with `counts` [E], and what leaves in any case.
        """
        later = outlook.places >= (layer + 1) * len(counts)
        places, held = outlook.places[later], view.resident | view.in_flight
        missing = ~held.ravel()[places]
        load = places[missing][: max(self.flight - int(np.count_nonzero(view.in_flight)), 0)]
        if not len(load):
            return changes
        room = max(self.slots - int(np.count_nonzero(held)) - len(changes.keep) + len(changes.drop), 0)
        victims = view.resident.copy()
        victims[layer] &= counts == 0
        victims.ravel()[changes.drop] = False
        if outlook.value is None:
            victims.ravel()[places] = False
        out = least(worth, victims, len(load) - room)
        load = load[: room + len(out)]
        if outlook.value is not None and len(out):  # pairwise: the best of what comes against the least of what leaves
            value = outlook.value[later][missing][room : room + len(out)]
            better = int(np.count_nonzero(np.cumprod(value > worth.ravel()[out])))
            out, load = out[:better], load[: room + better]
        return changes._replace(load=load, out=out)


def _pairs(places: IntArray, experts: int) -> IntArray:
    """[n, 2] (layer, expert) of places [n] in an array [L, E] laid flat."""
    pairs = np.empty((len(places), 2), dtype=np.int64)
    np.divmod(places, experts, out=(pairs[:, 0], pairs[:, 1]))
    return pairs


@dataclass
class PoolMemory:
    """What a policy of one pool remembers."""

    pool: Pool
    mind: Any
    """Who predicts."""


class PooledPolicy(SizedPolicy):
    """What policies of one pool share: its size, its start, misses that stay; a subclass says what an expert is worth."""

    share: Share = 0.9
    """Share of the room for experts that the pool takes (published for MoE-Infinity: 0.75 to 0.9)."""
    flight: int = Field(8, ge=1)
    """Prefetched copies on their way at a time."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

    def mind(self, problem: Problem) -> Any:
        """Who predicts."""
        raise NotImplementedError

    def worth(self, layer: int, memory: PoolMemory) -> FloatArray:
        """[L, E] what each expert is worth after `layer`; the copy that is worth least leaves."""
        raise NotImplementedError

    def deploy(self, problem: Problem) -> Deployment:
        """The pool, filled by the profile."""
        cut, fill = self.cut(problem, movable=True), overall(problem.popularity)
        slots = int(self.share * max(problem.gpu_free(cut), 0.0) // problem.model.expert_bytes)
        budget = slots * problem.model.expert_bytes
        visits = problem.least_visits
        memory = PoolMemory(Pool(slots, problem.popularity, self.flight, visits), self.mind(problem))
        deployment = place(problem, resident=lambda _, sizes: fill(budget, sizes), cut=cut, movable=True)
        return replace(deployment, state=memory)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: PoolMemory = view.state
        return memory.pool.after(step, view, self.worth(step.layer, memory))
