"""Predictors that compare the sequence that runs with sequences or tokens met before: activation matrices and expert maps.

Know counts per layer and visit; a batch that runs together counts as one sequence.

Short names: L MoE layers, E experts per layer, N stored traces.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem, Visit
from moesim.policies.kit.history import Rows
from moesim.policies.kit.predictors import Mind, Predictor
from moesim.units import Duration

__all__ = ["ExpertMap", "MapMind", "Sequence", "SequenceMind", "Store"]

_PER_CELL = 1e-10
"""Seconds per number compared: 4 bytes each, streamed at 40 GB/s by a few cores."""
_UNSEEN = 1e-8
"""Weight of experts that a stored matrix has never seen. Source: MoE-Infinity's code."""


class Store:
    """Up to `capacity` traces of [L, E] shares, compared with a running one layer by layer: O(N E) per visit, not O(N L E).

    `by_layer` compares layers each for itself and takes the mean; otherwise all layers so far are one vector.
    """

    def __init__(self, capacity: int, first: FloatArray, *, by_layer: bool, visits: int = 0) -> None:
        """`visits`: about how many layers it will be compared with."""
        layers, experts = first.shape
        self._by_layer = by_layer
        self._shares = Rows(np.zeros((layers, experts, capacity)), visits)
        """[L, E, N]"""
        self._squares = np.zeros((layers + 1, capacity))
        """[L + 1, N] sums of squares of the first layers of each trace."""
        self._dots, self._square = np.zeros(capacity), 0.0
        self._merged = np.zeros(capacity, dtype=np.int64)
        """[N] traces that each stored one is the mean of."""
        self.capacity, self.size, self._layers = capacity, 0, 0
        self.put(first)

    def put(self, trace: FloatArray, at: int | None = None, *, merge: bool = False) -> None:
        """Stores `trace` [L, E], in place of trace `at`, as one more of its kind (`merge`), or as a new one.

        Traces that were merged are stored as their mean, each layer of unit length: k-means by cosine, one trace at a time.
        """
        place = self.size if at is None else at
        self.size = max(self.size, place + 1)
        scaled = _unit(trace) if self._by_layer else trace
        self._merged[place] = self._merged[place] + 1 if merge else 1
        if merge:
            count = self._merged[place]
            scaled = ((count - 1) * self._shares.values[:, :, place].astype(np.float64) + scaled) / count
            scaled = _unit(scaled) if self._by_layer else scaled
        self._shares.values[:, :, place] = scaled
        self._squares[1:, place] = np.cumsum((scaled * scaled).sum(axis=1))

    @property
    def full(self) -> bool:
        """Whether the next trace has to take another one's place."""
        return self.size == self.capacity

    def restart(self) -> None:
        """The comparison begins anew, with no layer."""
        self._dots[:] = 0.0
        self._square, self._layers = 0.0, 0

    def compare(self, layer: int, row: FloatArray) -> None:
        """Layer `layer` of the running trace, `row` [E]; layers come in order."""
        if self._by_layer:
            row = row / max(float(np.sqrt((row * row).sum())), 1e-30)
        self._dots[: self.size] += self._shares.weighted(layer, row, self.size)
        self._square += float((row * row).sum())
        self._layers = layer + 1

    def similarity(self) -> FloatArray:
        """[size] mean cosine over the layers compared, or the cosine of all of them; 0 before the first."""
        dots = self._dots[: self.size]
        if not self._layers:
            return np.zeros(self.size)
        if self._by_layer:
            return np.asarray(dots / self._layers)
        return np.asarray(dots / np.maximum(np.sqrt(self._squares[self._layers, : self.size] * self._square), 1e-30))

    def shares(self, number: int, layers: slice | int) -> FloatArray:
        """[..., E] shares of each layer's tokens in trace `number`."""
        rows = self._shares.values[layers, :, number].astype(np.float64)
        return np.asarray(rows / np.maximum(rows.sum(axis=-1, keepdims=True), 1e-30))

    def nearest_to(self, trace: FloatArray) -> int:
        """The number of the stored trace that is most like `trace` [L, E], layer by layer, over all layers."""
        likeness = sum(
            self._shares.weighted(layer, row, self.size).astype(np.float64) for layer, row in enumerate(_unit(trace))
        )
        return int(np.argmax(likeness))


