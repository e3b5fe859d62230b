"""Bounds on caches and prefetchers: Belady against every rule and against all choices, the prefetch oracle, the lower bound."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.contract import Future, Step
from moesim.engine.books.energy_and_cost import bound_seconds
from moesim.engine.foresight_view import hindsight
from moesim.plugins import BUILT_IN, find
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.bounds.belady import Belady, BeladyGlobal, BestStatic, LayerBelady, soonest
from moesim.policies.bounds.oracle_prefetch import OraclePrefetch
from moesim.policies.kit.cache import LayerCache
from moesim.policies.kit.cached import Cache, Eviction, layer_cache
from moesim.testing import small_worlds
from moesim.testing.watched import Run, run_world
from moesim.testing.worlds import World
from moesim.workload.table import RoutingTable

RULES: tuple[Eviction, ...] = ("lru", "lfu", "fifo", "lifo", "random", "score")
WORLDS = {world.name: world for world in small_worlds()}
ROUTING = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "routing"
HOSTED = [world for world in small_worlds() if world.name != "gpu_alone"]


class _Rng:
    """What `layer_cache` takes of a problem."""

    def __init__(self, experts: int) -> None:
        self.layers, self.experts, self.rng = 1, experts, np.random.default_rng(0)


def replay(cache: LayerCache, visits: list[np.ndarray], start: np.ndarray, future: Future | None = None) -> int:
    """Requests for experts that meet a copy, with keeps and evictions applied as the engine does; `start` [E]."""
    resident, hits = start.copy(), 0
    cache.warm(np.arange(len(start), dtype=np.int64)[None, :])
    for number, counts in enumerate(visits):
        used = counts > 0
        hits += int((used & resident).sum())
        if future is not None and isinstance(cache, LayerBelady):
            future.move(number, 1, 0, 0)
            cache.expect(0, future.next_use(0))
        moves = cache.after_layer(Step(number, "decode", 0, counts, np.flatnonzero(used & ~resident)), resident)
        if moves.evict is not None:
            resident[moves.evict[:, 1]] = False
        if moves.keep is not None:
            resident[moves.keep] = True
        assert resident.sum() <= max(int(cache.capacity[0]), int(start.sum()))
    return hits


def most_hits(visits: list[np.ndarray], start: np.ndarray, capacity: int) -> int:
    """By trying everything: after each visit any `capacity` of what was there and what was uploaded may stay."""
    used = [frozenset(np.flatnonzero(counts)) for counts in visits]

    @cache
    def best(number: int, held: frozenset[int]) -> int:
        if number == len(used):
            return 0
        choice = held | used[number]
        size = min(capacity, len(choice))
        return len(held & used[number]) + max(
            best(number + 1, frozenset(subset)) for subset in combinations(sorted(choice), size)
        )

    return best(0, frozenset(np.flatnonzero(start)))


@st.composite
def traces(draw: st.DrawFn, experts: int = 12, longest: int = 40) -> tuple[list[np.ndarray], np.ndarray, int]:
    """(visits, start, capacity): skewed and sticky routing of one to five tokens, any capacity, any start of that size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens, top_k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sticky, capacity = draw(st.floats(0, 0.95)), draw(st.integers(0, experts))
    shares = rng.dirichlet(np.full(experts, draw(st.sampled_from([0.2, 1.0, 10.0]))) + 0.01)
    visits, before = [], None
    for _ in range(draw(st.integers(1, longest))):
        keys = rng.exponential(size=(tokens, experts)) / shares
        ids = np.argsort(keys, axis=1)[:, :top_k]
        if before is not None:
            ids = np.where(rng.random((tokens, 1)) < sticky, before, ids)
        visits.append(np.bincount(ids.ravel(), minlength=experts))
        before = ids
    start = np.zeros(experts, dtype=np.bool_)
    start[rng.permutation(experts)[:capacity]] = True
    return visits, start, capacity


