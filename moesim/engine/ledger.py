"""Sums over visits: who computed what, what moved, what was hit.

Adds up while the engine runs and writes into the recorder; takes no decision.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.engine.operations import Operations
from moesim.engine.prelude import Prelude
from moesim.engine.tables import Placement, queue_of, usage_of
from moesim.engine.visits import VisitWork, Workbench
from moesim.policies.base import FloatArray, IntArray
from moesim.policies.problem import Problem
from moesim.results.recorder import Recorder

__all__ = ["Ledger"]


class Ledger:
    """Running sums of one run. Arrays are [L, E]; times in ps."""

    def __init__(
        self, problem: Problem, placement: Placement, bench: Workbench, recorder: Recorder, operations: Operations
    ) -> None:
        self._problem, self._placement, self._recorder, self._operations = problem, placement, recorder, operations
        shape = (problem.layers, problem.experts)
        self._uploads: IntArray = np.zeros(shape, dtype=np.int64)
        self._runs = {side.index: np.zeros(shape, dtype=np.int64) for side in bench.sides}
        self._odd_uploads: FloatArray = _NOTHING
        """[kinds] uploads of copies that are not the stored ones."""
        self._odd_runs: dict[int, FloatArray] = dict.fromkeys(self._runs, _NOTHING)
        self._sides = {side.index: side for side in bench.sides}
        self._down = bench.down
        self._read_back = 0.0
        self._activation = dict.fromkeys(self._sides, 0.0)

    def visits(self, work: VisitWork, counts: IntArray, layers: IntArray) -> None:
        """Adds visits with `counts` [V, E] of MoE layers `layers` [V]."""
        sums, recorder = self._recorder.layers, self._recorder
        _scatter(recorder.breakdown.tokens, layers, counts)
        if work.missed.any():
            _scatter(recorder.breakdown.missed, layers, work.missed)
        asked = None if work.kinds is None else np.array([nbytes for _, nbytes in self._placement.kinds()])[work.kinds]
        self._operations.experts(work, counts, layers, asked)
        if work.kinds is None:
            _scatter(self._uploads, layers, work.up)
        else:
            self._odd_uploads = _added(self._odd_uploads, self._placement.kind_sums(work.up, work.kinds))
        _scatter(sums.visits, layers, 1)
        _scatter(sums.activations, layers, counts.sum(axis=1))
        _scatter(sums.hits, layers, work.hits)
        _scatter(sums.distinct, layers, np.count_nonzero(counts, axis=1))
        _scatter(sums.uploads, layers, work.uploads)
        tokens = recorder.expert_tokens
        gpu = self._problem.system.gpu_name
        tokens[gpu] = tokens.get(gpu, 0) + int(work.gpu_tokens.sum())
        self._read_back += work.id_bytes
        for part in work.sides:
            if work.kinds is None:
                _scatter(self._runs[part.side.index], layers, part.runs)
            else:
                odd = self._placement.kind_sums(part.runs, work.kinds)
                self._odd_runs[part.side.index] = _added(self._odd_runs[part.side.index], odd)
            self._activation[part.side.index] += float(part.nbytes.sum())
            tokens[part.side.name] = tokens.get(part.side.name, 0) + int(part.tokens.sum())
        recorder.layer_visits += len(layers)

    def closed(
        self, work: VisitWork, critical: Mapping[str, IntArray], rows: IntArray, layers: IntArray, gpu: str, up_queue: str
    ) -> None:
        """Adds lane time and critical path of the visits `rows` of `work` (of MoE layers `layers`), timed in closed form."""
        on_gpu = work.gpu_first[rows].sum() + work.gpu_after[rows].sum()
        self.add(self._recorder.busy, {gpu: on_gpu, up_queue: work.copy[rows].sum()})
        for part in work.sides:
            self.add(
                self._recorder.busy, {queue_of(part.side.out): part.out[rows].sum(), part.side.name: part.work[rows].sum()}
            )
            self.add(self._recorder.busy, {queue_of(part.side.back): part.back[rows].sum()})
        if work.down_queue:
            self.add(self._recorder.busy, {work.down_queue: work.ids[rows].sum()})
        self.add(self._recorder.critical, {lane: share[rows].sum() for lane, share in critical.items()})
        for lane, share in critical.items():
            self._recorder.breakdown.hold("experts", lane, layers, share[rows])

    def critical(self, shares: Mapping[str, int], part: str, layer: int | None) -> None:
        """Adds lane -> ps of the critical path: in a part of a MoE layer (`attention`, `experts`), or behind all (None)."""
        self.add(self._recorder.critical, shares)
        if layer is None:
            return
        for lane, time in shares.items():
            self._recorder.breakdown.hold(part, lane, layer, time)

    @staticmethod
    def add(sums: dict[str, int], more: Mapping[str, int]) -> None:
        """Adds lane times to lane times."""
        for lane, time in more.items():
            sums[lane] = sums.get(lane, 0) + int(time)

    def prelude(self, prelude: Prelude) -> None:
        """Adds the bytes of the transfers around attention."""
        for chain, _ in prelude.chains:
            for stage in chain.sides():
                if stage.usage:
                    cause = "kv" if "KV" in stage.name or stage.name == "attention" else "activation"
                    self._recorder.count_move(stage.usage, max(stage.usage.values()), cause)

    def flush(self) -> None:
        """Turns counts into bytes by where the copies lay; before homes change, and at the end."""
        kinds = self._placement.kinds()
        uploads = _added(self._placement.kind_sums(self._uploads), self._odd_uploads)
        self._odd_uploads = _NOTHING
        for (tier, nbytes), number in zip(kinds, uploads.tolist(), strict=True):
            if number:
                path = self._problem.costs.path(tier, self._problem.gpu_tier)
                self._recorder.count_move(usage_of(path.usage, nbytes * number), nbytes * number, "demand")
        self._uploads[:] = 0
        if self._read_back and self._down is not None:
            self._recorder.count_move(usage_of(self._down.usage, self._read_back), self._read_back, "routing")
            self._read_back = 0.0
        for index, runs in self._runs.items():
            self._flush_side(index, kinds, _added(self._placement.kind_sums(runs), self._odd_runs[index]))
            runs[:] = 0
            self._odd_runs[index] = _NOTHING

    def _flush_side(self, index: int, kinds: list[tuple[str, float]], runs: np.ndarray) -> None:
        side, recorder = self._sides[index], self._recorder
        near_data = index in self._problem.ndp_index.values()
        for (tier, nbytes), number in zip(kinds, runs.tolist(), strict=True):
            if number and not near_data:
                reach = self._problem.costs.reach(side.name, tier)
                for resource, drawn in usage_of(reach.usage, nbytes * number).items():
                    recorder.moved[resource] = recorder.moved.get(resource, 0.0) + drawn
        sent = self._activation[index]
        if sent:
            recorder.count_move(usage_of(side.out.usage, sent), sent, "activation")
            recorder.count_move(usage_of(side.back.usage, sent), sent, "activation")
            self._activation[index] = 0.0


_NOTHING: FloatArray = np.zeros(0)


def _added(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sum of two vectors over kinds, of which there may be more now than there were."""
    total = np.zeros(max(len(a), len(b)))
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def _scatter(target: IntArray, layers: IntArray, values: np.ndarray | int) -> None:
    """Adds `values` [V, ...] to the rows `layers` [V] of `target`: one row, or all layers in order with G groups each."""
    if len(layers) == 1:
        target[layers[0]] += values if isinstance(values, int) else values[0]
    elif isinstance(values, int):
        target += values * (len(layers) // len(target))
    else:
        target += values.reshape(len(target), -1, *values.shape[1:]).sum(axis=1)
