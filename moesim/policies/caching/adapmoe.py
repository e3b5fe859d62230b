"""AdapMoE: fewer experts where a token does not need them, one predicted expert ahead, and cache slots where prediction fails.

Knows the past of the run, and what the gates see.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.caching.slots import ACCURACY, SINGLE, best_slots, by_depth, expected_loads
from moesim.policies.kit.cache import LayerLru
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.placement import SizedPolicy, place, quota, ranks
from moesim.policies.kit.predictors import Gate
from moesim.policies.kit.prefetch_buffers import Aim, Buffers, buffer_slots
from moesim.spec import Unread
from moesim.units import Duration, Share

__all__ = ["AdapMoe"]


@dataclass
class _Memory:
    """What AdapMoE remembers."""

    buffers: Buffers
    single: FloatArray
    """[L] probability that a token does without its last expert."""
    rng: np.random.Generator
    counts: IntArray | None = None
    """[E] what the visit that runs computes, where that is not what was routed."""


class AdapMoe(SizedPolicy):
    """LRU caches of unequal size, the second expert left out where it matters little, one expert of the next layer fetched.

    Slots: the programme of `best_slots` over `expected_loads`, from each layer's prediction accuracy and share of tokens with
    one expert. Gating: at one token per visit the last of its k experts is left out with the layer's probability (published
    mean over layers: 0.248, most in the last layers). Prefetch: the first missing one of the experts that the next layer's gate
    names sets out behind this layer's uploads into a spare buffer; unused, it is dropped and the cache never knows. With more
    than one token per visit gating is off, everything is loaded and nothing prefetched, as in its code. Copies: an expert
    crosses as its three matrices, and the GPU starts on it when the first has landed; resident experts run first.
    Source: AdapMoE, ICCAD 2024, arXiv:2408.10284, and PKU-SEC-Lab/AdapMoE (accuracies, shares, programme, slots for 64 and
    128). Inferred: routing tables hold no gate weights, so the expert left out is drawn, and its probability is the layer's;
    layers of other models take both values at the same relative depth, and k other than 2 as in `expected_loads`; each matrix
    takes a third of the expert's GPU time, its launch included.
    Valid: changes outputs (`quality`: skipped); made for one sequence (`batch: 1`); the programme takes routing as uniform.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("single",), when={"gating": False}),
    )

    kind: Literal["adapmoe"] = "adapmoe"
    gating: bool = True
    """Whether tokens may do without their last expert."""
    single: tuple[Share, ...] = Field(SINGLE, min_length=2)
    """Share of tokens that do, from the first layer to the last."""
    accuracy: tuple[Share, ...] = Field(ACCURACY, min_length=2)
    """Share of each layer's experts that the gate of the layer before predicts: decides on slots, and is that gate's recall."""
    cost: Duration = 10e-6
    """GPU time of the next layer's gate on this layer's hidden state, per visit."""
    prefetch: int = Field(1, ge=0)
    """Experts of the next layer fetched per visit (published: 1)."""
    slots: Literal["programme", "equal"] = "programme"
    """Whether layers get slots by the programme or equally many."""
    pieces: int = Field(3, ge=1)
    """Pieces in which an expert crosses, each run as it lands (published: 3); 1 waits for the whole expert."""
    total: int | None = Field(None, ge=1)
    """Expert slots in GPU memory of all layers together (published: 64 and 128); as many as fit if not given."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "AdapMoE (ICCAD 2024, arXiv:2408.10284)"

    @property
    def foresight(self) -> Foresight | None:
        """That of the gate, layer by layer."""
        return Foresight(by_layer=self.accuracy, seconds=self.cost)

    def deploy(self, problem: Problem) -> Deployment:
        """Slots by layer, filled by the profile."""
        cut = self.cut(problem, movable=True)
        spare = buffer_slots(problem, cut, 2 * self.prefetch)  # those of the layer that runs, and of the next one
        resident = self._cached(problem, problem.gpu_free(cut) - spare * problem.model.expert_bytes)
        cache = LayerLru(resident.sum(axis=1), problem.layers, problem.experts)
        cache.warm(problem.experts - ranks(problem.popularity))
        aim = Aim(most=self.prefetch, lone=True)
        buffers = Buffers(Gate().start(problem), cache, spare, aim, problem.popularity)
        single = by_depth(self.single, problem.layers)
        deployment = place(problem, cut=cut, movable=True)
        return replace(deployment, resident=resident, pieces=self.pieces, state=_Memory(buffers, single, problem.rng))

    def _cached(self, problem: Problem, free: float) -> BoolArray:
        """[L, E] what the caches hold at first, and so their sizes."""
        total = min(int(max(free, 0.0) // problem.model.expert_bytes), self.total or problem.layers * problem.experts)
        if self.slots == "equal":
            sizes = np.full((problem.layers, problem.experts), problem.model.expert_bytes)
            return quota(problem.popularity)(total * problem.model.expert_bytes, sizes)
        return np.asarray(ranks(problem.popularity) < self.slots_by_layer(problem, total)[:, None])

    def slots_by_layer(self, problem: Problem, total: int) -> IntArray:
        """[L] what the programme gives each layer of `total` slots."""
        layers = problem.layers
        single = by_depth(self.single, layers) if self.gating else np.zeros(layers)
        loads = expected_loads(problem.experts, problem.model.top_k, by_depth(self.accuracy, layers), single)
        return best_slots(loads, total)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Drops an expert or not, uploads what is missing of the others, and one of the next layer's."""
        memory: _Memory = view.state
        memory.counts = self._gated(visit, memory) if visit.tokens == 1 else None
        if memory.counts is not None:
            visit = copy(visit)
            visit.counts = memory.counts
        moves = memory.buffers.before(visit, view)
        return upload_missing(visit, view)._replace(counts=memory.counts, moves=moves)

    def _gated(self, visit: Visit, memory: _Memory) -> IntArray | None:
        """[E] the counts without one expert, or None for all of them. Draws alike, whatever comes of it."""
        chance, which = memory.rng.random(2)
        used = np.flatnonzero(visit.counts)
        used = used[np.argsort(memory.buffers.tie[visit.layer, used], kind="stable")]
        if not self.gating or len(used) < 2 or chance >= memory.single[visit.layer]:
            return None
        counts = visit.counts.copy()
        counts[used[int(which * len(used))]] = 0
        return counts

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was used."""
        memory: _Memory = view.state
        return memory.buffers.after(step if memory.counts is None else replace(step, counts=memory.counts), view)