@given(traces())
@settings(max_examples=80, deadline=None)
def test_no_rule_hits_more_often_than_belady(trace):
    visits, start, capacity = trace
    limit, experts = np.array([capacity]), len(start)
    future = Future([counts[None, :] for counts in visits])
    belady = replay(LayerBelady(limit, 1, experts), visits, start, future)
    for rule in RULES:
        assert belady >= replay(layer_cache(rule, _Rng(experts), limit), visits, start), rule  # type: ignore[arg-type]


@given(traces(experts=5, longest=8))
@settings(max_examples=60, deadline=None)
def test_belady_is_the_best_of_all_choices(trace):
    visits, start, capacity = trace
    future = Future([counts[None, :] for counts in visits])
    assert replay(LayerBelady(np.array([capacity]), 1, 5), visits, start, future) == most_hits(visits, start, capacity)


@pytest.mark.parametrize("name", ["gpt-oss-20b_decode", "deepseek-v2-lite_esft_prefill"])
def test_belady_is_above_all_rules_on_recorded_routing(name):
    """One token at a time, 150 of them, a quarter and a half of the experts in the cache."""
    path = ROUTING / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no recorded routing at {path}")
    ids = np.load(path)["experts"][:150, ::11].astype(np.int64)  # [tokens, layers, k]
    experts = int(ids.max()) + 1
    for layer in range(ids.shape[1]):
        visits = [np.bincount(row, minlength=experts) for row in ids[:, layer]]
        future = Future([counts[None, :] for counts in visits])
        for capacity in (experts // 4, experts // 2):
            limit, start = np.array([capacity]), np.arange(experts) < capacity
            belady = replay(LayerBelady(limit, 1, experts), visits, start, future)
            online = [replay(layer_cache(rule, _Rng(experts), limit), visits, start) for rule in RULES]  # type: ignore[arg-type]
            assert belady > max(online)


def test_soonest_keeps_who_is_there_on_a_tie():
    keep, drop = soonest(np.array([3, 3, 1, 9]), np.array([True, False, False, True]), np.array([False, True, True, False]), 2)
    assert (keep.tolist(), drop.tolist()) == ([2], [3])
    keep, drop = soonest(np.array([3, 3]), np.array([True, False]), np.array([False, True]), 1)
    assert (keep.tolist(), drop.tolist()) == ([], [])


def test_next_use_can_be_asked_from_a_later_visit_on():
    future = Future([np.array([row]) for row in ([1, 0], [0, 1], [0, 1], [1, 0])])
    future.move(0, 1, 0, 0)
    assert future.next_use(0).tolist() == [2, 0]
    assert future.next_use(0, 1).tolist() == [1, 0]
    assert future.next_use(0, 2)[0] == 0
    assert future.next_use(0, 2)[1] > 1e6
    assert (future.next_use(0, 99) > 1e6).all()


def ran(policy, world: World) -> Run:
    run = run_world(world, policy)
    assert run.outcome is not None, run.error
    return run


def uploads(run: Run) -> int:
    assert run.outcome is not None
    return int(run.outcome.recorder.layers.uploads.sum())


def hits(run: Run) -> int:
    assert run.outcome is not None
    return int(run.outcome.recorder.layers.hits.sum())


def rerouted(world: World, seed: int) -> World:
    """The world with other draws, skewed otherwise."""
    table, rng = world.routing, np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(table.experts, 0.5), size=table.layers) + 0.01
    keys = rng.exponential(size=(*table.decode.shape[:3], table.experts)) / shares
    decode = np.argsort(keys, axis=-1)[..., : table.top_k].astype(table.decode.dtype)
    return world.rerouted(RoutingTable(table.prefill, decode, table.experts, table.profile))


@pytest.mark.parametrize(
    ("name", "start"), [("gpu_cpu", "empty"), ("near_data", "profile"), ("storage", "empty"), ("gpu_host", "profile")]
)
def test_in_runs_no_cache_uploads_less_than_belady_and_none_less_than_one_pool(name, start):
    """Same capacity per layer and same start; one sequence at a time, and as many as fit."""
    world = rerouted(WORLDS[name], seed=len(start))
    for batch, rules in ((1, RULES), (None, ("lru", "score"))):
        belady = ran(Belady(start=start, batch=batch, capacity=4), world)
        pool = ran(BeladyGlobal(start=start, batch=batch, capacity=4), world)
        assert uploads(pool) <= uploads(belady)
        for rule in rules:
            cached = ran(Cache(eviction=rule, start=start, batch=batch, capacity=4), world)
            assert uploads(belady) <= uploads(cached), rule


