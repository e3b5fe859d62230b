"""Prefetching with the whole run known: Belady's copies, each sent off as soon as there is room, in the order of their need.

A bound on prefetchers, not a system; knows the future (`view.future`).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Future, Moves, Problem, Step, View, Visit
from moesim.policies.bounds.belady import soonest
from moesim.policies.kit.dispatch import by_tokens, upload_missing
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, place, quota, ranks
from moesim.policies.kit.sizing import default_staging

__all__ = ["OraclePrefetch"]

_STAGING = 2
"""Most slots that are left for uploads on demand; all others hold copies that come ahead of need."""


class _Order(NamedTuple):
    """A copy that will be needed at a visit and is not there by then."""

    visit: int
    layer: int
    expert: int
    stays: bool
    """Whether it is worth keeping after that visit."""


@dataclass
class _Plan:
    """Belady's choices for the visits ahead. Visits are numbered through the run; visit t is one of layer t mod L."""

    slots: int
    """Copies that Belady's cache holds."""
    held: BoolArray
    """[L, E] what it holds after the last visit planned; so the next two."""
    due: IntArray
    """[L, E] visit at which each expert is used next, times E, plus its rank in the layer."""
    rank: IntArray
    """[L, E] place of each expert in its layer's popularity."""
    cost: FloatArray
    """[L, E] time of a copy, relative to the longest."""
    last: IntArray
    """[L, E] visit at which each was used last, -1 for never."""
    done: IntArray
    """[L] visits of each layer that have begun."""
    now: int = -1
    """The visit that runs."""
    planned: int = 0
    """Visits planned."""
    orders: list[_Order] = field(default_factory=list)
    doomed: list[tuple[int, int, int]] = field(default_factory=list)
    """(visit after which a copy is of no use, layer, expert)."""

    def begin(self, counts: IntArray, future: Future) -> None:
        """The first visit of the run, with `counts` [E]."""
        for layer in range(len(self.due)):
            self._renew(layer, int(self.done[layer]), future)
        self._visit(counts)

    def extend(self, until: int, future: Future) -> None:
        """Plans all visits before number `until`, or to the end of the run."""
        while self.planned < until:
            number, layer = divmod(self.planned, len(self.due))
            counts = future.counts(layer, number - int(self.done[layer]))
            if counts is None:
                return
            self._renew(layer, number + 1, future)
            self._visit(counts)

    def _renew(self, layer: int, number: int, future: Future) -> None:
        """The next uses of a layer's experts from its visit `number` on."""
        ahead = future.next_use(layer, number - int(self.done[layer]))
        layers, experts = self.due.shape
        self.due[layer] = ((number + ahead) * layers + layer) * experts + self.rank[layer]

    def _visit(self, counts: IntArray) -> None:
        """What Belady does about the next visit, of `counts` [E]."""
        visit, (layers, experts) = self.planned, self.held.shape
        layer, used = visit % layers, counts > 0
        self.planned += 1
        self.last[layer, used] = visit
        new = np.zeros_like(self.held)
        new[layer] = used & ~self.held[layer]
        if not new.any():
            return
        waits = (self.due - visit * experts) / self.cost
        keep, drop = soonest(waits.ravel(), self.held.ravel(), new.ravel(), self.slots)
        stays = set((keep % experts).tolist())
        order = by_tokens(counts)
        for expert in order[new[layer, order]].tolist():
            self.orders.append(_Order(visit, layer, expert, expert in stays))
            if expert not in stays:
                self.doomed.append((visit, layer, expert))
        self.doomed += zip(self.last.ravel()[drop].tolist(), *map(np.ndarray.tolist, np.divmod(drop, experts)), strict=True)
        self.held.ravel()[keep] = True
        self.held.ravel()[drop] = False