def _unit(trace: FloatArray) -> FloatArray:
    """`trace` [L, E] with every layer of length 1."""
    return np.asarray(trace / np.maximum(np.sqrt((trace * trace).sum(axis=1, keepdims=True)), 1e-30))


class Sequence(Predictor):
    """The stored sequence whose activation matrix is most like the running one's says what comes.

    A sequence's matrix [L, E] counts its tokens since its prompt. At each layer it is compared, over the layers of this pass so
    far, by the mean of 1 - cosine; the nearest one's counts score later layers, less with each layer of distance:
    (m + 1e-8) (1 - d / (L + 1)). A sequence that has ended is stored; in a full store it joins the cluster of the most similar
    one (`full: cluster`, the paper's k-means over matrices) or takes its place (`full: replace`, the released code).
    Source: MoE-Infinity, arXiv:2401.14361, and EfficientMoE/MoE-Infinity (1,000 matrices, scores).
    Inferred: the store starts with the profile, where the paper clusters traces of a data set; clusters grow by one sequence at
    a time; a batch is one sequence; what a comparison costs.
    """

    kind: Literal["sequence"] = "sequence"
    capacity: int = Field(default=1000, ge=1)
    """Matrices stored (published: 1,000)."""
    full: Literal["cluster", "replace"] = "cluster"
    """What a sequence that has ended does when the store is full: it joins the cluster of the nearest one, or replaces it."""
    per_cell: Duration = _PER_CELL
    """CPU time for each stored number that a comparison reads: capacity x layers x experts of them at most."""

    def start(self, problem: Problem) -> Mind:
        return SequenceMind(self, problem)


class SequenceMind(Mind):
    """The running matrix and the stored ones."""

    def __init__(self, spec: Sequence, problem: Problem) -> None:
        shape = problem.layers, problem.experts
        self.matrix: FloatArray = np.zeros(shape)
        """[L, E] tokens of the running sequence."""
        self.store = Store(spec.capacity, problem.popularity, by_layer=True, visits=problem.least_visits)
        self._cluster = spec.full == "cluster"
        self._per_cell = spec.per_cell * problem.layers * problem.experts
        self._nearest: int | None = None
        self._matched: tuple[int, FloatArray] | None = None
        """The stored matrix that was nearest last, and its shares [L, E]."""
        layers = np.arange(len(self.matrix))
        distance = (layers - layers[:, None] - 1) % len(layers) + 1
        self.decay = (1.0 - distance / (len(layers) + 1))[:, :, None]
        """[L, L, 1] by how much a layer counts, seen from another."""

    def meet(self, visit: Visit) -> None:
        self.met(visit.layer, visit.phase, visit.counts)

    def met(self, layer: int, phase: str, counts: IntArray) -> None:
        """A visit of `layer` with `counts` [E] tokens, in a pass of that `phase`."""
        if layer == 0:
            self._begin(phase)
        self.matrix[layer] += counts
        self.store.compare(layer, self.matrix[layer])
        self._nearest = None
        self.seconds = self._per_cell * self.store.size

    def _begin(self, phase: str) -> None:
        """A new pass; a prompt is a new sequence."""
        self.store.restart()
        if phase != "prefill":
            return
        if self.matrix.any():
            nearest = self.store.nearest_to(self.matrix) if self.store.full else None
            self.store.put(self.matrix, nearest, merge=self._cluster and nearest is not None)
            self._matched = None
            self.matrix[:] = 0.0

    def outlook(self, layer: int) -> FloatArray:
        """[L, E] scores seen from `layer`: the layers after it in this pass, then the others, in the pass after it."""
        return np.asarray(self.nearest_shares() * self.decay[layer])

    def nearest_shares(self) -> FloatArray:
        """[L, E] shares of each layer's tokens in the stored matrix that is most like the running one."""
        if self._nearest is None:
            self._nearest = int(self.store.similarity().argmax())
        if self._matched is None or self._matched[0] != self._nearest:
            self._matched = self._nearest, self.store.shares(self._nearest, slice(None)) + _UNSEEN
        return self._matched[1]

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        target = visit.layer + depth
        return self.outlook(visit.layer)[target] if target < len(self.matrix) else None


