"""Skipped and replaced tokens, smaller copies, moves set off by dispatch: I1, I2, I9, I11 hold on random worlds."""

from __future__ import annotations

from typing import ClassVar, Literal

import engine_worlds as worlds
import numpy as np
import pytest
import strategies
from hypothesis import given, settings

from moesim.clock import SECOND
from moesim.contract import Dispatch, Moves, Visit
from moesim.engine.books.energy_and_cost import bound_seconds
from moesim.errors import CapacityError, PolicyError

SOME = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def lossy_dispatch(k: worlds.Knobs, dispatch: Dispatch, visit: Visit, stored: np.ndarray) -> Dispatch:
    """The same devices, with a few tokens skipped, a few given to another expert, and every third copy at half its size."""
    rng = np.random.default_rng([k.seed, 8, visit.layer, len(visit.phase)])
    counts = visit.counts - rng.binomial(visit.counts, 0.2)
    given_up = int(visit.counts.sum() - counts.sum()) // 2
    runs = np.flatnonzero(counts)
    if len(runs):
        counts[runs[0]] += given_up
    nbytes = np.where(np.arange(len(counts)) % 3 == 0, stored / 2, stored)
    return dispatch._replace(counts=counts, nbytes=nbytes, stale=counts // 2)


class Lossy(worlds.Scripted):
    """Memoryless."""

    kind: Literal["lossy"] = "lossy"

    def dispatch(self, visit, view):
        return lossy_dispatch(self.knobs, super().dispatch(visit, view), visit, view.copy_bytes[visit.layer])


class LossyStepwise(Lossy):
    """The same, asked for visit by visit."""

    kind: Literal["lossy_stepwise"] = "lossy_stepwise"
    memoryless: ClassVar[bool] = False


class Note:
    """What one visit asked for and what came of it; arrays are [E]."""

    def __init__(self, visit: Visit, dispatch: Dispatch, view) -> None:
        self.layer, self.routed, self.counts = visit.layer, visit.counts.copy(), dispatch.counts.copy()
        self.device, self.nbytes = dispatch.device.copy(), dispatch.nbytes.copy()
        self.held = (view.resident | view.in_flight)[visit.layer].copy()
        self.copies = view.copy_bytes[visit.layer].copy()
        self.home = view.home[visit.layer].copy()


class LossyMoving(worlds.Restless):
    """Lossy dispatches over random moves, some of them set off by dispatch, with prefetches of smaller copies."""

    kind: Literal["lossy_moving"] = "lossy_moving"

    def dispatch(self, visit, view):
        k = self.knobs
        rng = np.random.default_rng([k.seed, 9, visit.layer, visit.index])
        stored = worlds.problem(k)[0].model.expert_bytes / (2.0 if k.cxl else 1.0)  # the least that is stored
        answer = lossy_dispatch(k, worlds.random_dispatch(k, rng, visit, view), visit, np.full(len(visit.counts), stored))
        view.state.append(Note(visit, answer, view))
        load = rng.permutation(np.argwhere(rng.random(view.resident.shape) < k.prefetch))
        moves = Moves(load=load, load_bytes=np.full(len(load), stored / 2)) if len(load) else None
        return answer._replace(moves=moves)


@SOME
@given(strategies.moving(gpus=0))
def test_i1_i11_what_is_not_computed_is_reported_and_no_run_beats_its_bound(k):
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, LossyMoving)
    assert bound_seconds(p, outcome) <= outcome.recorder.makespan / SECOND * (1 + 1e-9)
    notes, recorder = outcome.deployment.state, outcome.recorder
    quality = recorder.quality
    routed, computed = sum(n.routed.sum() for n in notes), sum(n.counts.sum() for n in notes)
    assert (quality.routed, quality.skipped) == (routed, routed - computed)
    assert quality.replaced == sum(np.maximum(n.counts - n.routed, 0).sum() for n in notes)
    assert quality.stale == sum((n.counts // 2).sum() for n in notes)
    assert sum(recorder.expert_tokens.values()) == computed == sum(quality.precision.values())


@SOME
@given(strategies.moving(gpus=0, cpu=False, cxl=0, kv="hbm", places="ggg", attention=False, prefetch=0.0))
def test_i2_smaller_copies_move_fewer_bytes(k):
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, LossyMoving)
    expected = 0.0
    for n in outcome.deployment.state:
        missing = (n.counts > 0) & ~(n.held & ~(n.nbytes > n.copies))
        expected += float(n.nbytes[missing].sum())
    assert outcome.recorder.caused.get("demand", 0.0) == pytest.approx(expected)
    bits = {b * p.model.expert_flops / 2 / 8 for b in outcome.recorder.quality.precision}
    assert bits <= {p.model.expert_bytes, p.model.expert_bytes / 2}


@SOME
@given(strategies.knobs(gpus=0))
def test_i9_lossy_visits_in_closed_form_equal_events(k):
    together, one_by_one, events = (
        worlds.record(worlds.run(k, policy, engine))
        for policy, engine in ((Lossy, "auto"), (LossyStepwise, "auto"), (LossyStepwise, "reference"))
    )
    assert worlds.differences(together, events) == {}
    assert worlds.differences(one_by_one, events) == {}


def _one(**answer):
    class Odd(worlds.Stepwise):
        kind: Literal["odd"] = "odd"

        def dispatch(self, visit, view):
            return super().dispatch(visit, view)._replace(**{name: make(visit) for name, make in answer.items()})

    return Odd


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"counts": lambda v: v.counts + 1}, "more tokens than the router gave out"),
        ({"counts": lambda v: v.counts - 1 - v.counts.max()}, "integers of 0 or more"),
        ({"nbytes": lambda v: np.full(len(v.counts), 1e12)}, "outside"),
        ({"nbytes": lambda v: np.zeros(len(v.counts))}, "outside"),
        ({"stale": lambda v: v.counts + 1}, "stale"),
        ({"moves": lambda v: Moves(keep=np.array([0]))}, "keeps nothing"),
        ({"moves": lambda v: Moves(evict=np.array([[v.layer, int(v.counts.argmax())]]))}, "runs"),
        ({"device": lambda v: np.array([0])}, "shape"),
    ],
)  # fmt: skip
def test_answers_that_break_the_contract_are_refused(answer, message):
    with pytest.raises(PolicyError, match=message):
        worlds.run(worlds.Knobs(), _one(**answer))


