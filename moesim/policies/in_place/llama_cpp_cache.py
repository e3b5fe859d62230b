"""llama.cpp with an expert cache: hits run on the GPU, misses on the CPU, and a few admitted misses are copied behind the step.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import IntArray
from moesim.contract import BY_NAME, NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerLru, deploy_cached
from moesim.policies.kit.dispatch import by_tokens, cpu_missing, to_cpu_where, upload_missing
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import GpuKvPolicy, require_cpu

__all__ = ["LlamaCppCache"]


@dataclass
class _Memory:
    """What the cache remembers."""

    cache: LayerLru
    missed: IntArray
    """[L, E, a] the last steps in which an expert was missing, the latest last; a: misses that admit."""


class LlamaCppCache(GpuKvPolicy):
    """K slots per layer in GPU memory; after a step at most `inserts` of its misses per layer are copied in, the LRU leaves.

    The CPU computes what is missing, so no step waits for a copy. A copy on its way neither serves nor can be evicted. An
    expert is admitted once it has been missing `admit` times within `window` steps. Steps of more than `most_tokens` tokens
    pass the cache by: the CPU computes all of them, from `upload_from` tokens on everything missing is uploaded for the step.
    Source: ggml-org/llama.cpp, pull request 27861 (2 inserts, one token; the admission gate of its thread: 2 to 3 misses in
    16 to 32 steps) and the rule of `llama_cpp` for prompts. Inferred: the misses with most tokens come first; a first filling
    by the profile; that hits on the GPU and misses on the CPU follow each other (`pipeline: overlap` has them side by side).
    Left out: copies from pageable memory, which is for the runtime to say.
    """

    kind: Literal["llama_cpp_cache"] = "llama_cpp_cache"
    capacity: int | None = Field(None, ge=0)
    """K, expert slots of each layer; as many as fit if not given."""
    inserts: int = Field(2, ge=0)
    """I, copies that set out per layer and step (published: 2)."""
    admit: int = Field(1, ge=1)
    """Misses within the window that admit an expert; 1 admits at the first."""
    window: int = Field(16, ge=1)
    """Steps that a miss counts for."""
    most_tokens: int = Field(1, ge=1)
    """Tokens of the largest step that uses the cache (published: 1)."""
    upload_from: int = Field(32, ge=1)
    """Tokens in a pass from which missing experts are uploaded (published: 32)."""
    ubatch: int = Field(512, ge=1)
    """Tokens of a piece of the prompts (published: 512)."""
    pipeline: Literal["overlap", "serial"] = "serial"
    """Whether the GPU's hits and the CPU's misses run side by side."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    runtime: ClassVar[str] = "llama-cpp"
    source: ClassVar[str] = "ggml-org/llama.cpp pull request 27861"

    def deploy(self, problem: Problem) -> Deployment:
        """A cache per layer."""
        require_cpu(problem)
        cut, shape = self.cut(problem, movable=True, chunk=self.ubatch), (problem.layers, problem.experts)
        cut = cut.piped(BY_NAME[self.pipeline])
        deployment = deploy_cached(problem, cut, self.capacity, lambda capacity: LayerLru(capacity, *shape))
        never = np.full((*shape, self.admit), -self.window, dtype=np.int64)
        return replace(deployment, state=_Memory(deployment.state, never))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """By the tokens of the step."""
        if visit.tokens >= self.upload_from:
            return upload_missing(visit, view)._replace(order=None)  # by number: neighbours cross as one copy
        if visit.tokens <= self.most_tokens:
            return cpu_missing(visit, view)
        return to_cpu_where(np.isfinite(visit.cpu), visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Copies for admitted misses, against the residents used longest ago."""
        if step.counts.sum() > self.most_tokens * view.problem.model.top_k:
            return NO_MOVES
        memory: _Memory = view.state
        cache, layer, resident, coming = memory.cache, step.layer, view.resident[step.layer], view.in_flight[step.layer]
        used = step.counts > 0
        cache.clock += 1
        cache.keys[layer, used] = view.problem.experts + cache.clock
        missing = np.flatnonzero(used & ~resident & ~coming)
        missed = memory.missed[layer]
        missed[missing] = np.column_stack((missed[missing, 1:], np.full(len(missing), step.index)))
        entering = missing[missed[missing, 0] > step.index - self.window]
        entering = entering[by_tokens(step.counts[entering])[: self.inserts]]
        idle = np.flatnonzero(resident & ~used)
        free = max(int(cache.capacity[layer]) - int(np.count_nonzero(resident | coming)), 0)
        leaving = idle[np.argsort(cache.keys[layer, idle], kind="stable")[: max(len(entering) - free, 0)]]
        entering = entering[: free + len(leaving)]
        if not len(entering):
            return NO_MOVES
        return Moves(evict=pairs_of(layer, leaving) if len(leaving) else None, load=pairs_of(layer, entering))
