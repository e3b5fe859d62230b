"""DAOP: the prompt decides which experts the GPU holds; in decode the CPU computes predicted experts a layer ahead.

Knows the profile, one visit, and what a gate predictor says of the next layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Foresight, Moves, Precomputed, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, in_order, threshold, to_cpu_where
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, place, quota, require_cpu
from moesim.units import Share

__all__ = ["Daop", "substituted"]


@dataclass
class _Memory:
    """What DAOP remembers."""

    entering: IntArray
    """Experts of the prompt's layer that runs which come into GPU memory, and those that they push out, pairwise."""
    leaving: IntArray
    predicted: list[IntArray | None]
    """[L] tokens per expert that the layer before predicted, in the pass that runs."""


class Daop(SizedPolicy):
    """Popular experts on the GPU, swapped once per prompt by its own counts; in decode the CPU computes few, a layer ahead.

    Prompt: the `swaps` most loaded experts of the CPU and the least loaded of the GPU change places where c_hot > 1.05 c_cold,
    the colder one copied home; each other missing expert runs where that takes less time alone. Decode, from layer `first` on:
    the gate of a layer is applied to what the experts of the layer before get, and what it says is used as the routing. At most
    k/2 experts of a token run on the CPU, on that earlier input and from that moment on, beside the GPU's experts of the layer
    before and the attention of their own; what is above goes to the experts in GPU memory. A layer ends when both have ended.
    Before `first`: true routing, missing experts on the CPU, and the GPU's experts after them. A wrong prediction costs no
    time, for nothing is computed again: the output pays for it (`quality`: replaced, stale).
    Source: DAOP, DATE 2025, arXiv:2501.10375, and ecolab-nus/DAOP (quota by calibration, swap, first predicted layer 5,
    prediction accuracy 84 %). Inferred: k/2 for more than two experts per token; the weaker of two predicted experts is the one
    with fewer tokens, then the less popular, and the substitute the most popular resident, in place of gate scores, which
    routing tables do not hold; this machine's times in place of 3.5 ms per token and 30 ms per expert (A6000 host); that swaps
    run beside the experts of their layer, and the next layer waits until they have left.
    Valid: made for one sequence at a time; `batch: 1` runs it so.
    """

    kind: Literal["daop"] = "daop"
    swaps: int = Field(8, ge=0)
    """Most pairs that change places per layer and prompt (published: 8)."""
    swap_factor: float = Field(1.05, ge=1)
    """How many times the tokens of the colder expert the hotter one needs (published: 1.05)."""
    first: int = Field(5, ge=1)
    """First MoE layer whose routing is predicted (published: 5); before it, CPU and GPU take turns."""
    staging: int | None = Field(3, ge=1)
    """Expert slots in GPU memory that copies in pass through and, one of them, copies home (each way at least one)."""
    recall: Share = 0.84
    """Share of (token, expert) pairs that are predicted right (published: 84 %)."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    sure_phases: ClassVar[tuple[str, ...]] = ("decode",)
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "DAOP (DATE 2025, arXiv:2501.10375)"

    @property
    def foresight(self) -> Foresight | None:
        """The next layer's gate."""
        return Foresight(recall=(self.recall,), seconds=0.0, blind_layers=0)

    def deploy(self, problem: Problem) -> Deployment:
        """Equally many popular experts of each layer."""
        require_cpu(problem)
        memory = _Memory(_NOBODY, _NOBODY, [None] * problem.layers)
        cut = self.cut(problem, movable=True)
        cut = replace(cut, staging=max(cut.staging, 2), decode=replace(cut.decode, pipeline=Precomputed(turns=self.first)))
        deployment = place(problem, resident=quota(problem.popularity), cut=cut, movable=True)
        return replace(deployment, plan=replace(cut, staging=cut.staging - 1, swap=1), state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """By phase."""
        memory: _Memory = view.state
        if visit.phase == "prefill":
            return self._prompt(visit, view, memory)
        if visit.layer + 1 >= self.first:
            ahead = visit.ahead(1)
            if ahead is not None:
                memory.predicted[visit.layer + 1] = ahead
        routing = memory.predicted[visit.layer] if visit.layer >= self.first else None
        if routing is None:
            here = in_gpu_memory(visit, view)
            return to_cpu_where(~here & np.isfinite(visit.cpu), visit, view)
        return self._predicted(routing, visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """Those that were swapped in stay."""
        memory: _Memory = view.state
        if step.phase != "prefill" or not len(memory.entering):
            return NO_MOVES
        return Moves(memory.entering, pairs_of(step.layer, memory.leaving))

    def _prompt(self, visit: Visit, view: View, memory: _Memory) -> Dispatch:
        counts, resident = visit.counts, view.resident[visit.layer]
        order = by_tokens(counts)
        hot, cold = order[~resident[order]], order[resident[order]][::-1]
        pairs = min(len(hot), len(cold), self.swaps)
        hot, cold = hot[:pairs], cold[:pairs]
        swap = counts[hot] > self.swap_factor * counts[cold]
        memory.entering, memory.leaving = hot[swap], cold[swap]
        device = threshold(visit, view).device
        device[memory.entering] = view.problem.attending_index
        left = memory.leaving[visit.cpu[memory.leaving] <= (visit.copy + visit.gpu)[memory.leaving]]
        device[left] = view.problem.cpu_index
        return Dispatch(device, in_order(counts, resident))

    def _predicted(self, routing: IntArray, visit: Visit, view: View) -> Dispatch:
        problem = view.problem
        held = in_gpu_memory(visit, view) | ~np.isfinite(visit.cpu)
        limit = max(problem.model.top_k // 2, 1) * visit.tokens
        counts = substituted(routing, held, problem.popularity[visit.layer], limit, visit.tokens)
        device = np.where(held, problem.attending_index, problem.cpu_index)
        return Dispatch(device, by_tokens(counts), counts=counts, stale=np.where(held, 0, counts))


def substituted(counts: IntArray, held: BoolArray, score: FloatArray, limit: int, tokens: int) -> IntArray:
    """[E] tokens after those above `limit` on experts that are not `held` [E] have gone to experts that are.

    The experts with fewest tokens, then the lowest `score` [E], give theirs up first; the held ones with the highest score
    take them, none more than `tokens` in all, for a token asks an expert once. What finds no room stays.
    """
    surplus = int(counts[~held].sum()) - limit
    if surplus <= 0:
        return counts
    taken = counts.copy()
    weak = np.flatnonzero(~held & (counts > 0))
    strong = np.flatnonzero(held & (counts < tokens))
    weak, strong = weak[np.lexsort((score[weak], counts[weak]))], strong[np.argsort(-score[strong], kind="stable")]
    moved = min(surplus, int((tokens - counts[strong]).sum()))
    taken[weak] -= _filled(counts[weak], moved)
    taken[strong] += _filled(tokens - counts[strong], moved)
    return taken


def _filled(room: IntArray, amount: int) -> IntArray:
    """[n] how much of `amount` each takes when they fill up one after another."""
    before = np.cumsum(room) - room
    filled: IntArray = np.clip(amount - before, 0, room)
    return filled


_NOBODY: IntArray = np.zeros(0, dtype=np.int64)
