"""DALI: each active expert to the CPU or the GPU so that both end early, a window of counts for the cache, one prefetch.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, to_cpu_where
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, place, quota, require_cpu
from moesim.policies.kit.predictors import Gate
from moesim.spec import Unread

__all__ = ["Dali", "assign"]

_BUFFERS = 2
"""Slots for prefetched experts: that of the layer that runs and that of the next."""


def assign(active: IntArray, gpu: FloatArray, cpu: FloatArray, busy: float = 0.0) -> BoolArray:
    """[E] experts that the CPU computes, of `active` [n], with seconds `gpu` [E] (or of the copy) and `cpu` [E].

    The widest gap between the two goes first; each expert goes to the side that keeps the later end of both lower, the GPU
    where they tie; its side is `busy` for so many seconds with copies for this layer that have not landed.
    Source: DALI, arXiv:2602.03495 (greedy for min max(T_gpu, T_cpu)). Inferred: widest gap first.
    """
    chosen = np.zeros(len(gpu), dtype=np.bool_)
    order = active[np.argsort(-np.abs(cpu[active] - gpu[active]), kind="stable")]
    gpu_end, cpu_end = busy, 0.0
    for expert, on_gpu, on_cpu in zip(order.tolist(), gpu[order].tolist(), cpu[order].tolist(), strict=True):
        if max(gpu_end + on_gpu, cpu_end) <= max(gpu_end, cpu_end + on_cpu):
            gpu_end += on_gpu
        else:
            cpu_end += on_cpu
            chosen[expert] = True
    return chosen


@dataclass
class _Memory:
    """What DALI remembers."""

    scores: IntArray
    """[L, E] tokens in this window."""
    passes: IntArray
    """[L] passes of this window."""
    fetched: dict[int, int] = field(default_factory=dict)
    """Layer -> the expert that was fetched ahead for it."""


class Dali(SizedPolicy):
    """Greedy assignment by the gap of costs, swaps by the counts of a window, and one expert fetched for the next layer.

    A missing expert costs the GPU its copy, a resident one its computation. Every `window` passes the `swaps` missing experts
    of a layer with most tokens change places with the residents with fewest, and counting begins anew. While a layer runs, the
    missing expert of the next one that is predicted to get most tokens is fetched. Source: DALI, arXiv:2602.03495 (assignment,
    window, a gate whose input a mean residual corrects). Inferred: a swap takes place only for more tokens; its window and
    number of swaps (about 4 tokens; 1, 2 or 4 in a port); the corrected gate's recall; a fetched expert is dropped after its
    layer; fetches for a layer that have not landed count for the GPU's side. Left out: the 4.5 % of the time that scheduling
    takes. Valid: a fetch ahead pays where the link would be idle; where the assignment keeps it busy, it takes the place of a
    copy that is asked for, on a worse guess, and where a copy takes longer than a layer it delays the next one.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("predictor",), when={"prefetch": False}),
    )

    kind: Literal["dali"] = "dali"
    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory; as many as fit if not given."""
    window: int = Field(4, ge=1)
    """w, passes between two exchanges."""
    swaps: int = Field(2, ge=0)
    """u, experts of a layer that change places."""
    prefetch: bool = True
    """Whether an expert of the next layer is fetched."""
    predictor: Gate = Gate()
    """The gate of the next layer on the corrected input of this one's."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    runtime: ClassVar[str] = "ktransformers-0.2"
    source: ClassVar[str] = "DALI (arXiv:2602.03495)"

    @property
    def foresight(self) -> Foresight | None:
        """That of the gate."""
        return self.predictor.foresight(1) if self.prefetch else None

    def deploy(self, problem: Problem) -> Deployment:
        """Equally many experts of every layer, by the profile."""
        require_cpu(problem)
        cut, size = self.cut(problem, movable=True), problem.model.expert_bytes
        room = int(max(problem.gpu_free(cut), 0.0) // size)
        reserve = min(_BUFFERS, room) * size if self.prefetch else 0.0
        memory = _Memory(np.zeros((problem.layers, problem.experts), dtype=np.int64), np.zeros(problem.layers, dtype=np.int64))
        choice = quota(problem.popularity, self.capacity)
        return replace(place(problem, resident=choice, cut=cut, movable=True, reserve=reserve), state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The assignment, and the copy for the next layer behind it."""
        here = in_gpu_memory(visit, view)
        queue = str(view.problem.costs.path(view.problem.main_memory, view.problem.gpu_tier).queue)
        coming = view.in_flight[visit.layer] & (visit.counts > 0)
        busy = min(view.backlog.get(queue, 0.0), float(visit.copy[coming].sum()))
        on_cpu = assign(np.flatnonzero(visit.counts), np.where(here, visit.gpu, visit.copy), visit.cpu, busy)
        plain = to_cpu_where(on_cpu, visit, view)
        return plain if not self.prefetch else plain._replace(moves=self._ahead(visit, view))

    def _ahead(self, visit: Visit, view: View) -> Moves | None:
        """The missing expert of the next layer with most predicted tokens."""
        counts, target = visit.ahead(1), visit.layer + 1
        memory: _Memory = view.state
        if counts is None or target in memory.fetched or view.free_slots < 1:
            return None
        missing = counts * ~(view.resident[target] | view.in_flight[target])
        best = int(by_tokens(missing)[0])
        if not missing[best]:
            return None
        memory.fetched[target] = best
        return Moves(load=pairs_of(target, np.array([best])))

    def adapt(self, step: Step, view: View) -> Moves:
        """Drops what was fetched for the layer; exchanges at the end of a window."""
        memory: _Memory = view.state
        layer, fetched = step.layer, memory.fetched.pop(step.layer, None)
        drop = np.array([] if fetched is None else [fetched], dtype=np.int64)
        memory.scores[layer] += step.counts
        memory.passes[layer] += 1
        load = drop[:0]
        if memory.passes[layer] == self.window:
            worst, load = self._exchanged(layer, view, memory, drop)
            drop = np.concatenate((drop, worst))
            memory.scores[layer], memory.passes[layer] = 0, 0
        if not len(drop):
            return NO_MOVES
        return Moves(evict=pairs_of(layer, drop), load=pairs_of(layer, load) if len(load) else None)

    def _exchanged(self, layer: int, view: View, memory: _Memory, fetched: IntArray) -> tuple[IntArray, IntArray]:
        """(residents that leave, missing experts that come), as many of each."""
        scores, cached = memory.scores[layer], view.resident[layer].copy()
        cached[fetched] = False
        missing, held = np.flatnonzero(~cached & ~view.in_flight[layer]), np.flatnonzero(cached)
        best = missing[np.argsort(-scores[missing], kind="stable")[: self.swaps]]
        worst = held[np.argsort(scores[held], kind="stable")[: len(best)]]
        better = int(np.count_nonzero(scores[best[: len(worst)]] > scores[worst]))
        best = best[:better]
        return worst[:better], best[~np.isin(best, fetched)] if better else best
