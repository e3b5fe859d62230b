"""Eviction rules against plain ones, and the policies made of them."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest
from reporting import for_all

from moesim.contract import NO_MOVES
from moesim.policies.caching.fifo import FIFO
from moesim.policies.caching.huang_buffering import HuangBuffering
from moesim.policies.caching.lfu import LFU
from moesim.policies.caching.mixtral_offloading import MixtralOffloading
from moesim.policies.kit.cache import LayerFifo, LayerLfu, LayerLifo, LayerLru, LayerRandom, LayerScore
from moesim.policies.kit.cached import Cache

SIZE = 8


def run(cache, visits):
    """Content after every visit, with `keep` and `evict` applied as the engine does; counts hits."""
    resident, contents, hits = np.zeros(SIZE, dtype=bool), [], 0
    for counts in visits:
        counts = np.asarray(counts)
        used = counts > 0
        hits += int((used & resident).sum())
        moves = cache.after_layer(tiny.step_of(0, counts, np.flatnonzero(used & ~resident)), resident)
        if moves.evict is not None:
            assert resident[moves.evict[:, 1]].all()
            resident[moves.evict[:, 1]] = False
        if moves.keep is not None:
            resident[moves.keep] = True
        assert resident.sum() <= cache.capacity[0]
        contents.append(np.flatnonzero(resident).tolist())
    return contents, hits


def one_by_one(trace):
    return [np.eye(SIZE, dtype=int)[e] for e in trace]


def of(kind, capacity, *rest):
    return kind(np.array([capacity]), 1, SIZE, *rest)


def reference(trace, capacity, victim):
    """Hits of a plain cache met by one expert at a time; `victim(content, uses, last, entered)` says who leaves."""
    content, uses, last, entered, hits = [], {}, {}, {}, 0
    for now, e in enumerate(trace):
        uses[e], last[e] = uses.get(e, 0) + 1, now
        if e in content:
            hits += 1
            continue
        if len(content) == capacity:
            content.remove(victim(content, uses, last, entered))
        content.append(e)
        entered[e] = now
    return hits


RULES = {
    LayerLru: lambda content, uses, last, entered: min(content, key=lambda e: last[e]),
    LayerLfu: lambda content, uses, last, entered: min(content, key=lambda e: (uses[e], last[e])),
    LayerFifo: lambda content, uses, last, entered: min(content, key=lambda e: entered[e]),
    LayerLifo: lambda content, uses, last, entered: max(content, key=lambda e: entered[e]),
}


@for_all(RULES, range(5), [1, 3, 5])
def test_hits_equal_a_plain_cache(kind, seed, capacity):
    trace = np.random.default_rng(seed).choice(SIZE, 150, p=tiny.popularity(SIZE, 1, seed=seed)[0]).tolist()
    hits = run(of(kind, capacity), one_by_one(trace))[1]
    assert hits == reference(trace, capacity, RULES[kind]) > 0


def test_rules_differ_as_their_names_say():
    trace = [0, 0, 1, 2, 0, 3]  # on the last one: 1 used longest ago and 0 came first, 0 most used, 2 came last
    left = {kind: run(of(kind, 3), one_by_one(trace))[0][-1] for kind in RULES}
    assert left == {LayerLru: [0, 2, 3], LayerLfu: [0, 2, 3], LayerFifo: [1, 2, 3], LayerLifo: [0, 1, 3]}


def test_lfu_forgets_recency_where_uses_differ():
    trace = [0, 1, 1, 2, 0, 0, 2, 3]
    assert run(of(LayerLfu, 3), one_by_one([*trace[:-1], 1, 1, 0, 3]))[0][-1] == [0, 1, 3]


def test_an_overflowing_layer_rotates_the_rest_through_one_slot():
    cache = of(LayerLifo, 3)
    contents, _ = run(cache, [[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0]])
    assert contents == [[0, 1, 4], [0, 5, 6]]  # 4 and 1 were idle and came in last


def test_a_full_buffer_of_active_experts_gives_up_the_slot_filled_last():
    contents, _ = run(of(LayerLifo, 3), [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]])
    assert contents == [[0, 1], [0, 1, 2], [0, 1, 5]]


def test_cyclic_batches_are_where_lifo_beats_lru():
    cycle = [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0]] * 10
    assert run(of(LayerLifo, 4), cycle)[1] == 18
    assert run(of(LayerLru, 4), cycle)[1] == 0


def test_score_is_a_moving_average_of_shares_of_the_heaviest():
    cache = LayerScore(np.array([2]), 1, 4, alpha=0.5, top=2)
    for counts in ([4, 2, 2, 0], [0, 0, 1, 3]):
        cache.after_layer(tiny.step_of(0, counts), np.zeros(4, dtype=bool))
    assert cache.keys[0].tolist() == [0.125, 0.0625, 0.125, 0.375]


def test_the_lowest_score_leaves():
    cache = of(LayerScore, 2)
    assert run(cache, [[5, 0, 0, 0, 0, 0, 0, 0], [1, 9, 0, 0, 0, 0, 0, 0], [0, 0, 4, 0, 0, 0, 0, 0]])[0][-1] == [1, 2]


def test_random_draws_from_what_it_was_given():
    trace = one_by_one(np.random.default_rng(0).integers(0, SIZE, 60))
    first, again, reseeded = (run(of(LayerRandom, 3, np.random.default_rng(s)), trace)[0] for s in (1, 1, 2))
    assert first == again != reseeded


def test_copies_on_their_way_take_room():
    cache = of(LayerLru, 3)
    resident = np.array([True] + [False] * 7)
    moves = cache.after_layer(tiny.step_of(0, [0, 1, 1, 0, 0, 0, 0, 0], [1, 2]), resident, coming=1)
    assert sorted(moves.keep.tolist()) == [1, 2]
    assert moves.evict.tolist() == [[0, 0]]


@pytest.mark.parametrize(("policy", "kind"), [(LFU(), LayerLfu), (FIFO(), LayerFifo), (Cache(eviction="score"), LayerScore)])
def test_policies_keep_what_they_upload(policy, kind):
    p = tiny.problem(tiny.system(hbm=0.12e9))
    deployment = policy.model_copy(update={"capacity": 3}).deploy(p)
    assert isinstance(deployment.cache, kind)
    assert deployment.resident.sum(axis=1).tolist() == [3, 3, 3]
    missing = int(np.argmin(p.popularity[1]))
    step = tiny.step_of(1, np.eye(8, dtype=int)[missing], [missing])
    moves = deployment.cache.after_layer(step, deployment.resident[1])
    assert moves.keep.tolist() == [missing]
    assert len(moves.evict) == 1


def test_huang_starts_empty_and_runs_everything_on_the_gpu():
    p = tiny.problem()
    deployment = HuangBuffering(capacity=4).deploy(p)
    assert not deployment.resident.any()
    assert deployment.cache.capacity.tolist() == [4, 4, 4]
    visit = tiny.visit_of(p, deployment, 0, [1] * 8)
    assert (HuangBuffering().dispatch(visit, tiny.view_of(p, deployment)).device == p.attending_index).all()


def test_mixtral_offloading_starts_with_the_highest_ids():
    p = tiny.problem()
    deployment = MixtralOffloading(offloaded=5).deploy(p)
    assert deployment.resident.tolist() == [[False] * 5 + [True] * 3] * 3
    assert (deployment.plan.staging, deployment.plan.swap) == (2, 2)  # four buffers, half of them for copies home
    hit = MixtralOffloading().adapt(tiny.step_of(0, [0, 0, 0, 0, 0, 1, 1, 0]), tiny.view_of(p, deployment))
    assert hit is NO_MOVES
    view = tiny.view_of(p, deployment)
    moves = MixtralOffloading().adapt(tiny.step_of(0, [2, 0, 0, 0, 0, 0, 0, 0], [0]), view)
    assert (moves.keep.tolist(), moves.evict.tolist()) == ([0], [[0, 7]])
