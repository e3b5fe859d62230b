"""HybriMoE: CPU and GPU consume one queue of experts from both ends, over a cache that goes by moving scores.

Knows the past of the run and one visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Deployment, Dispatch, Foresight, Moves, Problem, Step, View, Visit
from moesim.policies.kit.cache import LayerScore, deploy_cached
from moesim.policies.kit.dispatch import by_tokens, upload_missing
from moesim.policies.kit.layer_ahead import LayerAhead
from moesim.policies.kit.migration import pairs_of
from moesim.policies.kit.placement import SizedPolicy, quota, require_cpu
from moesim.policies.kit.predictors import Gate
from moesim.policies.kit.prefetch_buffers import with_evicted
from moesim.policies.kit.schedule import two_ended_dispatch, two_ended_end
from moesim.spec import Unread
from moesim.units import Share

__all__ = ["HybriMoe", "Impact"]

_MODEST = 8
"""Buffers take at most one of so many expert slots, unless their number is given."""
_TRIED = 4
"""Missing experts of a layer whose impact is simulated, those with most tokens."""


@dataclass
class _Memory:
    """What HybriMoE remembers."""

    cache: LayerScore
    start: float
    """Seconds before the CPU's first expert of a layer."""
    impact: Impact
    ahead: LayerAhead
    """What prefills fetch."""


