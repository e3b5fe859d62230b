"""vLLM with CPU compute for misses: a capped admission into a cache per layer, and the CPU for all that is missing after it.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerLru, deploy_cached
from moesim.policies.kit.dispatch import in_gpu_memory, in_order
from moesim.policies.kit.placement import GpuKvPolicy, require_cpu

__all__ = ["VllmCpuMisses", "copied_in_prefill"]

_EXPERTS = 256
"""Experts per layer of the model that the published numbers of copies are for (DeepSeek-R1)."""


def copied_in_prefill(tokens: int, experts: int) -> int:
    """Experts of a layer of `experts` that a prefill of `tokens` tokens copies, used or not.

    Source: 80 below 1,024 tokens, 112 + 16 floor(T / 1000) up to 8,192, all beyond, of 256. Inferred: in proportion elsewhere.
    """
    if tokens > 8192:
        return experts
    published = 80 if tokens < 1024 else 112 + 16 * (tokens // 1000)
    return min(-(-published * experts // _EXPERTS), experts)


class VllmCpuMisses(GpuKvPolicy):
    """In decode at most `admit` missing experts per layer enter the cache and run on the GPU, the CPU computes the rest.

    Admitted are experts among the first `ranks` choices of any token, in the order of their ids; the slots that were matched
    longest ago give way. An admitted expert is used in the same pass, so the layer waits for its copy. Prefill copies the
    first n of the experts that are not resident, by id and used or not, into two buffers that take turns, and the CPU
    computes the rest. Source: wangyxbh/vllm (branch moeoffload, pull request 31938) and RFC 33869: K = 2, U = 2.
    Inferred: which experts are a token's first choices (those with most tokens, then the most popular: routing tables have no
    gate scores); a first filling by the profile, where the code takes the lowest ids; that buffers come first and the slots
    take what is left. Left out: copies for the next layer beside this one, two micro-batches in turn.
    """

    kind: Literal["vllm_cpu_misses"] = "vllm_cpu_misses"
    ranks: int = Field(2, ge=0)
    """K: choices of each token whose experts may enter (published: 2)."""
    admit: int = Field(2, ge=0)
    """U: experts that enter per layer and pass (published: 2)."""
    capacity: int | None = Field(None, ge=0)
    """C, expert slots of each layer; as many as fit beside the buffers if not given."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    symmetric: ClassVar[bool] = False
    symmetric_reason: ClassVar[str] = "copies experts in the order of their ids"
    runtime: ClassVar[str] = "vllm-0.19"
    source: ClassVar[str] = "vllm-project/vllm pull request 31938"

    def deploy(self, problem: Problem) -> Deployment:
        """A cache per layer beside two buffers for the experts of a layer that are not in it."""
        require_cpu(problem)
        cut = self.cut(problem, movable=True)
        slots = int(max(problem.gpu_free(cut), 0.0) // problem.model.expert_bytes)
        # C slots in each of L layers and 2 (E - C) in the buffers
        layers, experts = problem.layers, problem.experts
        fitting = (slots - 2 * experts) // (layers - 2) if layers > 2 else slots // (2 * layers)
        capacity = min(max(fitting, 0), experts) if self.capacity is None else self.capacity
        return deploy_cached(problem, cut, capacity, lambda sizes: LayerLru(sizes, layers, experts))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The GPU for what is or enters there, the CPU for the rest."""
        here = in_gpu_memory(visit, view)
        if visit.phase == "prefill":
            entering = np.zeros_like(here)
            entering[np.flatnonzero(~here)[: copied_in_prefill(visit.tokens, len(here))]] = True
            load = entering
        else:
            entering, load = self._admitted(visit, view, here), None
        on_cpu = ~here & ~entering & np.isfinite(visit.cpu)
        device = np.where(on_cpu, view.problem.cpu_index, view.problem.attending_index)
        return Dispatch(device, in_order(visit.counts, visit.resident), load)

    def _admitted(self, visit: Visit, view: View, here: BoolArray) -> BoolArray:
        """[E] missing experts that enter the cache in this visit."""
        entering = np.zeros_like(here)
        first = np.lexsort((-view.problem.popularity[visit.layer], -visit.counts))[: self.ranks * visit.tokens]
        among = np.sort(first[(visit.counts[first] > 0) & ~here[first]])
        room = int(view.state.capacity[visit.layer]) - int(np.count_nonzero(here & (visit.counts > 0)))
        entering[among[: max(min(self.admit, room), 0)]] = True
        return entering

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was admitted in decode."""
        if step.phase == "prefill":
            return NO_MOVES
        cache: LayerLru = view.state
        return cache.after_layer(step, view.resident[step.layer], int(np.count_nonzero(view.in_flight[step.layer])))
