"""One pool of experts for all layers, with prefetches that displace what is worth least: the books of MoE-Infinity's kind.

Knows uses and residence; what an expert is worth is for policies to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens
from moesim.policies.kit.history import hashed
from moesim.policies.kit.least import Least
from moesim.policies.kit.placement import SizedPolicy, overall, place, ranks
from moesim.policies.kit.pool_kernel import TIE
from moesim.units import Share

__all__ = ["Pool", "PoolMemory", "PooledPolicy", "Wanted"]

_NONE: IntArray = np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class Wanted:
    """Experts of later layers, best first."""

    pairs: IntArray
    """[n, 2] (layer, expert)."""
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
    choice: Least = field(init=False)
    clock: int = 1
    _waiting: tuple[float, Wanted] | None = None

    def __post_init__(self) -> None:
        self.uses = np.zeros(self.popularity.shape, dtype=np.int64)
        places = ranks(self.popularity)
        self.last = self.popularity.shape[1] - places
        self.tie = np.take_along_axis(hashed(*self.popularity.shape), places, axis=1)
        self.choice = Least(self.popularity.size, self.visits)

    def met(self, visit: Visit) -> None:
        """The routing of a visit is known."""
        self.used(visit.layer, visit.counts)

    def used(self, layer: int, counts: IntArray) -> None:
        """A visit of `layer` uses experts with `counts` [E] tokens."""
        self.clock += 1
        used = counts > 0
        np.copyto(self.last[layer], counts + self.clock * TIE, where=used)
        self.uses[layer] += used
        if layer == 0:
            self._waiting = None

    def by_use(self) -> FloatArray:
        """[L, E] visits since entry; among equals nothing decides but a lot drawn once."""
        return np.asarray(self.uses + self.tie)

    def look_ahead(self, time: float, outlook: Wanted) -> None:
        """`outlook` is known at `time`; what was wanted before is forgotten."""
        self._waiting = time, outlook

    def before(self, visit: Visit, view: View, worth: FloatArray) -> Moves | None:
        """What sets out with a visit: calls off copies for layers that have passed or do not use them, and prefetches."""
        layer, vain = visit.layer, _NONE
        if view.in_flight[: layer + 1].any():
            over = view.in_flight[: layer + 1].copy()
            over[layer] &= visit.counts == 0
            vain = np.argwhere(over)
        drop, load = self._exchange(layer, view, worth, visit.counts)
        if not len(vain) and not len(load):
            return None
        return Moves(evict=np.concatenate([vain, drop]), load=load)

    def after(self, step: Step, view: View, worth: FloatArray) -> Moves:
        """What was uploaded stays, the least worth leaves; then predictions that have become known."""
        layer, new = step.layer, step.uploaded
        keep, drop = new, _NONE
        if len(new):
            room = self.slots - int(np.count_nonzero(view.resident | view.in_flight))
            keep, drop = self.exchanged(layer, step.counts, new, room, view.resident, worth)
        elif self._waiting is None:
            return NO_MOVES
        if self._waiting is None:
            return Moves(keep=keep, evict=drop)
        out, load = self._exchange(layer, view, worth, step.counts, drop, len(keep) - len(drop))
        return Moves(keep=keep, evict=np.concatenate([drop, out]), load=load)

    def exchanged(
        self, layer: int, counts: IntArray, new: IntArray, room: int, resident: BoolArray, worth: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """(who of the uploaded experts `new` [n] stays, [m, 2] who leaves), with `room` for so many more copies."""
        new = new[by_tokens(counts[new])]
        idle = resident.copy()
        idle[layer] &= counts == 0
        drop = _pairs(self.choice.least(worth, idle, len(new) - room), worth)
        keep = new[: max(room + len(drop), 0)]
        self.uses[layer, keep] = 1
        return keep, drop

    def _exchange(
        self, layer: int, view: View, worth: FloatArray, counts: IntArray, leaving: IntArray | None = None, entered: int = 0
    ) -> tuple[IntArray, IntArray]:
        """([m, 2] copies to drop, [n, 2] copies to bring), of the predictions that are known by now.

        No victims: what the layer uses with `counts` [E], and `leaving` [m, 2] copies that leave in any case.
        """
        if self._waiting is None or self._waiting[0] > view.now:
            return _NONE, _NONE
        outlook, self._waiting = self._waiting[1], None
        later = outlook.pairs[:, 0] > layer
        pairs = outlook.pairs[later]
        held = view.resident | view.in_flight
        missing = ~held[pairs[:, 0], pairs[:, 1]]
        number = self.flight - int(np.count_nonzero(view.in_flight))
        load = pairs[missing][: max(number, 0)]
        if not len(load):
            return _NONE, _NONE
        room = max(self.slots - int(np.count_nonzero(held)) - entered, 0)
        victims = view.resident.copy()
        victims[layer] &= counts == 0
        for spared in (leaving, pairs if outlook.value is None else None):
            if spared is not None:
                victims[spared[:, 0], spared[:, 1]] = False
        drop = _pairs(self.choice.least(worth, victims, len(load) - room), worth)
        load = load[: room + len(drop)]
        if outlook.value is not None and len(drop):  # pairwise: the best of what comes against the least of what leaves
            value = outlook.value[later][missing][room : room + len(drop)]
            better = int(np.count_nonzero(np.cumprod(value > worth[drop[:, 0], drop[:, 1]])))
            drop, load = drop[:better], load[: room + better]
        self.uses[load[:, 0], load[:, 1]] = 0
        return drop, load


def _pairs(places: IntArray, of: FloatArray) -> IntArray:
    """[n, 2] (layer, expert) of places [n] in an array [L, E] laid flat."""
    return np.column_stack(np.divmod(places, of.shape[1]))


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
        visits = (1 + int(problem.job.output.max(initial=1))) * problem.layers
        memory = PoolMemory(Pool(slots, problem.popularity, self.flight, visits), self.mind(problem))
        deployment = place(problem, resident=lambda _, sizes: fill(budget, sizes), cut=cut, movable=True)
        return replace(deployment, state=memory)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: PoolMemory = view.state
        return memory.pool.after(step, view, self.worth(step.layer, memory))
