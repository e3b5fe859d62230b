"""SGLang's experts in managed memory: kernels read those that GPU memory does not hold over the link, in place.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Serial, Step, View, Visit
from moesim.policies.kit.dispatch import upload_missing
from moesim.policies.kit.layer_costs import expected_counts
from moesim.policies.kit.migration import Terms, exchanges
from moesim.policies.kit.placement import SizedPolicy, place, quota
from moesim.units import Share

__all__ = ["SglangManaged"]

_LONG = 1e9
"""Periods over which a move pays itself back: use alone decides."""


@dataclass
class _Memory:
    """What the policy remembers."""

    uses: FloatArray
    """[L, E] moving average of passes in which an expert had tokens; starts at the profile, which breaks ties."""
    slots: int
    """Experts in GPU memory."""
    passes: int = 0


class SglangManaged(SizedPolicy):
    """Residents by use; the GPU computes all experts and reads the others over the link in place, and nothing of them stays.

    Pages of residents prefer GPU memory, all others the host, mapped for the GPU; none moves on touch, so that a miss takes no
    room, and its next use crosses again. Every `period` passes residents are ranked anew by their use: an expert
    that was used more moves in for one that was used less, while the passes run.
    Source: sgl-project/sglang pull request 20126 (closed, March 2026): resident by frequency, adaptive residency by counts; its
    flags and results were not seen. Inferred: the average, `period`, `moves` and `hysteresis`; a read in place is timed as a
    copy at the runtime's rate beside which nothing runs, and crosses once, however many rows the kernel has. Left out:
    prefetching the pages of predicted experts; that a read needs no set-up, which is charged as a copy's.
    Valid: one block of rows per expert; with more of them a kernel may read its weights once for each.
    """

    kind: Literal["sglang_managed"] = "sglang_managed"
    adaptive: bool = True
    """Whether residents follow use; off, they stay as the profile says."""
    period: int = Field(16, ge=1)
    """Passes after which residents are ranked anew."""
    moves: int = Field(8, ge=1)
    """Most experts that move in per period."""
    alpha: Share = 0.05
    """Weight of a pass in the moving average."""
    hysteresis: float = Field(0.2, ge=0)
    """Share by which the use of one that moves in must exceed that of the one whose place it takes."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "pass"
    runtime: ClassVar[str] = "sglang-managed"
    source: ClassVar[str] = "sgl-project/sglang pull request 20126"

    def deploy(self, problem: Problem) -> Deployment:
        """Equally many popular experts of each layer, masters of all in the host."""
        policy = self if self.staging is not None else self.model_copy(update={"staging": 1})
        cut = policy.cut(problem, movable=True).piped(Serial())
        deployment = place(problem, resident=quota(problem.popularity), cut=cut, movable=True)
        chance, _ = expected_counts(cut.batch, problem.model.top_k * problem.popularity)
        return replace(deployment, state=_Memory(chance + problem.popularity, int(deployment.resident.sum())))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """All on the GPU."""
        return upload_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Counts a pass, and ranks residents anew after a period."""
        memory: _Memory = view.state
        memory.uses += self.alpha * ((step.counts > 0) - memory.uses)
        memory.passes += 1
        if not self.adaptive or memory.passes % self.period:
            return NO_MOVES
        held = view.resident | view.in_flight
        terms = Terms(_LONG, 0.0, self.moves, self.hysteresis)
        flat = (memory.uses.ravel(), np.ones(held.size), held.ravel(), view.resident.ravel(), memory.slots)
        load, drop = exchanges(*flat, terms)
        load = load[~view.in_flight.ravel()[load]]
        return Moves(evict=_pairs(drop, held), load=_pairs(load, held))


def _pairs(experts: IntArray, shape_of: np.ndarray) -> IntArray:
    """[n, 2] (layer, expert) of flat indices."""
    return np.column_stack(np.divmod(experts, shape_of.shape[1]))
