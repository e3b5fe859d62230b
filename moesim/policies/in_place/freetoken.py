"""FreeToken: the misses of a layer are split between PCIe and the CPU in proportion to what each moves per second.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, to_cpu_where, upload_missing
from moesim.policies.kit.expert_pool import Pool
from moesim.policies.kit.placement import SizedPolicy, overall, place, require_cpu
from moesim.units import Share

__all__ = ["FreeToken"]


@dataclass
class _Memory:
    """What FreeToken remembers."""

    pool: Pool
    share: float
    """q, share of the misses that cross PCIe."""


class FreeToken(SizedPolicy):
    """Of m missing experts round(q m) are fetched, the CPU computes the rest in place; q = B_pcie / (B_pcie + B_cpu).

    Fetched experts enter one LRU pool of all layers. Where the CPU moves no more than twice what PCIe does, everything missing
    is fetched. Prompts stream whole layers, which do not enter the pool. Source: FlashML-org/FreeToken (code) and
    arXiv:2608.16157. Inferred: the rates are those of one token through an expert, and of a copy, each alone, unless `share`
    is given (its bench measures them together: 18 % where alone they give 25 %); the misses with most tokens are fetched; the
    pool's ties. Left out: splitting GPU memory between the cache of keys and values and the pool anew at run time.
    """

    kind: Literal["freetoken"] = "freetoken"
    share: Share | None = None
    """q; by the machine's rates if not given."""
    both_from: float = Field(2.0, ge=0)
    """The CPU takes part if it moves more than so many times what PCIe does (published: 2)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    source: ClassVar[str] = "FreeToken (arXiv:2608.16157)"

    def deploy(self, problem: Problem) -> Deployment:
        """The pool, filled by the profile."""
        require_cpu(problem)
        cut, size = self.cut(problem, movable=True), problem.model.expert_bytes
        slots = int(max(problem.gpu_free(cut), 0.0) // size)
        deployment = place(problem, resident=overall(problem.popularity), cut=cut, movable=True)
        pool = Pool(slots, problem.popularity, flight=0)
        return replace(deployment, state=_Memory(pool, self._share(problem) if self.share is None else self.share))

    def _share(self, problem: Problem) -> float:
        """q by the rates of this machine; 1 where the CPU is left out."""
        size, tier = problem.model.expert_bytes, problem.main_memory
        cpu = size / float(problem.costs.cpu(1, tier))
        link = size / float(problem.costs.copy(size, tier, problem.gpu_tier))
        return link / (link + cpu) if cpu > self.both_from * link else 1.0

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The split of the misses."""
        memory: _Memory = view.state
        if visit.phase == "prefill":
            return upload_missing(visit, view, whole_layer=True)
        memory.pool.met(visit)
        missing = np.where(in_gpu_memory(visit, view), 0, visit.counts)
        count = int(np.count_nonzero(missing))
        on_cpu = (missing > 0) & np.isfinite(visit.cpu)
        on_cpu[by_tokens(missing)[: round(memory.share * count)]] = False
        return to_cpu_where(on_cpu, visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was fetched in decode; the least recently used leaves, of whatever layer."""
        memory: _Memory = view.state
        if step.phase == "prefill":
            return NO_MOVES
        return memory.pool.after(step, view, memory.pool.last.astype(np.float64))
