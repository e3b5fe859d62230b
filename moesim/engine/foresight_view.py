"""Fills in what policies with a declared foresight may know: predictions blurred by their recall, or the whole run for bounds.

The only place where the routing of later layers meets a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Foreseen, Foresight, Future, Problem, blurred
from moesim.engine.passes import Pass
from moesim.workload.table import Job, RoutingTable

__all__ = ["Oracle", "Seer", "hindsight"]


class Seer:
    """Predictions of later layers of the pass that runs; the same question always gets the same answer.

    All layers of a pass are foreseen at once, as soon as any is asked for: so what is seen depends on no order of questions.
    """

    def __init__(self, problem: Problem, foresight: Foresight) -> None:
        self.foresight = foresight
        self._popularity = problem.popularity
        self._seed = int(problem.foresight.integers(2**62))
        self._pass: Pass | None = None
        self._known: dict[tuple[int, int], IntArray] = {}
        """(depth, group) -> [L, E] of the pass that runs."""

    def of(self, step: Pass, layer: int, group: int) -> Foreseen:
        """What is seen from MoE layer `layer` by the sequences of `group`; -1 for all of them together."""
        return partial(self._ahead, step, layer, group)

    def of_all(self, step: Pass) -> Foreseen:
        """What is seen by each of the V visits of a pass: [V, E], without a token past the last layer."""
        return partial(self._all_ahead, step)

    def _all_ahead(self, step: Pass, depth: int) -> IntArray:
        seen = np.zeros_like(step.counts)
        for group in range(step.counts.shape[1]):
            seen[: max(len(seen) - depth, 0), group] = self._known_layers(step, depth, group)[depth:]
        return seen.reshape(-1, seen.shape[2])

    def _ahead(self, step: Pass, layer: int, group: int, depth: int) -> IntArray | None:
        target = layer + depth
        if target >= len(step.counts) or depth < 1 or layer < 0:
            return None
        seen: IntArray = self._known_layers(step, depth, group)[target].copy()
        return seen

    def _known_layers(self, step: Pass, depth: int, group: int) -> IntArray:
        """[L, E] what is seen of each layer of a pass, drawn once."""
        if step is not self._pass:
            self._pass = step
            self._known.clear()
        if (depth, group) not in self._known:
            self._known[depth, group] = self._foreseen(step, group, depth)
        return self._known[depth, group]

    def _foreseen(self, step: Pass, group: int, depth: int) -> IntArray:
        """[L, E] what is seen `depth` layers before each layer; nothing of blind ones and of those that no layer sees."""
        counts = step.counts.sum(axis=1) if group < 0 else step.counts[:, group]
        draw = np.random.SeedSequence(self._seed, spawn_key=(step.index, depth, group + 1))
        rng = np.random.Generator(np.random.PCG64(draw))
        first, layers = max(depth, self.foresight.blind_layers), len(counts)
        recall = np.array([self.foresight.of_layer(target, layers, depth) for target in range(first, layers)])
        seen = np.zeros(counts.shape, dtype=np.int64)
        seen[first:] = blurred(counts[first:], recall, self._popularity[first:], rng)
        return seen


def hindsight(job: Job, routing: RoutingTable) -> FloatArray:
    """[L, E] share of a layer's activations that each expert gets over the whole job."""
    decodes = np.maximum(job.output - 1, 0)
    requests = np.repeat(np.arange(job.requests), decodes)
    positions = np.arange(len(requests)) - np.repeat(np.cumsum(decodes) - decodes, decodes)
    total = routing.prefill_counts(np.arange(job.requests)) + routing.mixed_counts(requests, positions)
    return np.asarray(total / total.sum(axis=1, keepdims=True), dtype=np.float64)


class Oracle:
    """The whole run as a `Future`, and where in it the run is."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._first: dict[int, int] = {}
        rounds: list[IntArray] = []
        for step in passes:
            self._first[step.index] = len(rounds)
            rounds += [step.counts[:, group] for group in range(step.counts.shape[1])]
        self.future = Future(rounds)

    def move(self, step: Pass, layer: int, group: int) -> None:
        """The visit of MoE layer `layer` by `group` of this pass begins."""
        self.future.move(self._first[step.index], step.counts.shape[1], group, layer)