@pytest.mark.parametrize("world", HOSTED, ids=lambda world: world.name)
def test_no_fixed_choice_hits_more_often_than_that_of_hindsight(world):
    assert hits(ran(BestStatic(rule="global"), world)) >= hits(ran(StaticPopularity(rule="global"), world))
    table, job = world.routing, world.job
    totals = table.prefill_counts(np.arange(job.requests))
    for request in range(job.requests):
        for position in range(job.output[request] - 1):
            totals += table.decode_counts(np.array([request]), position)
    assert hindsight(job, table) == pytest.approx(totals / totals.sum(axis=1, keepdims=True))
    for limit in (1, 3):
        best = ran(BestStatic(limit=limit), world)
        assert hits(best) >= hits(ran(StaticPopularity(limit=limit), world))
        top = np.sort(totals, axis=1)[:, ::-1][:, :limit].sum()
        assert hits(best) == top or best.deployment.resident.sum() < limit * job.layers  # type: ignore[union-attr]


def fetches_ahead(run: Run) -> bool:
    """Whether it does, changes no output and computes on the GPU alone."""
    if run.outcome is None or not run.outcome.recorder.prefetches.copies:
        return False
    record = run.outcome.recorder
    lossless = list(record.quality.precision) == [record.quality.native] and not record.quality.skipped
    lossless &= not (record.quality.replaced or record.quality.stale)
    return lossless and {device for device, tokens in record.expert_tokens.items() if tokens} == {"gpu"}


def test_no_prefetcher_is_faster_than_the_oracle():
    """In the small worlds: the same GPU memory, whatever the prefetcher. Who fetches nothing in one is not run in the next."""
    names = [name for name in BUILT_IN["policies"] if name != "optimum" and not find("policies", name).clairvoyant]
    met = set()
    for world in (WORLDS[name] for name in ("gpu_cpu", "cxl", "storage", "gpu_host")):
        oracle = ran(OraclePrefetch(), world)
        runs = {name: run_world(world, find("policies", name)()) for name in names}
        ahead = {name: run for name, run in runs.items() if fetches_ahead(run)}
        for name, run in ahead.items():
            assert oracle.outcome.recorder.makespan <= run.outcome.recorder.makespan, (world.name, name)  # type: ignore[union-attr]
        met |= set(ahead)
        names = [name for name, run in runs.items() if name in ahead or run.outcome is None]
    assert {"prefetch", "promoe"} <= met


@pytest.mark.parametrize("batch", [1, None])
def test_the_oracle_fetches_what_is_used_and_no_more_than_belady_uploads(batch):
    """With one pool of the same size and equal copies, a copy ahead of need replaces a demand; none is made in vain."""
    world = WORLDS["gpu_cpu"]
    run = ran(OraclePrefetch(batch=batch, buffer=0, staging=2), world)
    record = run.outcome.recorder  # type: ignore[union-attr]
    assert record.prefetches.used == record.prefetches.copies > 0
    pool = ran(BeladyGlobal(batch=batch), world)
    start = (run.deployment.resident != pool.deployment.resident).sum()  # type: ignore[union-attr]
    assert uploads(run) + record.prefetches.copies <= uploads(pool) + start


@pytest.mark.parametrize("world", small_worlds(), ids=lambda world: world.name)
def test_no_policy_beats_the_lower_bound(world):
    """Clairvoyant and lossy ones neither: the bound takes their own counts and precisions."""
    for name in ("hobbit", "edgemoe", "daop", "context_cxl_ndp", "belady", "belady_global", "best_static", "oracle_prefetch",
                 "oracle_dispatch"):  # fmt: skip
        run = run_world(world, find("policies", name)())
        if run.outcome is not None:
            assert bound_seconds(run.problem, run.outcome) * 1e12 <= run.outcome.recorder.makespan * (1 + 1e-9), name