class OraclePrefetch(SizedPolicy):
    """Every expert that will be missing is copied ahead of its visit, in order of need, as early as there is room.

    Belady's rule is played through `window` visits ahead of the run over one pool of all layers; where copies differ in length
    the one with the most visits to its next use per second of copying leaves (a heuristic). What leaves is dropped after its
    last use before that, what enters sets out as soon as a slot is free; an expert not worth keeping borrows one of
    the `buffer` slots. What has not set out when it is needed is uploaded on demand. Everything runs on the GPU.
    Source: the prefetch oracle of MoE off-loading studies; for one link and known requests this is the conservative rule of
    Cao et al. 1995 (SIGMETRICS). Valid: a bound on prefetchers with as much GPU memory and the same batch in so far as
    copies hold them back; the least time is NP-hard, so none is claimed for it.
    """

    kind: Literal["oracle_prefetch"] = "oracle_prefetch"
    window: int | None = Field(None, ge=1)
    """Visits of layers that are planned ahead; one pass if not given."""
    buffer: int | None = Field(None, ge=0)
    """Slots for experts on their way beside the cache; what others stage in, less two (at least one), if not given."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    clairvoyant: ClassVar[bool] = True
    source: ClassVar[str] = "bound; Belady 1966, Cao et al. 1995"

    def deploy(self, problem: Problem) -> Deployment:
        """As a cache, with most staging slots in the pool."""
        usual = default_staging(problem)
        cut = self.cut(problem, movable=True, staging=min(_STAGING, max(usual - 1, 1)))
        seen = problem.popularity if problem.hindsight is None else problem.hindsight
        deployment = place(problem, resident=quota(seen), homes=HomeOrder(scores=seen), cut=cut, movable=True)
        size, gpu = problem.model.expert_bytes, problem.gpu_tier
        copies = np.array([float(problem.costs.copy(size, tier, gpu)) for tier in problem.tiers])[deployment.home]
        slots = int(problem.gpu_free(cut) // problem.model.expert_bytes)
        buffer = min(usual - cut.staging if self.buffer is None else self.buffer, slots)
        shape = (problem.layers, problem.experts)
        plan = _Plan(
            max(slots - max(buffer, 0), 0),
            deployment.resident.copy(),
            np.zeros(shape, dtype=np.int64),
            ranks(seen),
            copies / copies.max(),
            np.full(shape, -1, dtype=np.int64),
            np.zeros(problem.layers, dtype=np.int64),
        )
        return replace(deployment, state=plan)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what has not set out yet; the first visit of the run sets off the first copies."""
        plan: _Plan = view.state
        assert view.future is not None, "a clairvoyant policy is given the future"
        plan.now += 1
        plan.done[visit.layer] += 1
        if plan.now:
            return upload_missing(visit, view)
        plan.begin(visit.counts, view.future)
        plan.extend(self._horizon(plan), view.future)
        load = _next_loads(plan, view.free_slots, view)
        return upload_missing(visit, view)._replace(moves=Moves(load=load) if len(load) else None)

    def adapt(self, step: Step, view: View) -> Moves:
        """Drops what is of no more use and sends off what is needed next."""
        plan: _Plan = view.state
        assert view.future is not None, "a clairvoyant policy is given the future"
        plan.extend(self._horizon(plan), view.future)
        staying = {order.expert for order in plan.orders if order.visit == plan.now and order.stays}
        keep = step.uploaded[[expert in staying for expert in step.uploaded.tolist()]]
        over = [entry for entry in plan.doomed if entry[0] <= plan.now]
        drop = [(layer, expert) for _, layer, expert in over if view.resident[layer, expert]]
        plan.doomed = [entry for entry in plan.doomed if entry[0] > plan.now]
        plan.orders = [order for order in plan.orders if order.visit > plan.now]
        free = view.free_slots + len(drop)
        keep = keep[: max(free, 0)]
        load = _next_loads(plan, free - len(keep), view, set(drop))
        return Moves(keep, np.array(drop, dtype=np.int64).reshape(-1, 2), load)

    def _horizon(self, plan: _Plan) -> int:
        return plan.now + 1 + (self.window or len(plan.done))


def _next_loads(plan: _Plan, free: int, view: View, dropped: Set[tuple[int, int]] = frozenset()) -> IntArray:
    """[n, 2] copies to send off, at most `free`: those needed first, of what is neither there nor on its way."""
    chosen: list[tuple[int, int]] = []
    for order in plan.orders:
        if len(chosen) >= free:
            break
        pair = order.layer, order.expert
        if order.visit > plan.now and (pair in dropped or not (view.resident[pair] or view.in_flight[pair])):
            chosen.append(pair)
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)
