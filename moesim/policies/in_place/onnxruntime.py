"""onnxruntime's plan for experts that do not fit: counters that decay, one exchange per node and call, slots split anew.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import cpu_missing
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, fitting, place, require_cpu
from moesim.units import Share

__all__ = ["OnnxRuntime", "split"]


def split(counters: FloatArray, slots: int) -> BoolArray:
    """[L, E] the experts that hold `slots` slots: as many whole layers as fit, those with most in their `counters` [L, E], then
    the highest counters of the others; ties by layer, then by expert id.

    Source: microsoft/onnxruntime pull request 32738 (nodes that are wholly on the GPU first, then the counters kept).
    """
    experts = counters.shape[1]
    chosen = np.zeros(counters.shape, dtype=np.bool_)
    chosen[np.argsort(-counters.sum(axis=1), kind="stable")[: slots // experts]] = True
    left = np.flatnonzero(~chosen)
    rest = left[np.argsort(-counters.ravel()[left], kind="stable")[: max(slots - int(chosen.sum()), 0)]]
    chosen.ravel()[rest] = True
    return chosen


class OnnxRuntime(SizedPolicy):
    """Residents run on the GPU, the others on the CPU; after a layer at most one expert of it changes places by its counter.

    After each call cnt <- alpha cnt + beta if the expert was used, whatever its tokens; the highest counter on the CPU takes
    the slot of the lowest on the GPU where it is more than 1 + `margin` times that; the copy runs beside the layers, and the
    next call of the layer waits for it. After a pass the slots of all layers are split anew (`split`). Slots start equally many
    per layer with the lowest ids, for counters start at nothing.
    Source: microsoft/onnxruntime pull requests 32261 and 32738: a plan, for no kernel exists and nothing was measured.
    Inferred: alpha, beta and margin, which the plan leaves open. Valid: a long prompt uses nearly every expert, so that
    counters that do not count tokens say nothing after it.
    """

    kind: Literal["onnxruntime"] = "onnxruntime"
    experts: int | None = Field(None, ge=0)
    """Slots of all layers together (`session.moe_cpu_offload_experts` says how many are not); as many as fit if not given."""
    alpha: Share = 0.9
    """What is left of a counter after a call."""
    beta: float = Field(1.0, gt=0)
    """What a use adds."""
    margin: float = Field(0.1, ge=0)
    """eps, share by which a counter on the CPU must exceed one on the GPU."""
    resplit: bool = True
    """Whether slots are split anew after every pass."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "both"
    symmetric: ClassVar[bool] = False
    symmetric_reason: ClassVar[str] = "starts with the lowest expert ids"
    source: ClassVar[str] = "microsoft/onnxruntime pull requests 32261 and 32738"

    def deploy(self, problem: Problem) -> Deployment:
        """Slots in turn over layers, lowest ids."""
        require_cpu(problem)
        cut, shape = self.cut(problem, movable=True), (problem.layers, problem.experts)
        by_id = np.arange(problem.layers * problem.experts).reshape(shape[::-1]).T  # expert 0 of all layers, then expert 1
        order = np.argsort(by_id.ravel(), kind="stable")[: self.experts]
        deployment = place(problem, resident=lambda free, sizes: fitting(order, sizes, free), cut=cut, movable=True)
        return replace(deployment, state=np.zeros(shape))

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The mapping is frozen during the call."""
        return cpu_missing(visit, view)

    def adapt(self, step: Step, view: View) -> Moves:
        """One exchange after a layer, all slots after a pass."""
        counters: FloatArray = view.state
        if step.layer < 0:
            return self._split_anew(counters, view) if self.resplit else NO_MOVES
        row = counters[step.layer]
        row *= self.alpha
        row[step.counts > 0] += self.beta
        here, coming = view.resident[step.layer], view.in_flight[step.layer]
        missing, held = np.flatnonzero(~here & ~coming), np.flatnonzero(here)
        if not len(missing) or not len(held):
            return NO_MOVES
        best, worst = missing[np.argmax(row[missing])], held[np.argmin(row[held])]
        if not row[best] > (1.0 + self.margin) * row[worst]:
            return NO_MOVES
        return Moves(evict=pairs_of(step.layer, np.array([worst])), load=pairs_of(step.layer, np.array([best])))

    def _split_anew(self, counters: FloatArray, view: View) -> Moves:
        held = view.resident | view.in_flight
        target = split(counters, int(np.count_nonzero(held)))
        leaving, entering = np.argwhere(view.resident & ~target), np.argwhere(target & ~held)
        number = min(len(leaving), len(entering))
        return Moves(evict=leaving[:number], load=entering[:number]) if number else NO_MOVES
