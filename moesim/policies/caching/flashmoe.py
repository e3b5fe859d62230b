"""FlashMoE: experts on storage, a cache per layer, and a small network that imitates Belady's choice of who leaves.

Knows the past of the run, and the future as far as the network's stated skill goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Serial, Step, View, Visit
from moesim.policies.kit.cache import LayerLru, deploy_cached
from moesim.policies.kit.dispatch import by_tokens, upload_missing
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import HomeOrder, SizedPolicy, place, storage_first
from moesim.units import Share

__all__ = ["FlashMoe"]


@dataclass
class _Memory:
    """What FlashMoE remembers."""

    cache: LayerLru
    rng: np.random.Generator


class FlashMoe(SizedPolicy):
    """Experts on storage, read through DRAM on a miss; of a layer's cached experts the one leaves that a network picks.

    The network reads how long ago and how often each expert was used, and is trained to give the distance to its next use. Of
    its choices the share `skill` is Belady's, the rest LRU's: 0 is LRU, 1 the best that any rule which takes in every miss can
    do. Source: FlashMoE, arXiv:2601.17063 (tiers, features, target). Inferred: skill (published are 21 % more hits than LRU on
    one model, where Belady has 18 % more; another study, arXiv:2608.07911, finds such predictors worse than LRU); that reads
    and computation of a layer follow each other; a first filling by the profile. Left out: the time of the network.
    Valid: one sequence at a time, all of which is there from the start.
    """

    kind: Literal["flashmoe"] = "flashmoe"
    capacity: int | None = Field(None, ge=0)
    """Expert slots of each layer; as many as fit if not given."""
    skill: Share = 0.5
    """Share of the evictions that are Belady's."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    imitates: ClassVar[bool] = True
    source: ClassVar[str] = "FlashMoE (arXiv:2601.17063)"

    def deploy(self, problem: Problem) -> Deployment:
        """All experts on storage where there is any, the caches filled by the profile."""
        shape, cut = (problem.layers, problem.experts), self.cut(problem, movable=True).piped(Serial())
        stored = place(problem, homes=HomeOrder(storage_first(problem)), cut=cut, movable=True)
        deployment = deploy_cached(problem, cut, self.capacity, lambda sizes: LayerLru(sizes, *shape), deployment=stored)
        return replace(deployment, state=_Memory(deployment.state, problem.rng))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Uploads what is missing."""
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was read; who leaves is chosen one by one."""
        assert view.future is not None, "a policy that imitates the future is shown it"
        memory: _Memory = view.state
        cache, layer, resident = memory.cache, step.layer, view.resident[step.layer]
        used = step.counts > 0
        cache.clock += 1
        np.copyto(cache.keys[layer], step.counts + cache.clock * (1 << 24), where=used)
        new = step.uploaded[by_tokens(step.counts[step.uploaded])]
        idle = np.flatnonzero(resident & ~used)
        free = int(cache.capacity[layer]) - int(np.count_nonzero(resident))
        new = new[: max(free + len(idle), 0)]
        if not len(new):
            return NO_MOVES
        leaving = self._leaving(idle, len(new) - free, cache.keys[layer], view.future.next_use(layer), memory.rng)
        return Moves(new, pairs_of(layer, leaving) if len(leaving) else None)

    def _leaving(self, idle: IntArray, number: int, last: IntArray, following: IntArray, rng: np.random.Generator) -> IntArray:
        """`number` of the experts `idle`: those used again last, or (a share of them) those used longest ago."""
        by_last = idle[np.argsort(last[idle], kind="stable")].tolist()
        by_next = idle[np.lexsort((last[idle], -following[idle]))].tolist()
        victims: list[int] = []
        for best in rng.random(max(number, 0)) < self.skill:
            victims.append(next(expert for expert in (by_next if best else by_last) if expert not in victims))
        return np.array(victims, dtype=np.int64)
