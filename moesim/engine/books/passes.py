"""Turns what the engine counted in a pass into bytes, hits and shares of the critical path, and writes them into the recorder.

Adds up at the end of a pass; takes no decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.books.operations import ExpertWork, Operations
from moesim.engine.books.sums import VisitBooks
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visit_tables import Helper, VisitTables
from moesim.engine.programs.attention import Chain
from moesim.engine.programs.durations import Placement, usage_of
from moesim.engine.programs.pre_expert import Structure
from moesim.hardware.device import Phase
from moesim.results.recorder import Recorder

__all__ = ["Ledger", "PassSums"]


class PassSums(NamedTuple):
    """Of one pass: (token, expert) pairs, those whose weights were there, and uploads."""

    activations: int
    hits: int
    uploads: int


class Ledger:
    """Running sums of one run. Arrays are [L, E]; times in ps."""

    def __init__(
        self,
        problem: Problem,
        placement: Placement,
        tables: VisitTables,
        books: VisitBooks,
        recorder: Recorder,
        operations: Operations,
    ) -> None:
        self._problem, self._placement, self._tables, self._books = problem, placement, tables, books
        self._recorder, self._operations = recorder, operations

    def critical(self, shares: Mapping[str, int], part: str, layer: int | None) -> None:
        """Adds lane -> ps of the critical path: in a part of a MoE layer (`attention`, `experts`), or behind all (None)."""
        for lane, time in shares.items():
            self._recorder.critical[lane] = self._recorder.critical.get(lane, 0) + int(time)
            if layer is not None:
                self._recorder.breakdown.hold(part, lane, layer, time)

    def attention(self, structure: Structure) -> None:
        """Adds the bytes of the transfers around attention in one pass, and of weights other than routed experts."""
        layers = [*(layer for group in structure.layers for layer in group), *structure.trailing]
        moving = [[chain for chain in chains if any(stage.usage for stage in chain.sides())] for chains in structure.chains]
        for layer in layers:
            for chain in moving[layer.kind]:
                self._chain(chain)
        copies = [copy for layer in layers for copy in layer.copies]
        for copy in (*copies, *structure.head_copies, *structure.rows):
            self._recorder.count_moves(dict(copy.usage), copy.nbytes, "demand")

    def _chain(self, chain: Chain) -> None:
        for stage in chain.sides():
            if stage.usage:
                self._recorder.count_moves(stage.usage, max(stage.usage.values()), stage.cause)

    def close_pass(self, phase: Phase, lanes: Iterable[str]) -> PassSums:
        """Writes what the books hold of passes of a phase into the recorder, copies priced by where they lie now."""
        recorder, books = self._recorder, self._books
        books.turn_to(phase)
        visits, activations, hits, distinct, uploads = books.take(
            k.B_VISITS, k.B_ACTIVATIONS, k.B_HITS, k.B_DISTINCT, k.B_UPLOADS
        )
        sums = recorder.layers
        for total, more in (
            (sums.visits, visits), (sums.activations, activations), (sums.hits, hits), (sums.distinct, distinct),
            (sums.uploads, uploads),
        ):  # fmt: skip
            total += more
        recorder.layer_visits += int(visits.sum())
        tokens, missed = books.take(k.B_TOKENS, k.B_MISSED)
        recorder.breakdown.tokens += tokens.reshape(recorder.breakdown.tokens.shape)
        recorder.breakdown.missed += missed.reshape(recorder.breakdown.missed.shape)
        self._times(list(lanes))
        self._moves_and_work(phase, int(activations.sum()), int(visits.sum()), int(uploads.sum()))
        return PassSums(int(activations.sum()), int(hits.sum()), int(uploads.sum()))

    def _times(self, lanes: list[str]) -> None:
        """Times of layers, and what held them up meanwhile."""
        recorder, layers = self._recorder, self._problem.layers
        time, critical, trailing = self._books.take(k.B_TIME, k.B_CRITICAL, k.B_TRAILING)
        attention, experts = time.reshape(2, layers)
        recorder.layers.attention += attention
        recorder.layers.experts += experts
        held = critical.reshape(2, layers, k.MOST_LANES)
        all_layers = np.arange(layers)
        self.critical({lanes[number]: int(trailing[number]) for number in np.flatnonzero(trailing).tolist()}, "attention", None)
        for part, name in enumerate(("attention", "experts")):
            for number in np.flatnonzero(held[part].any(axis=0)).tolist():
                lane, times = lanes[number], held[part, :, number]
                recorder.critical[lane] = recorder.critical.get(lane, 0) + int(times.sum())
                recorder.breakdown.hold(name, lane, all_layers, times)

    def _moves_and_work(self, phase: str, activations: int, visits: int, uploads: int) -> None:
        """Bytes of uploads, of weights read in place and of activations; and what devices did."""
        problem, recorder, books, helpers = self._problem, self._recorder, self._books, self._tables.helpers
        kinds = self._placement.kinds()
        copies, runs, odd_copies, odd_runs, gpu, sides = books.take(
            k.B_COPIES, k.B_RUNS, k.B_ODD_COPIES, k.B_ODD_RUNS, k.B_GPU, k.B_SIDES
        )
        shape = (problem.layers, problem.experts)
        for (tier, nbytes), number in zip(kinds, self._by_kind(copies.reshape(shape), odd_copies).tolist(), strict=True):
            if number:
                path = problem.costs.path(tier, problem.gpu_tier)
                recorder.count_moves(usage_of(path.usage, nbytes * number), nbytes * number, "demand")
        if gpu[k.G_IDS] and self._tables.down is not None:
            read_back = float(gpu[k.G_IDS]) * self._tables.id_bytes
            recorder.count_moves(usage_of(self._tables.down.usage, read_back), read_back, "routing")
        by_device = runs.reshape(len(helpers) + 1, *shape)
        odd = odd_runs.reshape(len(helpers) + 1, -1)
        for place, helper in enumerate(helpers):
            self._helper(
                phase, helper, self._by_kind(by_device[place], odd[place]), sides[place * k.SIDE_BOOKS :][: k.SIDE_BOOKS]
            )
        name = problem.system.attending_gpu
        recorder.expert_tokens[name] = recorder.expert_tokens.get(name, 0) + int(gpu[k.G_TOKENS])
        read, shared = self._nbytes(self._by_kind(by_device[-1], odd[-1])), 0.0
        if not self._tables.shares_apart:
            read += visits * problem.model.shared_bytes
            shared = activations / max(problem.model.top_k, 1) * problem.model.shared_flops
        recorder.rounded += int(by_device[-1].sum()) + int(odd[-1].sum()) + uploads + visits
        self._operations.experts(phase, ExpertWork(name, int(gpu[k.G_TOKENS]), read, int(gpu[k.G_TIME]), shared))

    def _helper(self, phase: str, helper: Helper, runs: FloatArray, sums: IntArray) -> None:
        problem, recorder = self._problem, self._recorder
        tokens, sent_tokens, time = sums.tolist()
        if tokens:
            recorder.expert_tokens[helper.name] = recorder.expert_tokens.get(helper.name, 0) + tokens
        self._operations.experts(phase, ExpertWork(helper.name, tokens, self._nbytes(runs), time))
        if not helper.local:
            for (tier, nbytes), number in zip(self._placement.kinds(), runs.tolist(), strict=True):
                if number:
                    usage = usage_of(problem.costs.reach(helper.name, tier).usage, nbytes * number)
                    for resource, drawn in usage.items():
                        recorder.moved[resource] = recorder.moved.get(resource, 0.0) + drawn
        sent = sent_tokens * self._tables.token_bytes
        if sent:
            recorder.count_moves(usage_of(helper.out.usage, sent), sent, "activation")
            recorder.count_moves(usage_of(helper.back.usage, sent), sent, "activation")

    def _by_kind(self, values: IntArray, odd: IntArray) -> FloatArray:
        """[kinds] sums of `values` [L, E] over the experts of each kind, and `odd` ones of other kinds."""
        total: FloatArray = self._placement.kind_sums(values)
        total[: len(odd)] += odd
        return total

    def _nbytes(self, by_kind: FloatArray) -> float:
        return float((by_kind * [nbytes for _, nbytes in self._placement.kinds()]).sum())
