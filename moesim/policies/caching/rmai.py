"""RMAI: experts in the DRAM of peers, read over RDMA through a local cache of regions that the kernel keeps.

Knows when an expert was last used; knows no routing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.errors import InputError, Mistake
from moesim.policies.kit.dispatch import by_tokens, upload_missing
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, host_order, place, ranking
from moesim.policies.kit.sizing import host_room
from moesim.units import Share, format_bytes, format_exact, format_sum

__all__ = ["Rmai"]


@dataclass
class _Memory:
    """The local cache."""

    slots: int
    """Experts that the cache holds."""
    last: IntArray
    """[L, E] visit in which each expert was last used; 0 or less for those not used yet, the popular ones later."""
    moving: BoolArray
    """[L, E] experts that were asked to move in this pass, and may be on their way."""
    local: int
    """Tier index of the local DRAM."""
    remote: int
    """Tier index of the peers' DRAM."""
    visits: int = 0
    """Visits so far."""
    index: int = -1
    """The pass that `moving` is of."""


class Rmai(SizedPolicy):
    """Experts live with peers; those used last have a copy in local DRAM, from where the GPU takes them.

    A missing expert is copied from the peer through local DRAM to the GPU, regions in a pipeline (max-form); what has crossed
    stays in the cache, and of all layers the expert unused for longest leaves, with no regard to routing and no copy, for the
    peer has it still. What a fault (1-10 us) and a one-sided read (2-3 us, range 2-10) cost is the `setup` of the network's
    link, paid once for each region; the size of a region is the link's `chunk`, without one a region is a whole expert.
    Source: RMAI, EuroMLSys 2025 (in-kernel remote regions, one-sided reads, dynamic regions). Inferred: LRU by whole experts,
    the cache's share of DRAM, no experts kept in GPU memory. Simplified: what stays or leaves does so from the next pass on.
    Valid: one peer, whose memory is staged in local DRAM; the published gain (up to 10 times over disk) is of switching
    experts, not of tokens.
    """

    kind: Literal["rmai"] = "rmai"
    cache: Share = 0.5
    """Share of the local DRAM, beside the KV cache, that holds experts."""
    start: Literal["profile", "empty"] = "profile"
    """What the cache holds at first: the most popular experts, or nothing."""
    turnover: int = Field(8, ge=0)
    """Experts that may stay in one pass: so many slots are kept free; 0 leaves the cache as it starts."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "RMAI (EuroMLSys 2025)"

    def deploy(self, problem: Problem) -> Deployment:
        """A home with the peers for every expert, or in local DRAM for as many as the cache starts with."""
        remote = [tier for tier in host_order(problem) if problem.system.tiers[tier].kind == "remote"]
        local = problem.main_memory
        if not remote or problem.system.tiers[local].kind != "ddr":
            raise InputError(Mistake("this policy needs tiers of the kinds ddr and remote; the machine lacks one of them"))
        peer = max(remote, key=problem.usable)
        if f"{local}:write" not in dict(problem.costs.path(peer, problem.gpu_tier).usage):
            raise InputError(
                Mistake(f"copies from '{peer}' must cross local DRAM to stay there; write stage: {local} at that tier")
            )
        size, shape = float(problem.model.expert_bytes), (problem.layers, problem.experts)
        cut = self.cut(problem, movable=True)
        room, pairs = host_room(problem, cut), problem.layers * problem.experts
        if room[peer] < size * pairs:
            needed = f"{format_bytes(size * pairs)}, '{peer}' has {format_bytes(max(room[peer], 0.0))} to give"
            shares = {f"'{peer}'": problem.usable(peer), "KV cache": room[peer] - problem.usable(peer)}
            text = (
                f"the peers hold all {pairs} experts, which need {needed}: {format_exact(size * pairs)} of {format_sum(shares)}"
            )
            raise InputError(Mistake(text))
        slots = int(self.cache * max(room[local], 0.0) // size)
        order = ranking(problem.popularity)
        first = max(slots - self.turnover, 0) if self.start == "profile" else 0
        held, last = np.zeros(pairs, dtype=np.bool_), np.empty(pairs, dtype=np.int64)
        held[order[:first]] = True
        last[order] = -np.arange(pairs)
        cached, indices = held.reshape(shape), [problem.tiers.index(tier) for tier in (local, peer)]
        memory = _Memory(slots, last.reshape(shape), np.zeros(shape, dtype=np.bool_), *indices)
        homes = HomeOrder(classes=[(cached, [[local]]), (~cached, [[peer]])])
        return replace(place(problem, homes=homes, cut=cut, movable=True), state=memory, backup=peer)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Everything runs on the GPU, from wherever it lies."""
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """What crossed for the layer stays, most tokens first; those unused for longest leave where too few slots are free."""
        memory: _Memory = view.state
        if step.index != memory.index:
            memory.index = step.index
            memory.moving[:] = False
        memory.visits += 1
        memory.last[step.layer, step.counts > 0] = memory.visits
        if not self.turnover:
            return NO_MOVES
        local, still = view.home == memory.local, ~memory.moving
        held, leaving, coming = int(local.sum()), int((local & memory.moving).sum()), int((~local & memory.moving).sum())
        crossed = step.uploaded[(~local & still)[step.layer, step.uploaded]]
        stay = crossed[by_tokens(step.counts[crossed])[: max(memory.slots - held - coming, 0)]]
        old = np.flatnonzero(local & still)
        surplus = held - leaving + coming + len(stay) - (memory.slots - self.turnover)
        oldest = old[np.argsort(memory.last.ravel()[old], kind="stable")[: max(surplus, 0)]]
        if not len(stay) and not len(oldest):
            return NO_MOVES
        layers, experts = np.divmod(oldest, local.shape[1])
        memory.moving[step.layer, stay] = True
        memory.moving[layers, experts] = True
        return Moves(
            migrate=np.column_stack((layers, experts, np.full(len(layers), memory.remote))),
            stay=np.column_stack((np.full(len(stay), step.layer), stay, np.full(len(stay), memory.local))),
        )
