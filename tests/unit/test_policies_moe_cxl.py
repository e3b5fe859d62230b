"""MoE-CXL: placement by frequency and device, migration with hysteresis, prefetch from history."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from moesim.policies.history import CoOccurrence, hashed
from moesim.policies.migration import Terms, exchanges, relocations
from moesim.policies.moe_cxl import MoeCxl

_spec = importlib.util.spec_from_file_location("policy_problems", Path(__file__).parents[1] / "policy_problems.py")
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

TERMS = Terms(horizon=50.0, hysteresis=0.2, limit=8)


def scene(**machine):
    machine = {"cxl": {"slow": (0.04e9, 10e9), "fast": (0.04e9, 20e9)}, "hbm": 0.1e9, "ddr": 1e9} | machine
    profile = tiny.popularity(8, 3) * np.array([[1.0], [1.03], [1.07]])  # no ties
    return tiny.problem(tiny.system(**machine), work=tiny.job(requests=2), profile=profile)


def apply(view, moves):
    """What the engine does with moves, at once."""
    if moves.evict is not None:
        assert view.resident[tuple(moves.evict.T)].all()
        view.resident[tuple(moves.evict.T)] = False
    if moves.load is not None:
        assert not view.resident[tuple(moves.load.T)].any()
        view.resident[tuple(moves.load.T)] = True
    if moves.migrate is not None and len(moves.migrate):
        view.home[moves.migrate[:, 0], moves.migrate[:, 1]] = moves.migrate[:, 2]


def changes(moves) -> int:
    return sum(len(part) for part in (moves.evict, moves.load, moves.migrate) if part is not None)


def test_hottest_in_gpu_memory_then_cxl_then_dram():
    p = scene()
    deployment = MoeCxl().deploy(p)
    heat, tier = p.popularity, deployment.home
    cxl = np.isin(tier, [p.tiers.index("slow"), p.tiers.index("fast")])
    away = ~deployment.resident
    assert 0 < deployment.resident.sum() < 24
    assert heat[deployment.resident].min() >= heat[away].max()
    assert heat[away & cxl].min() >= heat[away & ~cxl].max()
    assert (tier != p.gpu_tier_index).all()


def test_hottest_of_the_cxl_experts_goes_to_the_faster_device():
    p = scene()
    deployment = MoeCxl(prefetch=0).deploy(p)
    away = np.where(deployment.resident, -1.0, p.popularity)
    assert deployment.home.ravel()[away.argmax()] == p.tiers.index("fast")
    fast = deployment.home == p.tiers.index("fast")
    slow = deployment.home == p.tiers.index("slow")
    assert away[fast].mean() > away[slow].mean()


def test_swapping_names_of_devices_changes_nothing_else():
    first = MoeCxl().deploy(scene())
    swapped = scene(cxl={"slow": (0.04e9, 20e9), "fast": (0.04e9, 10e9)})
    second = MoeCxl().deploy(swapped)
    assert (first.resident == second.resident).all()
    other = {0: 0, 1: 1, 2: 3, 3: 2}
    assert (np.vectorize(other.get)(first.home) == second.home).all()


def test_nvme_comes_last():
    p = scene(ddr=0.04e9, nvme=1e9)
    deployment = MoeCxl().deploy(p)
    last = deployment.home == p.tiers.index("ssd")
    assert last.any()
    away = ~deployment.resident
    assert deployment.resident[last].all() or p.popularity[last & away].max() <= p.popularity[~last & away].min()
    assert deployment.resident[last].any()  # master copies of residents are read least


def periods(policy, p, deployment, counts, number: int):
    """Changes after each of `number` periods of one pass with `counts` [L, E]."""
    view = tiny.view_of(p, deployment)
    made = []
    for _ in range(number):
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        apply(view, moves)
        made.append(changes(moves))
    return made, view


def test_stationary_counts_settle_and_never_thrash():
    p = scene()
    policy = MoeCxl(period=1, prefetch=0)
    counts = np.random.default_rng(3).permuted(np.tile([40, 20, 10, 5, 2, 1, 0, 0], (3, 1)), axis=1)
    made, view = periods(policy, p, policy.deploy(p), counts, 60)
    assert sum(made) > 0
    assert made[-30:] == [0] * 30
    assert counts[view.resident].min() > 0


def test_noise_around_equal_frequencies_exchanges_almost_nothing():
    p = scene()
    policy = MoeCxl(period=8, prefetch=0)
    view = tiny.view_of(p, policy.deploy(p))
    rng, made = np.random.default_rng(5), []
    for _ in range(50 * 8):
        counts = np.stack([rng.permutation([1, 1, 1, 1, 0, 0, 0, 0]) for _ in range(3)])
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        apply(view, moves)
        made.append(changes(moves))
    assert sum(made[8 * 20 :]) / 30 < 1.5  # per period, of up to 16 + 16


def test_a_shift_of_popularity_is_followed():
    p = scene()
    policy = MoeCxl(period=1, prefetch=0, alpha=0.3)
    deployment = policy.deploy(p)
    counts = np.where(deployment.resident, 0, 3)
    _, view = periods(policy, p, deployment, counts, 30)
    assert counts[view.resident].all()
    assert view.resident.sum() == deployment.resident.sum()


def test_exchange_needs_a_gain_over_cost_and_hysteresis():
    saved, held = np.ones(3), np.array([True, False, False])

    def swap(cold, hot):
        return exchanges(np.array([cold, hot, 0.0]), saved, held, held, 1, TERMS)[0].tolist()

    assert swap(1.0, 1.0) == []
    assert swap(1.0, 1.2) == []
    assert swap(1.0, 1.23) == [1]
    assert swap(0.0, 0.023) == []  # 0.023 * 50 periods < 1.2 copies
    assert swap(0.0, 0.025) == [1]


def test_free_slots_are_filled_before_anything_is_dropped():
    frequency = np.array([1.0, 9.0, 8.0, 7.0])
    held = np.array([True, False, False, False])
    load, drop = exchanges(frequency, np.ones(4), held, held, 3, TERMS)
    assert (load.tolist(), drop.tolist()) == ([1, 2, 3], [0])
    load, drop = exchanges(frequency, np.ones(4), held, held, 4, TERMS)
    assert (load.tolist(), drop.tolist()) == ([1, 2, 3], [])


def test_relocation_goes_to_the_cheapest_tier_with_room():
    access, move = np.array([4.0, 1.0, 2.0]), np.full((3, 3), 10.0)
    arguments = {"access": access, "occupied": access, "move": move, "sizes": np.ones(2), "movable": np.ones(2, bool)}
    arguments["terms"] = TERMS
    frequency, home = np.array([1.0, 0.02]), np.array([0, 0])
    assert relocations(frequency, home, room=np.array([0.0, 5.0, 5.0]), **arguments) == [(0, 1)]
    assert relocations(frequency, home, room=np.array([0.0, 0.5, 5.0]), **arguments) == [(0, 2)]
    assert relocations(frequency, home, room=np.zeros(3), **arguments) == []


def test_history_learns_who_follows_whom():
    history = CoOccurrence(np.full((2, 4), 0.25), top_k=1)
    for _ in range(50):
        history.learn(0, np.array([1, 0, 0, 0]), np.array([0, 0, 1, 0]))
    assert history.chance(0, np.array([1, 0, 0, 0])).argmax() == 2
    assert history.expected(0, np.array([3, 1, 0, 0])).sum() == pytest.approx(4.0, rel=1e-5)
    assert history.chance(0, np.array([0, 1, 0, 0])) == pytest.approx(np.full(4, 1 - np.exp(-0.25)), rel=1e-5)


def test_a_crowded_visit_teaches_nothing_about_pairs():
    history = CoOccurrence(np.full((2, 4), 0.25), 1)
    before = history.expected(0, np.array([1, 0, 0, 0]))
    history.learn(0, np.array([1, 1, 1, 0]), np.array([0, 0, 1, 2]))
    assert (history.expected(0, np.array([1, 0, 0, 0])) == before).all()


def test_prefetch_loads_what_is_likely_and_drops_it_after_its_layer():
    p = scene()
    policy = MoeCxl()
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    view.resident[1] = False
    view.free_slots = 4
    deployment.state.window["decode"] = 1.0
    for _ in range(40):
        deployment.state.history.learn(0, np.array([2] + [0] * 6 + [2]), np.array([0, 2, 0, 0, 0, 0, 2, 0]))
    moves = policy.adapt(tiny.step_of(0, [2] + [0] * 6 + [2]), view)
    assert sorted(moves.load[:, 1].tolist()) == [1, 6]
    assert (moves.load[:, 0] == 1).all()
    apply(view, moves)
    after = policy.adapt(tiny.step_of(1, [0, 2, 0, 0, 0, 0, 2, 0]), view)
    assert sorted(map(tuple, after.evict.tolist())) == [(1, 1), (1, 6)]


def test_prefetch_gives_way_to_a_full_queue_and_to_full_memory():
    p = scene()
    policy = MoeCxl()
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    view.resident[1] = False
    counts = [1] * 8
    assert policy.adapt(tiny.step_of(0, counts), view).load is None
    view.free_slots = 4
    assert policy.adapt(tiny.step_of(0, counts), view).load is None  # no time to hide a copy in
    deployment.state.window["decode"] = 1.0
    assert len(policy.adapt(tiny.step_of(0, counts), view).load) > 1
    deployment.state.borrowed[:] = False
    view.backlog = {"pcie:forward": 10.0}
    assert policy.adapt(tiny.step_of(0, counts), view).load is None


def test_window_of_a_prefetch_is_measured():
    p = scene()
    policy = MoeCxl(alpha=0.5)
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    policy.adapt(tiny.step_of(0, [1] * 8), view)
    view.now = 0.004
    policy.dispatch(tiny.visit_of(p, deployment, 1, [1] * 8), view)
    assert deployment.state.window == {"prefill": 0.0, "decode": 0.002}
    policy.dispatch(tiny.visit_of(p, deployment, 0, [1] * 8), view)
    assert deployment.state.window["decode"] == 0.002


def test_hash_is_spread_and_the_same_in_every_run():
    values = hashed(40, 64)
    assert (np.histogram(values, 8, (0, 1))[0] > 250).all()
    assert values[0, 0] == hashed(1, 1)[0, 0]
    assert len(np.unique(values)) == 40 * 64


def test_without_moves_the_placement_is_frozen():
    p = scene()
    policy = MoeCxl(moves=0, period=1, prefetch=0)
    deployment = policy.deploy(p)
    made, _ = periods(policy, p, deployment, np.where(deployment.resident, 0, 3), 10)
    assert made == [0] * 10
