"""HOBBIT: a missing expert comes in high or low precision or not at all, as its gate weight asks; two caches, one score.

Knows the past of the run, one visit, and what a gate predictor says of the next layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import NO_MOVES, Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, in_order
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, place, quota, ranks
from moesim.policies.kit.precision import GateWeights, Pairs, Ranking, with_copies
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["Hobbit"]

_TIE = 1e-9
"""Weight of the profile in a score."""


@dataclass
class _Memory:
    """What HOBBIT remembers; arrays are [L, E]."""

    slots: tuple[int, int]
    """Copies that the caches of high and of low precision hold, over all layers."""
    nbytes: tuple[float, float]
    """Bytes of a copy of high and of low precision."""
    shares: FloatArray
    """[3] shares of pairs that ask for high precision, low precision, nothing."""
    labels: IntArray
    """Experts by popularity: a name that does not go by ids."""
    recent: IntArray
    """Token at which an expert was last used, in this sequence; so the next two."""
    uses: IntArray
    high_uses: IntArray
    tie: FloatArray
    """Decides between equal scores: the profile, small."""
    masked: BoolArray
    """Predicted for a layer that is still to come: not to be evicted."""
    tokens: int = 0
    """Tokens of the sequence so far; a prompt counts as one."""
    drawn: dict[int, Ranking] = field(default_factory=dict)
    """Layer -> gate weights of its visit in the pass that runs."""
    wants_high: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """[E] of the layer that runs."""

    def begin_pass(self, phase: str) -> None:
        """Another token; a prompt begins a sequence, and with it the counting."""
        self.drawn.clear()
        if phase == "prefill":
            self.tokens = 0
            for array in (self.recent, self.uses, self.high_uses):
                array[:] = 0
        self.tokens += 1


class Hobbit(SizedPolicy):
    """Two caches of different precision; a missing expert is loaded in the precision that its gate weight asks for, or skipped.

    With u the weight of the experts above an expert: u <= 0.6 loads it in high precision, u <= 0.9 in low precision, else it is
    skipped. A copy that is there serves unless its precision is lower. Prefetch: behind a visit's own uploads, the first of the
    next `depth` layers with a predicted expert missing gets its missing ones, in the precision that they will ask for;
    predicted experts are not evicted. In each cache the lowest w1 R/T + w2 F/T + w3 H/T + w4 (1 - ((l - i + L) mod L) / L)
    leaves: R last use, F uses, H uses in high precision, T tokens of the sequence, l the expert's layer, i the current one.
    Source: HOBBIT, arXiv:2411.01433 (thresholds, score, gate recall 96 % one layer ahead and about 90 % two to three ahead,
    FP16 beside INT4 or INT8 beside INT2). Inferred: gate weights (`GateWeights`); the weights w; the share of the low cache;
    of several tokens that share an expert the most demanding one decides, and a skip happens only if all of them would. Left
    out: the mode in which the CPU computes, group scales of low-precision copies. Valid: changes outputs (`quality`);
    published for one sequence at a time (`batch: 1`), where it gains most.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("recall",), when={"depth": 0}),
    )

    kind: Literal["hobbit"] = "hobbit"
    gates: GateWeights = GateWeights()
    """How gate weights are distributed, and the two thresholds."""
    low: Share = Field(0.25, gt=0)
    """Bytes of a low-precision copy as a share of a high one (published: INT4 beside FP16, INT2 beside INT8)."""
    low_cache: Share = 0.2
    """Share of the cache's bytes for copies of low precision (published: the smaller part)."""
    depth: int = Field(3, ge=0)
    """Layers that the gate predictor looks ahead (published: 1 to 3); 0 for no prefetch."""
    recall: tuple[float, ...] = Field((0.96, 0.9, 0.9), min_length=1)
    """Of the predictor, by depth (published)."""
    weights: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)
    """w1 to w4: recency, frequency, use in high precision, nearness of the layer; published as fitted, without values."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    lossy: ClassVar[bool] = True
    source: ClassVar[str] = "HOBBIT (arXiv:2411.01433)"

    @property
    def foresight(self) -> Foresight | None:
        """The stacked gates."""
        return Foresight(recall=self.recall, seconds=0.0, blind_layers=0) if self.depth else None

    def deploy(self, problem: Problem) -> Deployment:
        """Both copies of every expert in the host; the cache of high precision starts with the profile, the other empty."""
        size, shape = float(problem.model.expert_bytes), (problem.layers, problem.experts)
        cut = self.cut(problem, movable=True, nbytes=size * (1.0 + self.low))
        stored = np.full(shape, size)
        deployment = with_copies(
            lambda sizes: place(problem, expert_bytes=sizes, cut=cut, movable=True), stored, further=self.low
        )
        free, small = problem.gpu_free(cut), size * self.low
        low = min(int(self.low_cache * free // small), stored.size)
        high = min(int((free - low * small) // size), stored.size)
        memory = _Memory(
            (high, low),
            (size, small),
            self.gates.shares(problem.model.top_k, problem.rng),
            np.argsort(ranks(problem.popularity), axis=1),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            _TIE * problem.popularity,
            np.zeros(shape, dtype=np.bool_),
        )
        resident = quota(problem.popularity)(high * size, stored)
        return replace(deployment, resident=resident, state=memory)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """The GPU computes; what is missing comes in the precision asked for."""
        memory: _Memory = view.state
        layer, counts = visit.layer, visit.counts
        if layer == 0:
            memory.begin_pass(visit.phase)
        memory.masked[layer] = False
        wants = self._wants(visit, layer, counts, view)
        high, low = wants.high > 0, (wants.high == 0) & (wants.low > 0)
        here = in_gpu_memory(visit, view)
        computed = np.where(high | low | here, counts, 0)
        nbytes = np.where(high, *memory.nbytes)
        active = computed > 0
        memory.wants_high = high
        memory.recent[layer, active] = memory.tokens
        memory.uses[layer] += active
        memory.high_uses[layer] += high
        order = in_order(computed, view.resident[layer] & (nbytes <= _copies(view)[layer]))
        moves = self._prefetch(visit, view, active) if self.depth else None
        device = np.full(len(counts), view.problem.attending_index)
        return Dispatch(device, order, counts=computed, nbytes=nbytes, moves=moves)

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded, each in the cache of its precision."""
        memory: _Memory = view.state
        if not len(step.uploaded):
            return NO_MOVES
        new = step.uploaded[by_tokens(step.counts[step.uploaded])]
        safe = memory.masked.copy()
        safe[step.layer, step.counts > 0] = True
        keep, drop = [], []
        for precision, members in enumerate((memory.wants_high[new], ~memory.wants_high[new])):
            entering = new[members]
            room, victims = self._room(precision, len(entering), step.layer, safe, view)
            keep.append(entering[:room])
            drop.append(victims)
        return Moves(np.concatenate(keep), np.concatenate(drop))

    def _wants(self, visit: Visit, layer: int, counts: IntArray, view: View) -> Pairs:
        """What the tokens of a layer of this pass ask for; a prediction and the visit itself draw the same gate weights."""
        memory, problem = view.state, view.problem
        if layer not in memory.drawn:
            memory.drawn[layer] = self.gates.ranking(visit.tokens, problem.model.top_k, memory.labels[layer], problem.rng)
        return self.gates.pairs(counts, memory.drawn[layer], memory.shares, problem.rng)

    def _prefetch(self, visit: Visit, view: View, active: BoolArray) -> Moves | None:
        """The missing experts of the first coming layer that misses any."""
        memory: _Memory = view.state
        for depth in range(1, self.depth + 1):
            predicted = visit.ahead(depth)
            if predicted is None:
                return None
            target = visit.layer + depth
            memory.masked[target] = predicted > 0
            wants = self._wants(visit, target, predicted, view)
            missing = ~(view.resident[target] | view.in_flight[target]) & (wants.high + wants.low > 0)
            if missing.any():
                return self._loads(target, missing, wants, visit.layer, active, view)
        return None

    def _loads(self, target: int, missing: BoolArray, wants: Pairs, layer: int, active: BoolArray, view: View) -> Moves | None:
        memory: _Memory = view.state
        safe = memory.masked.copy()
        safe[layer] |= active
        load, sizes, drop = [], [], []
        for precision, chosen in enumerate((missing & (wants.high > 0), missing & (wants.high == 0))):
            experts = np.flatnonzero(chosen)
            experts = experts[by_tokens((wants.high + wants.low + wants.skip)[experts])]
            room, victims = self._room(precision, len(experts), layer, safe, view)
            load.append(pairs_of(target, experts[:room]))
            sizes.append(np.full(min(room, len(experts)), memory.nbytes[precision]))
            drop.append(victims)
        pairs = np.concatenate(load)
        return Moves(evict=np.concatenate(drop), load=pairs, load_bytes=np.concatenate(sizes)) if len(pairs) else None

    def _room(self, precision: int, number: int, layer: int, safe: BoolArray, view: View) -> tuple[int, IntArray]:
        """(copies that can enter a cache: at most `number`, [n, 2] copies that leave it for them, lowest score first)."""
        memory: _Memory = view.state
        if not number:
            return 0, _NOBODY
        mine = (_copies(view) < memory.nbytes[0]) == bool(precision)
        free = memory.slots[precision] - int(np.count_nonzero(mine & (view.resident | view.in_flight)))
        if free >= number:
            return number, _NOBODY
        candidates = np.flatnonzero(mine & view.resident & ~safe)
        scores = self._score(memory, layer).ravel()[candidates]
        victims = candidates[np.argsort(scores, kind="stable")[: number - max(free, 0)]]
        return min(max(free, 0) + len(victims), number), np.column_stack(np.divmod(victims, safe.shape[1]))

    def _score(self, memory: _Memory, layer: int) -> FloatArray:
        """[L, E] who stays."""
        recent, frequent, precise, near = self.weights
        past: FloatArray = (recent * memory.recent + frequent * memory.uses + precise * memory.high_uses) / memory.tokens
        layers = len(memory.recent)
        past += (near * (1.0 - (np.arange(layers) - layer) % layers / layers))[:, None]
        return past + memory.tie


def _copies(view: View) -> FloatArray:
    """[L, E] bytes of the copies in GPU memory."""
    assert view.copy_bytes is not None, "the engine shows what it holds"
    return view.copy_bytes


_NOBODY: IntArray = np.zeros((0, 2), dtype=np.int64)
