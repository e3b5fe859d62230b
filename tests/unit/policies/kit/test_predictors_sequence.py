"""Activation matrices and expert maps: comparison against plain formulas, scores as published, what a full store gives up."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Visit
from moesim.policies.kit.predictors_sequence import ExpertMap, Sequence, Store

LAYERS, EXPERTS = 5, 6


def visit(layer, counts, phase="decode", index=0):
    counts, none = np.asarray(counts, dtype=np.int64), np.zeros(len(counts))
    return Visit(index, phase, layer, int(counts.max()), counts, none, none, none, none, none > 0)


def problem(top_k=2):
    shape = tiny.model(layers=LAYERS, experts=EXPERTS, top_k=top_k)
    profile = tiny.popularity(EXPERTS, LAYERS, seed=2)
    return tiny.problem(shape=shape, work=tiny.job(layers=LAYERS), profile=profile)


def run(mind, rng, phase, index=0):
    """One pass of random counts; returns them."""
    counts = rng.multinomial(6, np.full(EXPERTS, 1 / EXPERTS), size=LAYERS)
    for layer in range(LAYERS):
        mind.meet(visit(layer, counts[layer], phase, index))
    return counts


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("by_layer", [True, False])
def test_comparison_layer_by_layer_equals_the_formula(by_layer):
    rng = np.random.default_rng(0)
    traces = rng.random((4, LAYERS, EXPERTS))
    store = Store(4, traces[0], by_layer=by_layer)
    for trace in traces[1:]:
        store.put(trace)
    running = rng.random((LAYERS, EXPERTS))
    for _ in range(2):  # a new pass compares from nothing again
        store.restart()
        for layer in range(LAYERS):
            store.compare(layer, running[layer])
            if by_layer:
                expected = [np.mean([cosine(t[i], running[i]) for i in range(layer + 1)]) for t in traces]
            else:
                expected = [cosine(t[: layer + 1].ravel(), running[: layer + 1].ravel()) for t in traces]
            assert store.similarity() == pytest.approx(expected, rel=1e-5)
    assert store.full


def test_scores_are_shares_of_the_nearest_sequence_less_by_distance():
    p = problem()
    mind, rng = Sequence().start(p), np.random.default_rng(1)
    first = run(mind, rng, "prefill")
    run(mind, rng, "prefill", 1)  # the first sequence has ended
    for layer in range(2):
        mind.meet(visit(layer, first[layer], "prefill", 2))  # the third begins as the first did
    seen = visit(1, first[1], "prefill", 2)
    for depth in range(1, LAYERS - 1):
        row = first[1 + depth]
        assert mind.scores(seen, depth) == pytest.approx((row / row.sum() + 1e-8) * (1 - depth / (LAYERS + 1)), rel=1e-5)
    assert mind.scores(seen, LAYERS - 1) is None
    wrapped = mind.outlook(1)[0]  # layer 0 comes next in four layers
    assert wrapped == pytest.approx((first[0] / first[0].sum() + 1e-8) * (1 - 4 / (LAYERS + 1)), rel=1e-5)


def test_a_sequence_counts_its_prompt_and_all_its_tokens():
    mind, rng = Sequence().start(problem()), np.random.default_rng(1)
    total = run(mind, rng, "prefill") + run(mind, rng, "decode", 1) + run(mind, rng, "decode", 2)
    assert (mind.matrix == total).all()
    assert mind.store.size == 1
    assert (mind.matrix == total).all()
    again = run(mind, rng, "prefill", 3)
    assert mind.store.size == 2
    assert (mind.matrix == again).all()


def test_a_full_store_gives_up_the_sequence_most_like_the_new_one():
    mind, rng = Sequence(capacity=3, full="replace").start(problem()), np.random.default_rng(4)
    runs = [run(mind, rng, "prefill", index) for index in range(3)]
    assert mind.store.full
    before = [mind.store.shares(number, slice(None)) for number in range(3)]
    twin = runs[0].copy()
    for layer in range(LAYERS):
        mind.meet(visit(layer, twin[layer], "prefill", 3))  # stores the third: the second and the profile may go, not the first
    mind.meet(visit(0, twin[0], "prefill", 4))  # stores the twin of the first in its place
    after = [mind.store.shares(number, slice(None)) for number in range(3)]
    assert mind.store.size == 3
    assert np.allclose(after[1], before[1])
    assert np.allclose(after[1], runs[0] / runs[0].sum(axis=1, keepdims=True), atol=1e-6)


def test_clusters_hold_the_mean_of_the_sequences_that_joined_them():
    rng = np.random.default_rng(7)
    first, far, twin = (rng.random((LAYERS, 8)) for _ in range(3))
    twin = first + 0.01 * twin
    store = Store(2, first, by_layer=True)
    store.put(far)
    near = store.nearest_to(twin)
    assert near == 0
    before = store.shares(1, slice(None))
    store.put(twin, near, merge=True)
    unit = [trace / np.linalg.norm(trace, axis=1, keepdims=True) for trace in (first, twin)]
    mean = sum(unit) / 2.0
    assert np.allclose(store.shares(0, slice(None)), mean / mean.sum(axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(store.shares(1, slice(None)), before)


def test_comparing_costs_host_time_for_what_is_stored():
    mind, rng = Sequence(per_cell=1e-9).start(problem()), np.random.default_rng(4)
    run(mind, rng, "prefill")
    assert mind.seconds == pytest.approx(1e-9 * LAYERS * EXPERTS)
    run(mind, rng, "prefill", 1)
    assert mind.seconds == pytest.approx(2e-9 * LAYERS * EXPERTS)


def test_a_map_expects_more_the_less_alike_it_is():
    """The longest beginning of its shares whose sum stays within 1 - similarity, at least k experts."""
    p = problem(top_k=2)
    mind = ExpertMap(distance=1).start(p)
    wide = np.tile([6, 5, 4, 3, 2, 0], (LAYERS, 1))
    for layer in range(LAYERS):
        mind.meet(visit(layer, wide[layer], "prefill"))
    alike, unlike = visit(0, wide[0], index=1), visit(0, [0, 0, 0, 0, 0, 5], index=2)
    mind.meet(alike)
    assert np.flatnonzero(mind.scores(alike, 1)).tolist() == [0, 1]  # similarity 1: no more than k
    mind.meet(unlike)
    shares = p.popularity
    similarity = cosine(shares[0], np.eye(EXPERTS)[5])
    assert similarity > 0  # the profile alone has the last expert
    expected = np.flatnonzero(mind.scores(unlike, 1))
    order = np.argsort(-shares[1])
    number = max(int(np.searchsorted(np.cumsum(shares[1][order]), 1 - similarity, side="right")), 2)
    assert sorted(order[:number].tolist()) == expected.tolist()


def test_the_first_layers_go_by_the_last_pass():
    mind = ExpertMap(distance=LAYERS).start(problem())
    trace = np.tile([3, 2, 1, 0, 0, 0], (LAYERS, 1))
    for layer in range(LAYERS):
        mind.meet(visit(layer, trace[layer], "prefill"))
    now = visit(0, [3, 2, 1, 0, 0, 0], index=1)
    mind.meet(now)
    assert mind.scores(now, 1) == pytest.approx([0.5, 1 / 3, 0, 0, 0, 0], abs=1e-6)


def test_every_token_is_a_map_and_a_full_store_keeps_its_size():
    mind, rng = ExpertMap(capacity=4).start(problem()), np.random.default_rng(0)
    sizes = []
    for index in range(6):
        run(mind, rng, "decode", index)
        sizes.append(mind.store.size)
    assert sizes == [2, 3, 4, 4, 4, 4]