class ExpertMap(Predictor):
    """The stored token whose experts so far are most like the running one's says what comes; less alike, more is expected.

    The first layers are predicted by the map of the last pass, layers from `distance` on by the stored map that is most like
    this pass so far (cosine of all layers as one vector). Of a map's shares the longest beginning whose sum stays within 1 -
    similarity is expected, but at least k experts. A full store gives up the map most like the new one.
    Source: FineMoE, arXiv:2502.05370, and IntelliSys-Lab/FineMoE-EuroSys26 (1,000 maps, search, number of experts,
    replacement). Inferred: shares of tokens stand for gate probabilities, so a lone token's map has k equal entries; the last
    pass stands for the map with the most similar embedding, and replacement goes by experts alone, for the simulator has no
    embeddings; a prompt is one map, and so is a batch; the store starts with the profile; what a search costs.
    """

    kind: Literal["map"] = "map"
    capacity: int = Field(default=1000, ge=1)
    """Maps stored (published: 1,000)."""
    distance: int = Field(default=6, ge=1)
    """Layers that are predicted by the last pass (published for Qwen1.5-MoE: 6)."""
    cost: Duration = 0.0
    """Time until a visit's predictions are known; the search runs beside the layers."""

    def start(self, problem: Problem) -> Mind:
        return MapMind(self, problem)


class MapMind(Mind):
    """The map of this pass so far, that of the last one, and the stored ones."""

    definite = True

    def __init__(self, spec: ExpertMap, problem: Problem) -> None:
        self.seconds = spec.cost
        self._distance, self._top_k = spec.distance, problem.model.top_k
        self._profile = problem.popularity
        self._map: FloatArray = np.zeros_like(problem.popularity)
        self._last: FloatArray = problem.popularity
        self._dot = self._square = self._last_square = 0.0
        self.store = Store(spec.capacity, problem.popularity, by_layer=False, visits=problem.least_visits)
        self._nearest: tuple[int, float] | None = None
        self.matched: FloatArray = problem.popularity.copy()
        """[L, E] shares of the map that each layer was last predicted by."""

    def meet(self, visit: Visit) -> None:
        layer = visit.layer
        if layer == 0:
            self._begin()
        row = visit.counts / float(visit.counts.sum())
        self._map[layer] = row
        self.store.compare(layer, row)
        last = self._last[layer]
        self._dot += float((last * row).sum())
        self._square += float((row * row).sum())
        self._last_square += float((last * last).sum())
        self._nearest = None
        if layer == len(self._map) - 1:
            alike = self.store.similarity()
            self.store.put(self._map, int(alike.argmax()) if self.store.full else None)

    def _begin(self) -> None:
        self.store.restart()
        if self._map.any():
            self._last = self._map.copy()
        self._dot = self._square = self._last_square = 0.0

    def scores(self, visit: Visit, depth: int) -> FloatArray | None:
        target = visit.layer + depth
        if target >= len(self._map):
            return None
        if target < self._distance:
            shares, alike = self._last[target], self._dot / max(np.sqrt(self._square * self._last_square), 1e-30)
        else:
            if self._nearest is None:
                similarity = self.store.similarity()
                number = int(similarity.argmax())
                self._nearest = number, float(similarity[number])
            shares, alike = self.store.shares(self._nearest[0], target), self._nearest[1]
        self.matched[target] = shares
        return np.where(self._expected(shares, self._profile[target], alike), shares + _UNSEEN, 0.0)

    def _expected(self, shares: FloatArray, tie: FloatArray, alike: float) -> BoolArray:
        order = np.lexsort((-tie, -shares))
        within = int(np.searchsorted(np.cumsum(shares[order]), 1.0 - alike, side="right"))
        expected = np.zeros(len(shares), dtype=np.bool_)
        expected[order[: max(within, self._top_k)]] = True
        return expected
