"""The LRU cache against a plain one, and the policy that uses it."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import policy_problems as tiny
from reporting import for_all

from moesim.contract import NO_MOVES
from moesim.policies.caching.lru import LRU
from moesim.policies.kit.cache import LayerLru

SHAPES = [(16, 1, 1, 4), (16, 2, 1, 5), (32, 4, 2, 12), (16, 4, 6, 3), (8, 2, 1, 0)]


def run(cache: LayerLru, visits, experts: int):
    """Hits per visit and final content, with `keep` and `evict` applied as the engine does."""
    resident, hits = np.zeros(experts, dtype=bool), []
    for counts in visits:
        used = counts > 0
        hits.append(int((used & resident).sum()))
        moves = cache.after_layer(tiny.step_of(0, counts, np.flatnonzero(used & ~resident)), resident)
        if moves.evict is not None:
            assert resident[moves.evict[:, 1]].all()
            assert not used[moves.evict[:, 1]].any()
            resident[moves.evict[:, 1]] = False
        if moves.keep is not None:
            resident[moves.keep] = True
        assert resident.sum() <= cache.capacity[0]
    return hits, resident


def reference(capacity: int, visits):
    """A plain LRU over an OrderedDict: hits are decided at the start of a visit, then misses come in, fewest tokens first."""
    content, hits = OrderedDict(), []
    for counts in visits:
        active = sorted(np.flatnonzero(counts), key=lambda e: (counts[e], e))
        missing = [e for e in active if e not in content]
        hits.append(len(active) - len(missing))
        idle = [e for e in content if e not in active]
        room = capacity - (len(active) - len(missing))
        for e in missing[max(len(missing) - room, 0) :] if room > 0 else []:
            if len(content) == capacity:
                del content[idle.pop(0)]
            content[e] = True
        for e in active:
            if e in content:
                content.move_to_end(e)
    return hits, sorted(content)


@for_all(SHAPES, range(4))
def test_hits_equal_a_plain_lru_on_random_traces(shape, seed):
    experts, top_k, tokens, capacity = shape
    rng = np.random.default_rng(seed)
    shares = tiny.popularity(experts, 1, seed=seed)[0]
    visits = []
    for _ in range(200):
        ids = np.concatenate([rng.choice(experts, top_k, replace=False, p=shares) for _ in range(tokens)])
        visits.append(np.bincount(ids, minlength=experts))
    hits, resident = run(LayerLru(np.array([capacity]), 1, experts), visits, experts)
    expected, content = reference(capacity, visits)
    assert hits == expected
    assert np.flatnonzero(resident).tolist() == content
    assert sum(hits) > 0 or capacity == 0


def test_top_1_equals_the_textbook():
    visits = [np.eye(4, dtype=np.int64)[e] for e in (0, 1, 2, 0, 3, 0, 1, 2)]
    hits, _ = run(LayerLru(np.array([3]), 1, 4), visits, 4)
    assert hits == [0, 0, 0, 1, 0, 1, 0, 0]


def test_more_active_than_fit_keeps_those_it_had_and_the_busiest_misses():
    cache = LayerLru(np.array([3]), 1, 6)
    resident = np.array([True, False, False, False, False, True])
    moves = cache.after_layer(tiny.step_of(0, [1, 4, 9, 2, 7, 0], [1, 2, 3, 4]), resident)
    assert sorted(moves.keep.tolist()) == [2, 4]
    assert moves.evict.tolist() == [[0, 5]]


def test_nothing_moves_on_hits():
    cache = LayerLru(np.array([2]), 1, 3)
    assert cache.after_layer(tiny.step_of(0, [1, 1, 0]), np.array([True, True, False])) is NO_MOVES


def test_what_has_no_tokens_is_not_kept():
    cache = LayerLru(np.array([2]), 1, 3)
    moves = cache.after_layer(tiny.step_of(0, [1, 0, 0], [0, 1]), np.zeros(3, dtype=bool))
    assert moves.keep.tolist() == [0]


def test_policy_starts_with_the_profile_and_evicts_its_least_popular_first():
    p = tiny.problem()
    deployment = LRU(capacity=3).deploy(p)
    assert deployment.resident.sum(axis=1).tolist() == [3, 3, 3]
    order = np.argsort(-p.popularity[1])
    missing = int(order[-1])
    step = tiny.step_of(1, np.eye(8, dtype=int)[missing], [missing])
    moves = deployment.cache.after_layer(step, deployment.resident[1])
    assert moves.keep.tolist() == [missing]
    assert moves.evict.tolist() == [[1, int(order[2])]]


def test_policy_may_start_empty_with_the_same_room():
    p = tiny.problem(tiny.system(hbm=0.12e9))
    empty, full = LRU(start="empty").deploy(p), LRU().deploy(p)
    assert not empty.resident.any()
    assert (empty.cache.capacity == full.resident.sum(axis=1)).all()
    assert (full.home != p.gpu_tier_index).all()


def test_two_runs_of_one_policy_share_nothing():
    p, policy = tiny.problem(), LRU()
    first, second = policy.deploy(p), policy.deploy(p)
    first.cache.after_layer(tiny.step_of(0, [1] + [0] * 7), first.resident[0])
    assert first.cache.last_use[0, 0] != second.cache.last_use[0, 0]