def test_a_memoryless_policy_sets_off_no_moves():
    class Promised(worlds.Scripted):
        kind: Literal["promised"] = "promised"

        def dispatch(self, visit, view):
            return super().dispatch(visit, view)._replace(moves=Moves())

    with pytest.raises(PolicyError, match="memoryless"):
        worlds.run(worlds.Knobs(), Promised)


def test_small_copies_take_little_memory_and_serve_only_what_asks_for_little():
    """A copy kept at half size is used at half size, and uploaded anew where the whole expert is wanted."""

    class Halves(worlds.Stepwise):
        kind: Literal["halves"] = "halves"
        adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

        def dispatch(self, visit, view):
            share = 0.5 if visit.index < 2 else 1.0
            stored = view.problem.model.expert_bytes
            return Dispatch(
                np.full(len(visit.counts), view.problem.attending_index), nbytes=np.full(len(visit.counts), share * stored)
            )

        def adapt(self, step, view):
            return Moves(keep=step.uploaded)

    k = worlds.Knobs(layers=1, experts=2, top_k=2, residents=0.0, requests=1, prompt=1, output=4, batch=1, seed=3)
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, Halves)
    passes = len(outcome.recorder.passes)
    assert passes == 4, "the seed gives one prefill and three decode passes"
    assert [row.uploads for row in outcome.recorder.passes] == [2, 0, 2, 0]
    assert outcome.recorder.caused["demand"] == pytest.approx(2 * p.model.expert_bytes * 1.5)
    assert outcome.recorder.quality.precision == {8.0: 4, 16.0: 4}


def test_prefetches_are_counted_by_what_became_of_them():
    """Each layer brings all experts of the next one; the last layer brings nothing, so those of the first are demand loads."""

    class NextLayer(worlds.Stepwise):
        kind: Literal["next_layer"] = "next_layer"

        def dispatch(self, visit, view):
            layers, experts = view.resident.shape
            pairs = [[visit.layer + 1, e] for e in range(experts)] if visit.layer + 1 < layers else []
            evicted = np.argwhere(view.resident & (np.arange(layers) < visit.layer)[:, None])
            moves = Moves(load=np.array(pairs), evict=evicted) if pairs else Moves(evict=evicted) if len(evicted) else None
            return Dispatch(np.full(experts, view.problem.attending_index), moves=moves)

    k = worlds.Knobs(layers=3, experts=4, top_k=1, residents=0.0, requests=1, prompt=1, output=1, batch=1, staging=4)
    prefetches = worlds.run(k, NextLayer).recorder.prefetches
    assert (prefetches.copies, prefetches.used) == (8, 2)
    assert 0 <= prefetches.in_time <= 2


def test_too_many_prefetches_are_refused():
    class Greedy(worlds.Stepwise):
        kind: Literal["greedy"] = "greedy"

        def dispatch(self, visit, view):
            everything = np.argwhere(~view.resident & ~view.in_flight)
            return Dispatch(np.full(len(visit.counts), view.problem.attending_index), moves=Moves(load=everything))

    with pytest.raises(CapacityError, match="must evict first"):
        worlds.run(worlds.Knobs(experts=7, layers=3, residents=0.0), Greedy, hbm=1.2e6)
