"""Predictors: what each recalls on generated and recorded routing, what it learns from, and from what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Problem, Visit
from moesim.policies.kit.predictors import Gate, History, Learned, Perfect, Popularity, best
from moesim.policies.kit.predictors_measure import decoded, recall
from moesim.policies.kit.predictors_sequence import ExpertMap, Sequence
from moesim.streams import Streams
from moesim.workload.jobs import Offline
from moesim.workload.routing.profile import OtherTasks
from moesim.workload.routing.sticky import Sticky
from moesim.workload.routing.trace import Trace
from tests.routed_models import RoutedModel

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "routing"
recorded = pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded routing is not there: {DATA}")


DEEPSEEK = RoutedModel("deepseek-v2-lite", 64, 6, 13)
GPT_OSS = RoutedModel("gpt-oss-20b", 32, 4, 12)
"""The first half of their layers."""


def problem_of(model: RoutedModel, job, table) -> Problem:
    shape = tiny.model(experts=model.experts, top_k=model.top_k)
    return Problem(shape, tiny.system(), job, table.profile, np.random.default_rng(0), np.random.default_rng(1))


def generated(model: RoutedModel = DEEPSEEK, requests: int = 20, tokens: int = 36):
    job, table = Offline(requests=requests, prompt=4, output=tokens + 1, routing=Sticky()).build(model, Streams(5), Path())
    return problem_of(model, job, table), decoded(table, range(requests))


@pytest.fixture(scope="module")
def sticky():
    return generated()


def mean(spec, world, depth=1, skip=16) -> float:
    return float(np.nanmean(recall(spec, world[0], world[1], depth=depth, skip=skip)))


@pytest.mark.parametrize("depth", [1, 3])
def test_the_perfect_one_is_always_right(sticky, depth):
    shares = recall(Perfect(), sticky[0], sticky[1][:8], depth=depth)
    assert np.isnan(shares[:depth]).all()
    assert (shares[depth:] == 1.0).all()


@pytest.mark.parametrize(
    ("spec", "depth", "expected"),
    [(Gate(), 1, 0.9), (Gate(recall=(0.96,)), 3, 0.90), (Gate(recall=(0.57,)), 1, 0.57), (Learned(), 2, 0.85)],
)
def test_gates_are_right_as_often_as_said(sticky, spec, depth, expected):
    problem, sequences = sticky[0], sticky[1][:8]
    pairs = sum(map(len, sequences)) * (problem.layers - depth) * DEEPSEEK.top_k
    spread = (expected * (1 - expected) / pairs) ** 0.5
    assert mean(spec, (problem, sequences), depth, skip=0) == pytest.approx(expected, abs=5 * spread)


@pytest.fixture(scope="module")
def next_layer(sticky):
    """What tables of order 1 recall of the next layer."""
    return mean(History(), sticky)


def test_predictors_from_history_rank_as_measured(sticky, next_layer):
    """Tables recall about 0.35 of the next layer (DeepSeek-V2-Lite, whole file), popularity 0.15, gates 0.87 to 0.96.

    640 tokens teach a table of 64 x 64 entries per layer less than the 23,000 of the file.
    """
    last = (sticky[0], sticky[1][16:])  # for those that learn nothing
    popularity, second = mean(Popularity(), last, skip=0), mean(History(order=2), sticky)
    assert 0.10 <= popularity <= 0.20
    assert 0.25 <= next_layer <= 0.40
    assert next_layer > second > popularity  # its law knows one layer of the past only
    assert mean(ExpertMap(), sticky) > popularity
    assert mean(Gate(), last, skip=0) > next_layer + 0.4


def test_history_says_less_of_layers_farther_away(sticky, next_layer):
    assert mean(History(), sticky, depth=5) <= next_layer + 0.01


@recorded
@pytest.mark.parametrize(
    ("file", "model", "low", "high"),
    [
        ("deepseek-v2-lite_esft_prefill.npz", DEEPSEEK, 0.35, 0.55),
        ("gpt-oss-20b_decode.npz", GPT_OSS, 0.45, 0.65),
    ],
)
def test_recall_on_recorded_routing(file, model, low, high):
    """Learnt online from 28 sequences in the order of the file and measured on the 12 after them, which are of other tasks.

    An offline table from 70 % of the file recalls 0.35 and 0.56 on the rest.
    """
    with np.load(DATA / file) as archive:
        ids, seq = archive["experts"][:, : model.n_moe], archive["seq"]
    known = np.unique(seq)
    chosen = known[np.linspace(0, len(known) - 1, 40).astype(int)]
    tokens = [ids[seq == request][-16:] for request in chosen]
    counts = [[(token[:, :, None] == np.arange(model.experts)).sum(axis=1) for token in sequence] for sequence in tokens]
    job, table = Offline(requests=2, prompt=4, output=2, routing=Sticky()).build(model, Streams(0), Path())
    problem = problem_of(model, job, table)
    problem.popularity[:] = np.mean([pass_counts for passes in counts[:28] for pass_counts in passes], axis=0) / model.top_k
    first, second = (mean(spec, (problem, counts), skip=28) for spec in (History(), History(order=2)))
    assert low <= first <= high
    assert second > first
    last = (problem, counts[28:])
    assert mean(Gate(), last, skip=0) == pytest.approx(0.9, abs=0.02)
    assert mean(Popularity(), last, skip=0) < first


def visit(layer, counts, phase="decode", index=0, ahead=None):
    counts = np.asarray(counts, dtype=np.int64)
    none = np.zeros(len(counts))
    return Visit(index, phase, layer, int(counts.max()), counts, none, none, none, none, none > 0, ahead)


def small(popularity, top_k=1) -> Problem:
    popularity = np.asarray(popularity, dtype=np.float64)
    shape = tiny.model(layers=len(popularity), experts=popularity.shape[1], top_k=top_k)
    return tiny.problem(shape=shape, work=tiny.job(layers=len(popularity)), profile=popularity)


FLAT = np.full((3, 4), 0.25)


@pytest.mark.parametrize("spec", [History(), History(order=2), Sequence(), ExpertMap(), Popularity()])
def test_those_that_do_not_read_hidden_states_do_not_ask_for_them(spec):
    assert spec.foresight(3) is None
    mind = spec.start(small(FLAT))
    for layer in range(3):
        mind.meet(visit(layer, [1, 0, 0, 0]))  # without `ahead`, looking would raise
        scores = mind.scores(visit(layer, [1, 0, 0, 0]), 1)
        assert (scores is None) == (layer == 2)


def test_a_table_learns_what_follows():
    mind = History().start(small(FLAT))
    mind.scores(visit(0, [1, 0, 0, 0]), 1)
    for index in range(20):
        for layer, expert in enumerate((0, 3, 1)):
            mind.meet(visit(layer, np.eye(4)[expert], index=index))
            mind.scores(visit(layer, np.eye(4)[expert]), 1)
    mind.meet(visit(0, np.eye(4)[0]))
    scores = mind.scores(visit(0, np.eye(4)[0]), 1)
    # 19 pairs were seen after the table was first asked for, one token's worth of the flat profile lies below them
    assert scores == pytest.approx(np.array([0.25, 0.25, 0.25, 20.25]) / 21.0, rel=1e-5)


def test_order_two_tells_apart_what_one_layer_alone_cannot():
    """Paths 0-1-2 and 3-1-0: after expert 1 only the layer before it says what comes."""
    first, two = History().start(small(FLAT)), History(order=2).start(small(FLAT))
    for mind in (first, two):
        for index in range(40):
            for layer, expert in enumerate((0, 1, 2) if index % 2 else (3, 1, 0)):
                mind.meet(visit(layer, np.eye(4)[expert], index=index))
                mind.scores(visit(layer, np.eye(4)[expert]), 1)
        mind.meet(visit(0, np.eye(4)[0]))
        mind.meet(visit(1, np.eye(4)[1]))
    assert abs(float(first.scores(visit(1, np.eye(4)[1]), 1) @ [-1, 0, 1, 0])) < 0.05
    assert two.scores(visit(1, np.eye(4)[1]), 1).argmax() == 2


def test_best_takes_the_highest_above_zero_and_equal_ones_in_order():
    scores, order = np.array([2.0, 0.0, 3.0, 2.0, 2.0]), np.array([1, 3, 4, 0, 2])
    assert best(scores, order, 3).tolist() == [2, 3, 4]
    assert best(scores, order, 9).tolist() == [2, 3, 4, 0]


@recorded
def test_what_is_learnt_online_does_not_mind_a_foreign_profile():
    routing = Trace(path="deepseek-v2-lite_esft_prefill.npz", order="file", tasks=["intent"])
    workload = Offline(requests=12, routing=routing, output=24, profile=OtherTasks(tasks=["law", "translation"]))
    whole = DEEPSEEK._replace(n_moe=26)  # as recorded
    job, table = workload.build(whole, Streams(0), DATA)
    world = (problem_of(whole, job, table), decoded(table, range(12), 23))
    assert mean(History(), world, skip=6) > 2 * mean(Popularity(), world, skip=6)
