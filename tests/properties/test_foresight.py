"""What is shown of the future: exactly as much as was declared, the same for the same question, and nothing without a word."""

from __future__ import annotations

from typing import ClassVar, Literal

import engine_worlds as worlds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.contract import NEVER, Foresight, Future, blurred
from moesim.engine.passes import passes_of_job
from moesim.errors import PolicyError

SOME = settings(max_examples=18, deadline=None, derandomize=True, database=None)
WORLD = worlds.Knobs(layers=4, experts=7, top_k=2, requests=3, batch=2, expert_batch=1, prompt=6, output=4, residents=0.0)


class Looking(worlds.Stepwise):
    """Writes down what it is shown one and two layers ahead, twice."""

    kind: Literal["looking"] = "looking"
    recall: tuple[float, ...] = (1.0,)
    adapts: ClassVar[Literal["never", "layer", "pass", "both"]] = "layer"

    @property
    def foresight(self):
        return Foresight(recall=self.recall)

    def dispatch(self, visit, view):
        view.state.append((visit.index, visit.layer, visit.counts, visit.ahead(1), visit.ahead(2), visit.ahead(1)))
        return super().dispatch(visit, view)

    def adapt(self, step, view):
        shown = step.ahead(1)
        before = view.state[-1][3]
        assert (shown is None) == (before is None)
        assert shown is None or (shown == before).all()
        return super().adapt(step, view)


def looked(recall: tuple[float, ...], k: worlds.Knobs = WORLD):
    p, table = worlds.problem(k)
    return worlds.simulate(p, Looking(knobs=k, recall=recall), table).deployment.state


def test_perfect_recall_shows_the_true_counts_of_later_layers():
    notes = looked((1.0, 1.0))
    groups = len({id(n) for n in notes}) // WORLD.layers
    assert groups > 1
    for number, (_, layer, _, near, two, _) in enumerate(notes):
        for depth, shown in ((1, near), (2, two)):
            if layer + depth >= WORLD.layers:
                assert shown is None
                continue
            later = [n for n in notes[number + 1 :] if n[0] == notes[number][0] and n[1] == layer + depth]
            assert any((shown == n[2]).all() for n in later)


@pytest.mark.parametrize("recall", [0.0, 0.5, 0.9])
def test_the_same_question_gets_the_same_answer_and_keeps_the_sum(recall):
    for first, again in zip(looked((recall,)), looked((recall,)), strict=True):
        assert (first[3] is None) == (again[3] is None)
        if first[3] is not None:
            assert (first[3] == again[3]).all()
            assert (first[3] == first[5]).all()
            assert first[3].sum() == first[2].sum()


@SOME
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.sampled_from([1, 4, 64]))
def test_blurred_keeps_the_sum(seed, recall, tokens):
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(2 * tokens, np.full(16, 1 / 16)) if tokens > 1 else np.eye(16, dtype=np.int64)[[3, 5]].sum(axis=0)
    shown = blurred(counts, recall, rng.random(16), rng)
    assert shown.sum() == counts.sum()
    assert (shown >= 0).all()


@pytest.mark.parametrize("recall", [0.3, 0.87])
def test_the_share_of_pairs_predicted_right_is_the_recall(recall):
    """One token with 4 of 32 experts: a wrong pair never falls on a right expert, so the overlap is the recall itself."""
    rng = np.random.default_rng(1)
    counts = np.zeros(32, dtype=np.int64)
    counts[:4] = 1
    draws = 4000
    right = sum(int((blurred(counts, recall, np.full(32, 1 / 32), rng)[:4] > 0).sum()) for _ in range(draws))
    spread = (recall * (1 - recall) / (4 * draws)) ** 0.5
    assert right / (4 * draws) == pytest.approx(recall, abs=5 * spread)


def test_recall_falls_with_depth_beyond_what_is_given():
    seen = Foresight(recall=(0.9, 0.85))
    assert [seen.at(depth) for depth in (1, 2, 3, 4)] == pytest.approx([0.9, 0.85, 0.82, 0.79])
    assert Foresight(recall=(0.02,)).at(5) == 0.0


def test_recall_by_layer_is_read_off_at_the_same_depth_of_other_models():
    seen = Foresight(by_layer=(0.0, 0.6, 0.9))
    assert [seen.of_layer(target, 3, 1) for target in range(3)] == pytest.approx([0.0, 0.6, 0.9])
    assert [seen.of_layer(target, 5, 1) for target in range(5)] == pytest.approx([0.0, 0.3, 0.6, 0.75, 0.9])
    assert seen.of_layer(2, 3, 3) == pytest.approx(0.84)
    assert seen.of_layer(0, 3, 2) == 0.0
    assert Foresight(recall=(0.9, 0.8)).of_layer(1, 3, 2) == pytest.approx(0.8)


def test_nothing_is_shown_without_a_declared_foresight():
    class Peeking(worlds.Stepwise):
        kind: Literal["peeking"] = "peeking"

        def dispatch(self, visit, view):
            assert view.future is None
            visit.ahead(1)
            return super().dispatch(visit, view)

    with pytest.raises(PolicyError, match="foresight"):
        worlds.run(WORLD, Peeking)


def test_a_prediction_takes_gpu_time():
    class Slow(worlds.Stepwise):
        kind: Literal["slow"] = "slow"
        foresight: ClassVar[Foresight] = Foresight(seconds=1e-3)

    k = worlds.replace(WORLD, attention=False, requests=1, expert_batch=0)
    slow, plain = worlds.run(k, Slow), worlds.run(k, worlds.Stepwise)
    added = slow.recorder.busy["gpu"] - plain.recorder.busy["gpu"]
    assert added == k.layers * 10**9  # 1 ms a visit, in ps


def test_the_future_tells_the_next_use_of_every_expert():
    class Bound(worlds.Stepwise):
        kind: Literal["bound"] = "bound"
        clairvoyant: ClassVar[bool] = True

        def dispatch(self, visit, view):
            uses = [view.future.next_use(layer) for layer in range(WORLD.layers)]
            view.state.append((visit.layer, visit.counts, uses, view.future.counts(visit.layer)))
            return super().dispatch(visit, view)

    p, table = worlds.problem(WORLD)
    outcome = worlds.simulate(p, Bound(knobs=WORLD), table)
    notes = outcome.deployment.state
    total = sum(step.counts.sum(axis=1) for step in passes_of_job(p.job, table, outcome.deployment))
    future = Future(
        [step.counts[:, g] for step in passes_of_job(p.job, table, outcome.deployment) for g in range(step.counts.shape[1])]
    )
    assert future.popularity == pytest.approx(total / total.sum(axis=1, keepdims=True))
    for number, (here, _, uses, following) in enumerate(notes):
        for layer in range(WORLD.layers):
            later = [n[1] for n in notes[number + 1 :] if n[0] == layer]
            for expert in range(WORLD.experts):
                next_use = next((i for i, counts in enumerate(later) if counts[expert]), None)
                assert uses[layer][expert] == next_use or (next_use is None and uses[layer][expert] >= NEVER)
            if layer == here:
                assert following is None if not later else (following == later[0]).all()
