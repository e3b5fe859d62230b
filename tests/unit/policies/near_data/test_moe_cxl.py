"""MoE-CXL: placement by frequency and device, migration with hysteresis, prefetch from history."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.errors import InputError
from moesim.policies.kit.history import CoOccurrence, hashed
from moesim.policies.kit.migration import Terms, exchanges
from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.policies.near_data.moe_cxl_devices import Devices, johnson, steal
from moesim.policies.near_data.moe_cxl_history import SequenceHistory
from moesim.policies.near_data.moe_cxl_placement import algorithm_1, crowded, difference, route, spare_copies

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
    if moves.retire is not None:
        view.replicas[moves.retire[:, 2], moves.retire[:, 0], moves.retire[:, 1]] = False
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
    exchanged = {0: 0, 1: 1, 2: 3, 3: 2}
    assert (np.vectorize(exchanged.get)(first.home) == second.home).all()


def test_nvme_comes_last():
    p = scene(ddr=0.04e9, far={"ssd": 1e9})
    deployment = MoeCxl().deploy(p)
    last = deployment.home == p.tiers.index("ssd")
    assert last.any()
    away = ~deployment.resident
    assert deployment.resident[last].all() or p.popularity[last & away].max() <= p.popularity[~last & away].min()
    assert deployment.resident[last].any()  # master copies of residents are read least


def periods(policy, p, deployment, counts, number: int):
    """Changes after each of `number` periods of one pass with `counts` [L, E]."""
    view = tiny.view_of(p, deployment)
    period_moves = []
    for _ in range(number):
        view.now += 1.0
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        apply(view, moves)
        period_moves.append(changes(moves))
    return period_moves, view


def test_stationary_counts_settle_and_never_thrash():
    p = scene()
    policy = MoeCxl(period=1, prefetch=0)
    counts = np.random.default_rng(3).permuted(np.tile([40, 20, 10, 5, 2, 1, 0, 0], (3, 1)), axis=1)
    moves, view = periods(policy, p, policy.deploy(p), counts, 60)
    assert sum(moves) > 0
    assert moves[-30:] == [0] * 30
    assert counts[view.resident].min() > 0


def test_a_hash_breaks_ties_of_frequency_and_overrules_no_difference():
    """Two of eight experts are a millionth more popular than the rest, which are equal."""
    p = scene()
    profile = np.full((3, 8), 1 / 8)
    profile[:, 5:7] += 1e-6
    p = tiny.problem(p.system, work=p.job, profile=profile)
    frequency, tie = MoeCxl()._first(p, 2)
    order = np.argsort(-(frequency + tie), axis=1)
    by_hash = np.argsort(-hashed(3, 8), axis=1)
    for layer in range(3):
        hottest = np.isin(by_hash[layer], (5, 6))
        assert order[layer].tolist() == [*by_hash[layer][hottest], *by_hash[layer][~hottest]]


def test_noise_around_equal_frequencies_exchanges_almost_nothing():
    p = scene()
    policy = MoeCxl(period=8, prefetch=0)
    view = tiny.view_of(p, policy.deploy(p))
    rng, period_moves = np.random.default_rng(5), []
    for _ in range(50 * 8):
        counts = np.stack([rng.permutation([1, 1, 1, 1, 0, 0, 0, 0]) for _ in range(3)])
        moves = policy.adapt(tiny.step_of(-1, counts), view)
        apply(view, moves)
        period_moves.append(changes(moves))
    assert sum(period_moves[8 * 20 :]) / 30 < 1.5  # per period, of up to 16 + 16


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
        return exchanges(np.array([cold, hot, 0.0]), saved, held, held, 1, TERMS._replace(margin=0.2))[0].tolist()

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


def devices(access, cxl=(), move=10.0, scores=None) -> Devices:
    """Tiers with these seconds per use; the first is GPU memory."""
    access, tiers = np.array(access, dtype=float), len(access)
    far, near_tiers = list(cxl), [t for t in range(1, tiers) if t not in cxl]
    is_cxl = np.isin(np.arange(tiers), far)
    costs = np.full((tiers, tiers), move)
    shard = np.zeros((16, tiers))
    return Devices(access, access, costs, np.full(tiers, 10.0), is_cxl, (), far, near_tiers, shard, scores)


def test_algorithm_1_sorts_and_fills() -> None:
    tiers = devices([0, 1, 1.5, 4, 9], cxl=(1, 2))
    frequency = np.array([3.0, 9.0, 5.0, 1.0, 2.0, 0.5, 7.0])
    mapping = algorithm_1(frequency, 1, tiers, np.array([0, 1, 2, 1, 9]))
    assert np.flatnonzero(mapping.resident).tolist() == [1]
    # by F: 6 to the faster device, 2 to the other (5 x 1.5 < 5 + 7), 0 there, 4 to DRAM, the rest to storage
    assert mapping.home.tolist() == [2, 4, 2, 4, 3, 4, 1]
    with_masters = algorithm_1(frequency, 1, tiers, np.array([0, 1, 2, 1, 9]), inclusive=True)
    assert with_masters.home[1] == 1  # the hottest keeps the fastest place in the host, too
    none = algorithm_1(frequency, 0, tiers, np.zeros(5))
    assert (none.home == -1).all()
    assert not none.resident.any()


def test_a_hash_takes_the_place_of_the_device_cost_within_the_cxl_tier() -> None:
    scores = np.array([[0.0, 2.0, 1.0, 0, 0], [0.0, 1.0, 2.0, 0, 0]])
    mapping = algorithm_1(np.array([2.0, 1.0]), 0, devices([0, 1, 9, 9, 9], cxl=(1, 2), scores=scores), np.full(5, 9.0))
    assert mapping.home.tolist() == [2, 1]


def test_the_difference_is_moves_where_there_is_room_and_swaps_where_a_device_is_full() -> None:
    tiers, none = devices([0, 1, 4, 9], cxl=(1,)), np.zeros(3)
    frequency, home, target = np.array([5.0, 1.0, 4.0]), np.array([2, 1, 2]), np.array([1, 2, 1])
    room = np.array([0.0, 2.0, 9.0, 9.0])
    assert difference(frequency, none, home, target, tiers, room, TERMS) == [(0, 1), (2, 1)]
    room[1] = 0.0
    assert difference(frequency, none, home, target, tiers, room, TERMS) == [(1, 2), (0, 1)]
    assert difference(frequency, np.full(3, 2.0), home, target, tiers, room, TERMS) == []  # 5 +- 2 and 1 +- 2 may be equal
    near = np.array([1.1, 1.0, 0.5])
    assert difference(near, none, home, target, tiers, room, TERMS) == []  # 0.1 x 3 s in 50 periods is less than two copies
    near[0] = 1.2  # and 0.2 x 3 s is more, though it is no more than a sixth of what the other is used
    assert difference(near, none, home, target, tiers, room, TERMS) == [(1, 2), (0, 1)]
    dear = devices([0, 1, 4, 9], cxl=(1,), move=1000.0)
    assert difference(frequency, none, home, target, dear, room, TERMS) == []


def test_where_nobody_leaves_its_target_an_expert_takes_a_place_that_is_given_up_elsewhere() -> None:
    tiers, none, full = devices([0, 1, 1.1, 9], cxl=(1,)), np.zeros(3), np.zeros(4)
    frequency, home, target = np.array([5.0, 3.0, 0.0]), np.array([3, 1, 2]), np.array([1, 2, 3])
    # 1 leaves tier 1 for tier 2, which is full and as good as fast; 2 leaves tier 2 for storage, and is not read at all
    assert difference(frequency, none, home, target, tiers, full, TERMS) == [(1, 2), (0, 1)]
    stays = np.array([1, 1, 3])
    assert difference(frequency, none, home, stays, tiers, full, TERMS) == [(2, 3), (0, 2)]


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
    policy = MoeCxl(hint=None)
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    view.resident[1] = False
    view.free_slots = deployment.state.prefetcher.slots = 4
    deployment.state.prefetcher.window["decode"] = 1.0
    for _ in range(40):
        deployment.state.prefetcher.history.learn(0, np.array([2] + [0] * 6 + [2]), "decode")
        deployment.state.prefetcher.history.chance(0, np.array([2] + [0] * 6 + [2]), "decode")
        deployment.state.prefetcher.history.learn(1, np.array([0, 2, 0, 0, 0, 0, 2, 0]), "decode")
    moves = policy.adapt(tiny.step_of(0, [2] + [0] * 6 + [2]), view)
    assert sorted(moves.load[:, 1].tolist()) == [1, 6]
    assert (moves.load[:, 0] == 1).all()
    apply(view, moves)
    after = policy.adapt(tiny.step_of(1, [0, 2, 0, 0, 0, 0, 2, 0]), view)
    assert sorted(map(tuple, after.evict.tolist())) == [(1, 1), (1, 6)]


def test_prefetch_gives_way_to_a_full_queue_and_to_full_memory():
    p = scene()
    policy = MoeCxl(hint=None)
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    view.resident[1] = False
    counts = [1] * 8
    assert policy.adapt(tiny.step_of(0, counts), view).load is None
    view.free_slots = deployment.state.prefetcher.slots = 4
    assert policy.adapt(tiny.step_of(0, counts), view).load is None  # no time to hide a copy in
    deployment.state.prefetcher.window["decode"] = 1.0
    assert len(policy.adapt(tiny.step_of(0, counts), view).load) > 1
    deployment.state.prefetcher.borrowed[:] = False
    view.backlog = {"pcie:forward": 10.0}
    assert policy.adapt(tiny.step_of(0, counts), view).load is None


def test_window_of_a_prefetch_is_measured():
    p = scene()
    policy = MoeCxl(hint=None, alpha=0.5)
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    policy.adapt(tiny.step_of(0, [1] * 8), view)
    view.now = 0.004
    policy.dispatch(tiny.visit_of(p, deployment, 1, [1] * 8), view)
    assert deployment.state.prefetcher.window == {"prefill": 0.0, "decode": 0.002}
    policy.dispatch(tiny.visit_of(p, deployment, 0, [1] * 8), view)
    assert deployment.state.prefetcher.window["decode"] == 0.002


def test_hash_is_spread_and_the_same_in_every_run():
    values = hashed(40, 64)
    assert (np.histogram(values, 8, (0, 1))[0] > 250).all()
    assert values[0, 0] == hashed(1, 1)[0, 0]
    assert len(np.unique(values)) == 40 * 64


def test_without_moves_the_placement_is_frozen():
    p = scene()
    policy = MoeCxl(adapt_placement=False, period=1, prefetch=0)
    deployment = policy.deploy(p)
    moves, _ = periods(policy, p, deployment, np.where(deployment.resident, 0, 3), 10)
    assert moves == [0] * 10


def test_an_ngram_tells_what_one_layer_cannot() -> None:
    """Layer 2 repeats what layer 0 chose, whatever layer 1 did between them."""
    rng, even = np.random.default_rng(2), np.full((3, 4), 0.25)
    short, long = SequenceHistory(even, 1, 1, 1), SequenceHistory(even, 1, 1, 2)
    correct = {1: 0, 2: 0}
    for number in range(600):
        first, between = rng.integers(4, size=2)
        for layer, expert in enumerate((first, between, first)):
            counts = np.eye(4, dtype=np.int64)[expert]
            for history, order in ((short, 1), (long, 2)):
                if layer == 1:
                    history.learn(layer, counts, "prefill")
                    correct[order] += number >= 300 and history.chance(layer, counts, "prefill").argmax() == first
                else:
                    history.learn(layer, counts, "prefill")
    assert correct[2] == 300
    assert correct[1] < 130  # a quarter by chance
    assert long.weights[1] > 0.99


def test_repetition_from_pass_to_pass_is_learnt_in_decode_only() -> None:
    history = {phase: SequenceHistory(np.full((2, 8), 0.125), 1, 1, 1) for phase in ("decode", "prefill")}
    last = np.eye(8, dtype=np.int64)[5]
    for phase, trained in history.items():
        for turn in range(200):
            trained.learn(0, np.eye(8, dtype=np.int64)[turn % 3], phase)
            trained.chance(0, np.eye(8, dtype=np.int64)[turn % 3], phase)
            trained.learn(1, last, phase)
    assert history["decode"].chance(0, np.eye(8, dtype=np.int64)[0], "decode").argmax() == 5
    assert history["decode"]._stay[1] > 0.8
    assert history["prefill"]._stay[1] == 0


def test_trust_falls_with_every_expert_that_was_fetched_in_vain() -> None:
    history = SequenceHistory(np.full((2, 4), 0.25), 1, 1, 1)
    for _ in range(30):
        history.fetch(1, np.array([0, 1]), np.full(2, 0.9 * history.trust))
        history.learn(1, np.array([1, 0, 0, 0]), "decode")
    assert (history.fetched, history.used) == (60, 30)
    assert history.trust == pytest.approx(1 / 1.8, rel=0.03)


def test_confidence_keeps_guesses_back() -> None:
    p = scene()
    for confidence, prefetches in ((0.0, True), (0.999, False)):
        policy = MoeCxl(hint=None, confidence=confidence)
        deployment = policy.deploy(p)
        view = tiny.view_of(p, deployment)
        view.resident[1] = False
        view.free_slots = deployment.state.prefetcher.slots = 4
        deployment.state.prefetcher.window["decode"] = 1.0
        assert (policy.adapt(tiny.step_of(0, [1] * 8), view).load is not None) == prefetches


def sharded(spread: str, *names: str):
    """[E] device of each of 384 experts on devices of 10, 20 and 5 GB/s, of which only `names` have room."""
    sizes = {"a": (9e9, 10e9), "b": (9e9, 20e9), "c": (9e9, 5e9)}
    p = tiny.problem(tiny.system(cxl=sizes), tiny.model(experts=64, layers=6), tiny.job(layers=6))
    room = {**dict.fromkeys(p.system.host_tiers, 0.0), **dict.fromkeys(names, 9e9)}
    known = Devices.of(p, room, None, spread)
    heat, free = p.popularity.ravel(), known.slots(1e6, np.zeros(len(p.tiers), dtype=bool))
    home = algorithm_1(heat, 0, known, free).home
    return np.array([["a", "b", "c"].index(p.tiers[t]) for t in home.tolist()])


def test_sharding_by_hash_is_even_or_follows_bandwidth_and_a_lost_device_moves_its_own_experts_only() -> None:
    for spread, shares in (("hash", [1 / 3, 1 / 3, 1 / 3]), ("weighted_hash", [10 / 35, 20 / 35, 5 / 35])):
        three, two = sharded(spread, "a", "b", "c"), sharded(spread, "a", "b")
        assert np.bincount(three, minlength=3) / three.size == pytest.approx(shares, abs=0.07)
        assert (two == three)[three < 2].all()
    assert np.bincount(sharded("round_robin", "a", "b", "c")).tolist() == [128, 128, 128]


@pytest.mark.parametrize("spread", ["hash", "round_robin"])
def test_other_ways_of_spreading_keep_tiers_in_order(spread: str) -> None:
    p = scene()
    plain, spread_out = MoeCxl().deploy(p), MoeCxl(spread=spread).deploy(p)
    assert (plain.resident == spread_out.resident).all()
    cxl = [p.tiers.index("slow"), p.tiers.index("fast")]
    assert (np.isin(plain.home, cxl) == np.isin(spread_out.home, cxl)).all()
    assert (plain.home != spread_out.home).any()


def test_the_idlest_device_takes_an_expert_from_the_busiest() -> None:
    access = np.array([9.0, 1.0, 1.0])
    devices = Devices(
        access, access, np.ones((3, 3)), np.full(3, 10.0), np.array([False, True, True]), (), [1, 2], [], np.zeros((3, 3))
    )
    frequency, home, every = np.array([5.0, 3.0, 1.0]), np.array([1, 1, 1]), np.ones(3, bool)
    room, alone = np.full(3, 9.0), lambda expert: -1
    assert steal(frequency, home, devices, room, every, 0.2, alone) == [(0, 2)]
    assert steal(frequency, np.array([1, 1, 2]), devices, room, every, 0.2, alone) == [(0, 2)]
    assert steal(np.array([5.0, 0.0, 5.0]), np.array([1, 1, 2]), devices, room, every, 0.2, alone) == []
    assert steal(frequency, home, devices, np.array([9.0, 9.0, 0.0]), every, 0.2, alone) == []  # no room
    devices.access[2] = 1.3  # idle, but a third slower
    assert steal(frequency, home, devices, room, every, 0.2, alone) == []


def test_stealing_keeps_together_what_is_used_together() -> None:
    known, every, room = devices([0, 1, 1], cxl=(1, 2)), np.ones(4, bool), np.full(3, 9.0)
    frequency, home = np.array([5.0, 4.0, 3.0, 2.0]), np.full(4, 1)
    pairs = {0: 2, 2: 0, 1: 3, 3: 1}
    assert steal(frequency, home, known, room, every, 0.2, pairs.__getitem__) == [(0, 2), (2, 2)]
    # with 0 and 2 there would be as much to do as here, with 1 and 3 there is less
    assert steal(np.array([9.0, 4.0, 5.0, 2.0]), home, known, room, every, 0.5, pairs.__getitem__) == [(1, 2), (3, 2)]
    assert steal(frequency, np.array([1, 1, 2, 2]), known, room, every, 0.2, pairs.__getitem__) == []


def flow_shop(order, copy, gpu) -> float:
    copied = done = 0.0
    for expert in order:
        copied += copy[expert]
        done = max(done, copied) + gpu[expert]
    return done


def test_uploads_go_in_the_order_that_ends_soonest() -> None:
    rng = np.random.default_rng(11)
    for _ in range(30):
        copy, gpu = rng.uniform(1, 9, 5), rng.uniform(1, 9, 5)
        best = min(flow_shop(order, copy, gpu) for order in permutations(range(5)))
        sequence = johnson(copy, gpu, np.ones(5, bool), np.arange(5))
        assert flow_shop(sequence, copy, gpu) == pytest.approx(best, rel=1e-12)


def test_residents_keep_their_places_in_the_order_of_uploads() -> None:
    copy, gpu = np.array([0.0, 3.0, 0.0, 1.0]), np.ones(4)
    sequence = johnson(copy, gpu, np.array([False, True, False, True]), np.array([0, 2, 1, 3]))
    assert sequence.tolist() == [0, 2, 1, 3]
    gpu[1] = 9.0
    sequence = johnson(copy, gpu, np.array([False, True, False, True]), np.array([0, 2, 3, 1]))
    assert sequence.tolist() == [0, 2, 1, 3]


def test_it_refuses_a_machine_without_cxl_memory_unless_it_is_allowed() -> None:
    p = scene(cxl={})
    with pytest.raises(InputError, match="write 'cxl: none'"):
        MoeCxl().deploy(p)
    assert set(MoeCxl(cxl="none").deploy(p).home.ravel()) == {p.tiers.index("ddr")}


def test_storage_that_holds_everything_keeps_a_copy_and_smaller_storage_does_not() -> None:
    assert MoeCxl().deploy(scene(far={"ssd": 1e9})).backup == "ssd"
    assert MoeCxl().deploy(scene(far={"ssd": 20e6})).backup is None
    whole = 24 * scene().model.expert_bytes
    assert [MoeCxl().deploy(scene(far={"ssd": room})).backup for room in (whole - 1, whole)] == [None, "ssd"]


def test_beside_storage_that_holds_everything_a_tier_takes_the_experts_that_fit_and_no_more() -> None:
    """DRAM that lacks half a byte of room for ten experts has nine."""
    size, storage = scene().model.expert_bytes, {"ssd": 1e9}
    plain = scene()
    aside = 1e9 - MoeCxl(swap_slots=0).deploy(plain).state.devices.room[plain.tiers.index("ddr")]
    for spare, held in ((0.5, 9), (-0.5, 10)):
        p = scene(far=storage, ddr=aside + 10 * size - spare)
        state = MoeCxl().deploy(p).state
        assert state.devices.slots(size, np.zeros(len(p.tiers), dtype=bool))[p.tiers.index("ddr")] == held


def test_a_hint_that_is_right_gets_the_weight_and_one_that_is_not_loses_it() -> None:
    rng, even = np.random.default_rng(4), np.full((2, 8), 0.125)
    good, bad = (SequenceHistory(even, 1, 1, 1, hinted=True) for _ in range(2))
    for _ in range(300):
        first, second = np.eye(8, dtype=np.int64)[rng.integers(8, size=2)]
        for history, hint in ((good, second), (bad, np.roll(second, 1))):
            history.learn(0, first, "decode")
            history.chance(0, first, "decode", hint)
            history.learn(1, second, "decode")
    assert good.weights[-1] > 0.99
    assert bad.weights[-1] < 0.01
    assert good.chance(0, np.eye(8, dtype=np.int64)[0], "decode", np.eye(8, dtype=np.int64)[3]).argmax() == 3


def test_requests_go_to_the_copy_with_the_least_queueing_delay() -> None:
    home, copies = np.array([1, 1, 2]), np.zeros((3, 3), bool)
    assert route(copies, home, np.array([0.0, 2.0, 1.0])) is None
    copies[2, :2] = True
    assert route(copies, home, np.array([0.0, 2.0, 1.0])).tolist() == [2, 2, -1]
    assert route(copies, home, np.array([0.0, 2.0, 1.0 + 1.5])) is None  # what waits at the faster device counts
    copies[1, 2] = True
    assert route(copies, home, np.array([0.0, 2.0, 2.5])).tolist() == [-1, -1, 1]


def test_spare_room_holds_further_copies_of_the_hottest_by_hash() -> None:
    known = devices([0, 1, 1, 4], cxl=(1, 2))
    known.shard[:, 1] = [1, 0, 1, 0] * 4
    known.shard[:, 2] = [0, 1, 0, 1] * 4
    frequency, home = np.array([9.0, 5.0, 4.0, 3.0]), np.array([1, 1, 3, 3])
    resident = np.array([True, False, False, False])
    copies = spare_copies(frequency, resident, home, known, np.array([0, 1, 9, 9]), 1)
    assert np.argwhere(copies).tolist() == [[1, 3], [2, 1], [2, 2]]  # 1 lives on its first device, 0 is in GPU memory
    both = spare_copies(frequency, resident, home, known, np.array([0, 9, 9, 9]), 2)
    assert both.sum(axis=0).tolist() == [0, 1, 2, 2]
    assert not spare_copies(frequency, resident, home, known, np.zeros(4), 1).any()
    assert crowded(copies, frequency, np.array([0, 0, 1, 0])) == [(2, 2)]


def test_places_of_prefetches_are_given_back_while_residents_would_save_more() -> None:
    prefetcher = MoeCxl().deploy(scene()).state.prefetcher
    prefetcher.slots, prefetcher.earned = 4, 10.0
    assert prefetcher.give_back(np.array([3.0, 3.0, 2.0, 2.0, 1.0]), 0.2) == 0
    assert [prefetcher.give_back(np.ones(5), 0.2) for _ in range(4)] == [2, 1, 1, 0]
    assert (prefetcher.slots, prefetcher.polluted) == (0, 7.0)


def test_what_the_next_pass_will_use_is_copied_into_a_faster_device_with_room() -> None:
    p = scene()
    policy = MoeCxl(hint=None)
    view = tiny.view_of(p, policy.deploy(p))
    prefetcher, fast = view.state.prefetcher, p.tiers.index("fast")
    view.home[:], view.resident[:] = p.tiers.index("ddr"), False
    prefetcher.devices.access[p.tiers.index("ddr")] = 1.0
    view.replicas = np.zeros((len(p.tiers), 3, 8), bool)
    counts = np.array([2, 0, 0, 0, 0, 0, 0, 2])
    for _ in range(200):
        prefetcher.history.learn(0, counts, "decode")
    room = np.zeros(len(p.tiers))
    assert len(prefetcher.nearer(view, room)) == 0
    room[fast] = 1
    (row,) = prefetcher.nearer(view, room).tolist()
    assert row in ([0, 0, fast], [0, 7, fast])
    view.replicas[fast, 0, [0, 7]] = True
    assert [0, 0, fast] not in prefetcher.nearer(view, room).tolist()


def test_next_layer_statistics_of_recorded_routing_are_known_from_the_start() -> None:
    pairs = np.zeros((1, 4, 4), dtype=np.int64)
    pairs[0, 1, 3] = 50
    even = np.full((2, 4), 0.25)
    plain = SequenceHistory(even, 1, 1, 1)
    known = SequenceHistory(even, 1, 1, 1, followers=lambda distance: pairs)
    used = np.array([0, 1, 0, 0])
    for history in (plain, known):
        history.learn(0, used, "decode")
    assert plain.chance(0, used, "decode") == pytest.approx(np.full(4, 1 - np.exp(-0.25)), rel=1e-5)
    assert known.chance(0, used, "decode").argmax() == 3
    assert known.partner(0, 1) == (1, 3)
    assert known.partner(1, 3) is None
