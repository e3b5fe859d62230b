"""HybriMoE: CPU and GPU eat one queue of experts from both ends, over a cache that goes by moving scores.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.policies.base import Deployment, Dispatch, IntArray, Moves, Step, View, Visit
from moesim.policies.cache import LayerScore, deploy_cached
from moesim.policies.dispatch import upload_missing
from moesim.policies.migration import pairs_of
from moesim.policies.placement import SizedPolicy, require_cpu
from moesim.policies.problem import Problem
from moesim.policies.schedule import two_ended_dispatch
from moesim.units import Share

__all__ = ["HybriMoe"]


@dataclass
class _Memory:
    """What HybriMoE remembers."""

    cache: LayerScore
    start: float
    """Seconds before the CPU's first expert of a layer."""


class HybriMoe(SizedPolicy):
    """GPU and CPU take experts from two ends of one queue; an upload enters the cache, the lowest moving score leaves.

    Decode: the schedule `two_ended` with this machine's times. Prefill: everything on the GPU (`prefill: schedule` uses both).
    Cache: S <- a s + (1 - a) S after every visit, the lowest S of the layer makes room. Prefetch: after a layer, the experts of
    the next one with the highest S that are missing take the place of residents with a lower S.
    Source: HybriMoE, DAC 2025, arXiv:2504.05897, and PKU-SEC-Lab/HybriMoE (schedule, a = 0.5, score, prefetch by score; p is
    12 in the code, about 2 k in the paper).
    Inferred: shares of tokens stand for gate scores; two experts are prefetched; an expert is fetched only against a lower
    score.
    Left out: the paper's prefetch by simulated impact over three layers, and that a prefill fetches the whole next layer.
    """

    kind: Literal["hybrimoe"] = "hybrimoe"
    alpha: Share = 0.5
    """a of the moving score (published: 0.5)."""
    top: int | None = Field(None, ge=1)
    """p: experts of a visit whose score counts, those with most tokens; 2 k per token if not given (published: 12)."""
    prefetch: int = Field(2, ge=0)
    """Most experts of the next layer fetched after a layer of decode."""
    prefill: Literal["gpu", "schedule"] = "gpu"
    """Whether prompts run on the GPU alone or on both devices."""
    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory (published: 25, 50 or 75 % of them); as many as fit if not given."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "HybriMoE (DAC 2025, arXiv:2504.05897)"

    def deploy(self, problem: Problem) -> Deployment:
        """A cache per layer, filled by the profile."""
        require_cpu(problem)
        cut = self.cut(problem, movable=True)
        top = self.top or 2 * problem.model.top_k * cut.batch
        shape = problem.layers, problem.experts
        deployment = deploy_cached(
            problem, cut, self.capacity, lambda capacity: LayerScore(capacity, *shape, alpha=self.alpha, top=top)
        )
        start = float(problem.system.devices[problem.devices[problem.cpu_index]].sync)
        return replace(deployment, state=_Memory(deployment.state, start))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Both ends of the queue."""
        if visit.phase == "prefill" and self.prefill == "gpu":
            return upload_missing(visit, view)
        memory: _Memory = view.state
        return two_ended_dispatch(visit, view, memory.start)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded, and fetches what the next layer's scores ask for."""
        memory: _Memory = view.state
        coming = int(np.count_nonzero(view.in_flight[step.layer]))
        moves = memory.cache.after_layer(step, view.resident[step.layer], coming)
        target = step.layer + 1
        if not self.prefetch or step.phase != "decode" or target == len(view.resident):
            return moves
        load, drop = self._fetched(target, view, memory.cache)
        if not len(load):
            return moves
        evict = drop if moves.evict is None else np.concatenate((moves.evict, drop))
        return Moves(moves.keep, evict, load)

    def _fetched(self, layer: int, view: View, cache: LayerScore) -> tuple[IntArray, IntArray]:
        """(layer, expert) pairs to load, highest score first, and to drop for them."""
        scores, resident = cache.keys[layer], view.resident[layer]
        here = resident | view.in_flight[layer]
        free = max(int(cache.capacity[layer]) - int(np.count_nonzero(here)), 0)
        missing, held = np.flatnonzero(~here), np.flatnonzero(resident)
        missing = missing[np.argsort(-scores[missing], kind="stable")[: self.prefetch]]
        held = held[np.argsort(scores[held], kind="stable")[: len(missing)]]
        count = min(free, len(missing))  # these come into free slots, the others one by one against the lowest scores
        against = missing[count : count + len(held)]
        better = int(np.count_nonzero(scores[against] > scores[held[: len(against)]]))
        return pairs_of(layer, missing[: count + better]), pairs_of(layer, held[:better])
