"""SMoE: cached experts of like score stand in for missing ones of low score; the rest is shared by PCIe and the CPU.

Knows the past of the run and one visit; gate scores only as a law.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, to_cpu_where, upload_missing
from moesim.policies.kit.expert_pool import Pool, PooledPolicy, PoolMemory, Wanted
from moesim.policies.kit.placement import require_cpu
from moesim.policies.kit.precision import GateWeights
from moesim.policies.kit.predictors import Gate
from moesim.portable import exponential
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["Smoe", "balanced", "replaceable"]


@dataclass
class _Memory(PoolMemory):
    """What SMoE remembers."""

    rng: np.random.Generator
    counts: IntArray | None = None
    """[E] tokens of the visit that runs, after replacement."""


def replaceable(logits: FloatArray, top_k: int, margin: float) -> tuple[BoolArray, IntArray]:
    """([T, k] chosen experts of low score, [T] experts not chosen that may stand in) by the `logits` [T, 2k] of each token.

    With m the score of the first expert that is not chosen: low are those chosen below (1 + margin) m, and those not chosen may
    stand in that score between (1 - margin) m and m. Source: SMoE, arXiv:2508.18983, and goingshr/SMoE.
    """
    scores = exponential(logits - logits[:, top_k : top_k + 1])
    low = scores[:, :top_k] < 1.0 + margin
    return low, np.count_nonzero(scores[:, top_k + 1 :] > 1.0 - margin, axis=1)


def balanced(missing: IntArray, load: float, cpu: float) -> BoolArray:
    """[n] which of `missing`, most tokens first, the CPU computes: an expert is loaded if loads so far take less time.

    `load` and `cpu` are seconds of one expert, whatever its tokens. Source: goingshr/SMoE.
    """
    on_cpu = np.zeros(len(missing), dtype=np.bool_)
    loaded = computed = 0.0
    for place in range(len(missing)):
        if loaded < computed:
            loaded += load
        else:
            computed += cpu
            on_cpu[place] = True
    return on_cpu


class Smoe(PooledPolicy):
    """Low-score experts that are missing give way to cached ones of like score; of the rest PCIe and the CPU take turns.

    One LRU pool for all layers. In decode, a chosen expert whose score is less than 1 + `margin` times that of the first not
    chosen may be replaced by a cached one not far below it. Missing experts that are left go to PCIe or to the CPU, whichever
    has got less by mean times of an expert. While a layer runs, the first missing expert that the next layer's gate names is
    fetched; a fetch that is late is called off. Prompts are uploaded. Source: SMoE, arXiv:2508.18983, and goingshr/SMoE (margin
    0.25, balance, prefetch of one). Inferred: scores, which routing tables do not hold, from the law of HOBBIT's weights; which
    experts could stand in (drawn by popularity among those not chosen); mean times are those of one token; the recall of the
    gate. Left out: eviction by a window of scores, off in all shipped configurations; that later layers route otherwise after a
    replacement. Valid: changes outputs (`quality`: replaced); made for one to three sequences.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *PooledPolicy.unread,
        Unread(("predictor", "flight"), when={"prefetch": False}),
    )

    kind: Literal["smoe"] = "smoe"
    margin: Share = 0.25
    """a, how far scores may differ (published: 0.25; accuracy holds below 0.35)."""
    weights: GateWeights = GateWeights()
    """Law of the gate scores."""
    predictor: Gate = Gate()
    """The gate of the next layer."""
    prefetch: bool = True
    """Whether an expert of the next layer is fetched."""
    flight: int = Field(1, ge=1)
    """Prefetched copies on their way at a time (published: 1)."""

    lossy: ClassVar[bool] = True
    runtime: ClassVar[str] = "torch-eager"
    source: ClassVar[str] = "SMoE (arXiv:2508.18983)"

    @property
    def foresight(self) -> Foresight | None:
        """That of the gate."""
        return self.predictor.foresight(1) if self.prefetch else None

    def mind(self, problem: Problem) -> None:
        """The gate is read through the visit."""

    def worth(self, layer: int, memory: PoolMemory) -> FloatArray:
        """Least recently used first, of whatever layer."""
        return memory.pool.last.astype(np.float64)

    def deploy(self, problem: Problem) -> Deployment:
        """The pool, filled by the profile."""
        require_cpu(problem)
        deployment = super().deploy(problem)
        return replace(deployment, state=_Memory(deployment.state.pool, None, problem.rng))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Replaces, balances, and fetches one expert ahead."""
        memory: _Memory = view.state
        memory.counts = None
        if visit.phase == "prefill":
            memory.pool.met(visit)
            return upload_missing(visit, view)
        here = in_gpu_memory(visit, view)
        memory.counts = self._replaced(visit, here, memory, view.problem)
        seen = copy(visit)
        seen.counts = memory.counts
        memory.pool.met(seen)
        missing = np.where(here, 0, memory.counts)
        order = by_tokens(missing)[: int(np.count_nonzero(missing))]
        on_cpu = np.zeros(len(here), dtype=np.bool_)
        size, tier = view.problem.model.expert_bytes, view.problem.main_memory
        load = float(view.problem.costs.copy(size, tier, view.problem.gpu_tier))
        on_cpu[order] = balanced(order, load, float(view.problem.costs.cpu(1, tier)))
        on_cpu &= np.isfinite(visit.cpu)
        return to_cpu_where(on_cpu, visit, view)._replace(counts=memory.counts, moves=self._ahead(seen, view, memory.pool))

    def _replaced(self, visit: Visit, here: BoolArray, memory: _Memory, problem: Problem) -> IntArray:
        """[E] tokens after missing experts of low score, to all tokens that ask for them, have given theirs to cached ones."""
        top_k, counts = problem.model.top_k, visit.counts.copy()
        low, standing = replaceable(self.weights.logits(visit.tokens, 2 * top_k, memory.rng), top_k, self.margin)
        flags, ranks = memory.rng.permutation(low.ravel()), np.empty(len(counts))
        ranks[np.argsort(memory.pool.tie[visit.layer])] = memory.rng.random(len(counts))  # the same under other labels
        used, unchosen = np.flatnonzero(counts), np.flatnonzero(counts == 0)
        used = used[np.argsort(ranks[used], kind="stable")]
        ends = np.cumsum(counts[used])
        # the most popular of those not chosen are the likeliest to come next to the chosen ones
        draws = ranks[unchosen] ** (1.0 / np.maximum(problem.popularity[visit.layer][unchosen], 1e-12))
        near = unchosen[np.argsort(-draws, kind="stable")[: int(standing.max())]]
        free = [expert for expert in near.tolist() if here[expert]]
        for expert, end in zip(used.tolist(), ends.tolist(), strict=True):
            if not free:
                break
            if not here[expert] and flags[end - counts[expert] : end].all():
                counts[free.pop(0)] = counts[expert]
                counts[expert] = 0
        return counts

    def _ahead(self, visit: Visit, view: View, pool: Pool) -> Moves | None:
        """The first missing expert of the next layer; copies for this one that are not wanted are called off."""
        expected = visit.ahead(1) if self.prefetch else None
        if expected is not None:
            missing = expected * ~(view.resident[visit.layer + 1] | view.in_flight[visit.layer + 1])
            first = by_tokens(missing)[: min(int(np.count_nonzero(missing)), 1)]
            pool.look_ahead(view.now, Wanted((visit.layer + 1) * len(expected) + first))
        return pool.before(visit, view, lambda: pool.last.astype(np.float64))

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded."""
        memory: _Memory = view.state
        seen = step if memory.counts is None else replace(step, counts=memory.counts)
        return memory.pool.after(seen, view, self.worth(step.layer, memory))