class HybriMoe(SizedPolicy):
    """GPU and CPU take experts from two ends of one queue; an upload enters the cache, the lowest moving score leaves.

    Decode: the schedule `two_ended` with this machine's times. Prefill: everything on the GPU, and while a layer runs all
    missing experts of the next one are fetched, used or not (`prefill: schedule` uses both devices and fetches none).
    Cache: S <- a s + (1 - a) S after every visit, the lowest S of the layer makes room. Prefetch: after a layer, the experts of
    the next one with the highest S that are missing take the place of residents with a lower S (`choose: score`, the released
    code). The paper's `impact`: while a layer runs, gates tell the experts of the next `horizon` layers; each layer's schedule
    is simulated with and without each missing one of them there, and those that save most set out behind the layer's own
    uploads. Source: HybriMoE, DAC 2025, arXiv:2504.05897, and PKU-SEC-Lab/HybriMoE (schedule, a = 0.5, score, prefetch by
    score; p is 12 in the code, about 2 k in the paper).
    Inferred: shares of tokens stand for gate scores; two experts are prefetched; an expert is fetched by score only against a
    lower one; by impact the four with most tokens of each layer are tried, the lowest score among those not expected makes
    room, and the gates' recall; buffers of a prefill for two layers, whose room the cache has during decode; what a prefill
    fetched and used enters the cache as uploads do. Left out: the time to simulate.
    Valid: where prompts are short, the buffers' room costs a prefill more hits than the overlap saves.
    """

    unread: ClassVar[tuple[Unread, ...]] = (
        *SizedPolicy.unread,
        Unread(("choose", "horizon", "predictor"), when={"prefetch": 0}),
        Unread(("horizon", "predictor"), unless={"choose": "impact"}),
        Unread(("buffers",), when={"prefill": "schedule"}),
    )

    kind: Literal["hybrimoe"] = "hybrimoe"
    alpha: Share = 0.5
    """a of the moving score (published: 0.5)."""
    top: int | None = Field(None, ge=1)
    """p: experts of a visit whose score counts, those with most tokens; 2 k per token if not given (published: 12)."""
    prefetch: int = Field(2, ge=0)
    """Most experts of later layers fetched per layer of decode."""
    choose: Literal["score", "impact"] = "score"
    """How they are chosen (released code: score; paper: impact)."""
    horizon: int = Field(3, ge=1)
    """Layers ahead that `impact` simulates (published: 3)."""
    predictor: Gate = Gate()
    """The gates of later layers, for `impact`."""
    prefill: Literal["gpu", "schedule"] = "gpu"
    """Whether prompts run on the GPU alone or on both devices."""
    buffers: int | None = Field(None, ge=0)
    """Expert slots in GPU memory for what a prefill fetches ahead; for None, enough for the missing experts of two layers, at
    most an eighth of the room for experts. 0: a prefill fetches nothing ahead."""
    capacity: int | None = Field(None, ge=0)
    """Experts per layer that stay in GPU memory (published: 25, 50 or 75 % of them); as many as fit if not given."""

    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"
    runtime: ClassVar[str] = "ktransformers-0.2"
    source: ClassVar[str] = "HybriMoE (DAC 2025, arXiv:2504.05897)"

    @property
    def foresight(self) -> Foresight | None:
        """That of the gates, if they are asked."""
        return self.predictor.foresight(self.horizon) if self.prefetch and self.choose == "impact" else None

    def deploy(self, problem: Problem) -> Deployment:
        """A cache per layer, filled by the profile."""
        require_cpu(problem)
        cut = self.cut(problem, movable=True)
        top, slots = self.top or 2 * problem.model.top_k * cut.batch, self._slots(problem, cut)
        shape = problem.layers, problem.experts
        deployment = deploy_cached(
            problem,
            cut,
            self.capacity,
            lambda capacity: LayerScore(capacity, *shape, alpha=self.alpha, top=top),
            reserve=slots * problem.model.expert_bytes,
        )
        start = problem.costs.calls(problem.devices[problem.cpu_index]).hand_over
        cache, impact = deployment.state, Impact(problem, cut.batch, start)
        full = quota(problem.popularity, self.capacity)(problem.gpu_free(cut), deployment.expert_bytes)
        ahead = LayerAhead(problem, cache, slots, full.sum(axis=1))
        return replace(deployment, state=_Memory(cache, start, impact, ahead))

    def _slots(self, problem: Problem, cut: BatchPlan) -> int:
        """Buffers for what prefills fetch."""
        room = int(max(problem.gpu_free(cut), 0.0) // problem.model.expert_bytes)
        missing = problem.experts - min(room // problem.layers, problem.experts if self.capacity is None else self.capacity)
        if self.prefill == "schedule" or missing <= 0:
            return 0
        return min(2 * missing, max(room // _MODEST, 1), room) if self.buffers is None else min(self.buffers, room)

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """Both ends of the queue."""
        memory: _Memory = view.state
        if visit.phase == "prefill" and self.prefill == "gpu":
            return upload_missing(visit, view)._replace(moves=memory.ahead.before(visit, view))
        plain = two_ended_dispatch(visit, view, memory.start)
        if self.foresight is None or visit.phase != "decode":
            return plain
        return plain._replace(moves=self._impact(visit, view, memory))

    def adapt(self, step: Step, view: View) -> Moves:
        """Keeps what was uploaded, and fetches what the next layer's scores ask for."""
        memory: _Memory = view.state
        if step.phase == "prefill" and memory.ahead.buffers.slots:
            return memory.ahead.after(step, view)
        coming = int(np.count_nonzero(view.in_flight[step.layer]))
        dropped = memory.ahead.decoding(view)
        moves = with_evicted(memory.cache.after_layer(step, view.resident[step.layer], coming), dropped)
        target = step.layer + 1
        if not self.prefetch or self.choose != "score" or step.phase != "decode" or target == len(view.resident):
            return moves
        load, drop = self._fetched(target, view, memory.cache)
        if not len(load):
            return moves
        return with_evicted(moves, drop)._replace(load=load)

    def _fetched(self, layer: int, view: View, cache: LayerScore) -> tuple[IntArray, IntArray]:
        """(layer, expert) pairs to load, highest score first, and to drop for them."""
        scores, resident = cache.keys[layer], view.resident[layer]
        here = resident | view.in_flight[layer]
        free = max(int(cache.capacity[layer]) - int(np.count_nonzero(here)), 0)
        missing, held = np.flatnonzero(~here), np.flatnonzero(resident)
        missing = missing[np.argsort(-scores[missing], kind="stable")[: self.prefetch]]
        held = held[np.argsort(scores[held], kind="stable")[: len(missing)]]
        count = min(free, len(missing))  # these come into free slots, the others one by one against the lowest scores
        against = missing[count : count + len(held)]
        better = int(np.count_nonzero(scores[against] > scores[held[: len(against)]]))
        return pairs_of(layer, missing[: count + better]), pairs_of(layer, held[:better])

    def _impact(self, visit: Visit, view: View, memory: _Memory) -> Moves | None:
        """The missing experts of the next layers that would save most, each against the lowest score of its layer."""
        candidates: list[tuple[float, int, int]] = []
        expected: dict[int, IntArray] = {}
        for depth in range(1, self.horizon + 1):
            counts = visit.ahead(depth)
            if counts is None:
                break
            target = visit.layer + depth
            expected[target] = counts
            here = view.resident[target] | view.in_flight[target]
            experts, gains = memory.impact.gains(here, counts, view.home[target])
            candidates += [(gain, -target, expert) for gain, expert in zip(gains.tolist(), experts.tolist(), strict=True)]
        best = sorted((item for item in candidates if item[0] > 0.0), key=lambda item: (-item[0], -item[1]))[: self.prefetch]
        load, drop = [], []
        for target in sorted({-item[1] for item in best}):
            entering = [expert for _, layer, expert in best if -layer == target]
            victims = self._room(target, len(entering), expected[target], view, memory.cache)
            drop += [(target, expert) for expert in victims.tolist()]
            here = int(np.count_nonzero(view.resident[target] | view.in_flight[target]))
            free = max(int(memory.cache.capacity[target]) - here, 0)
            load += [(target, expert) for expert in entering[: free + len(victims)]]
        if not load:
            return None
        return Moves(evict=np.array(drop, dtype=np.int64).reshape(-1, 2), load=np.array(load, dtype=np.int64))

    def _room(self, layer: int, number: int, counts: IntArray, view: View, cache: LayerScore) -> IntArray:
        """[n] residents of `layer` that leave for `number` others: the lowest scores that `counts` [E] leaves out."""
        resident, coming = view.resident[layer], view.in_flight[layer]
        free = max(int(cache.capacity[layer]) - int(np.count_nonzero(resident | coming)), 0)
        idle = np.flatnonzero(resident & (counts == 0))
        return idle[np.argsort(cache.keys[layer, idle], kind="stable")[: max(number - free, 0)]]


class Impact:
    """What a copy in GPU memory would save a layer that is still to come."""

    def __init__(self, problem: Problem, batch: int, start: float) -> None:
        counts = np.arange(batch + 1)
        costs, sizes = problem.costs, np.full(batch + 1, problem.model.expert_bytes)
        self._gpu = np.asarray(costs.gpu(counts, sizes))
        self._cpu = np.stack([np.asarray(costs.cpu(counts, tier, sizes)) for tier in problem.tiers])
        copies = [
            0.0 if tier == problem.gpu_tier else float(costs.copy(sizes[0], tier, problem.gpu_tier)) for tier in problem.tiers
        ]
        self._copy, self._start, self._most = np.array(copies), start, batch

    def gains(self, here: BoolArray, counts: IntArray, home: IntArray) -> tuple[IntArray, FloatArray]:
        """([n] missing experts tried, [n] seconds that each would save) in a layer with `counts` [E], `here` [E] there."""
        tried = by_tokens(counts * ~here)[:_TRIED]
        tried = tried[(counts[tried] > 0) & ~here[tried]]
        if not len(tried):
            return tried, np.zeros(0)
        met = np.minimum(counts, self._most)
        parts = met, self._gpu[met], self._cpu[home, met], self._copy[home], self._start
        now, gains = two_ended_end(here, *parts), np.zeros(len(tried))
        for place, expert in enumerate(tried.tolist()):
            with_it = here.copy()
            with_it[expert] = True
            gains[place] = now - two_ended_end(with_it, *parts)
        return tried, gains
