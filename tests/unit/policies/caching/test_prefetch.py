"""Policies that fetch experts ahead: what they fetch when, what becomes of it, and what it saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import policy_problems as tiny
import pytest

import moesim
from moesim.contract import Problem, Visit
from moesim.plugins import find
from moesim.testing.watched import run_world
from moesim.testing.worlds import World, machine, popularity, small_job, small_model
from moesim.workload.table import RoutingTable

LAYERS, EXPERTS, TOP_K, TOKENS = 6, 16, 2, 14
SIZE = small_model().expert_bytes


def world(requests: int = 1, hbm: float = 230e6, attention: bool = True, pcie: float = 25e9, seed: int = 0) -> World:
    """One or more short conversations; routing keeps a third of the last token's experts."""
    shape = small_model(experts=EXPERTS, layers=LAYERS, top_k=TOP_K)
    job = small_job([6] * requests, [TOKENS] * requests, LAYERS, attention)
    rng, shares = np.random.default_rng(seed), popularity(EXPERTS, LAYERS, 0.6, seed)
    prefill = np.zeros((requests, LAYERS, EXPERTS), dtype=np.uint32)
    decode = np.zeros((requests, TOKENS - 1, LAYERS, TOP_K), dtype=np.uint8)
    for r in range(requests):
        for layer in range(LAYERS):
            last = rng.choice(EXPERTS, TOP_K, replace=False, p=shares[layer])
            for token in range(6 + TOKENS - 1):
                if rng.random() > 1 / 3:
                    last = rng.choice(EXPERTS, TOP_K, replace=False, p=shares[layer])
                if token < 6:
                    prefill[r, layer, last] += 1
                else:
                    decode[r, token - 6, layer] = last
    table = RoutingTable(prefill, decode, EXPERTS, shares)
    return World("prefetch", "", machine(hbm=hbm, pcie=pcie), shape, job, table)


def ran(name: str, w: World, **parameters: Any):
    run = run_world(w, find("policies", name)(**parameters))
    assert run.error is None, run.error
    return run


def makespan(name: str, w: World, **parameters: Any) -> int:
    return ran(name, w, **parameters).outcome.recorder.makespan


def loads(call) -> list[tuple[int, int]]:
    moves = call.answer.moves if call.slot == "dispatch" else call.answer
    return [] if moves is None or moves.load is None else [tuple(pair) for pair in moves.load.tolist()]


def evicted(call) -> list[tuple[int, int]]:
    moves = call.answer.moves if call.slot == "dispatch" else call.answer
    return [] if moves is None or moves.evict is None else [tuple(pair) for pair in moves.evict.tolist()]


# the general one


def test_a_perfect_predictor_fetches_what_is_missing_of_the_next_layer_and_all_of_it_is_used():
    run = ran("prefetch", world(), predictor={"kind": "perfect"}, buffers=4)
    dispatches = [call for call in run.calls if call.slot == "dispatch" and call.phase == "decode"]
    for call, following in pairwise(dispatches):
        requested = set(loads(call))
        if call.layer == LAYERS - 1:
            assert not requested
            continue
        active = {(following.layer, e) for e in np.flatnonzero(following.seen.counts).tolist()}
        there = {pair for pair in active if call.resident[pair] or call.in_flight[pair]}
        assert requested == active - there
    prefetches = run.outcome.recorder.prefetches
    assert prefetches.used == prefetches.copies > 0


def test_what_was_fetched_in_vain_is_dropped_and_the_cache_never_knows():
    run = ran("prefetch", world(), predictor={"kind": "gate", "recall": [0.3]})
    fetched, vain = set(), 0
    for call in run.calls:
        if call.slot == "dispatch":
            fetched |= set(loads(call))
            continue
        mine = {pair for pair in fetched if pair[0] == call.layer}
        used = {(call.layer, e) for e in np.flatnonzero(call.seen.counts).tolist()}
        out = set(evicted(call))
        assert mine - used <= out
        vain += len(mine - used)
        fetched -= mine
    assert vain > 10
    sizes = [int(np.count_nonzero(call.resident)) for call in run.calls if call.slot == "dispatch" and call.layer == 0]
    assert max(sizes[1:]) <= run.deployment.resident.sum()  # buffers are empty between passes


@pytest.mark.parametrize("predictor", ["gate", "history", "sequence", "map", "popularity", "learned"])
def test_buffers_never_hold_more_than_their_share(predictor):
    run = ran("prefetch", world(requests=3), predictor={"kind": predictor}, buffers=3, depth=2)
    for call in run.calls:
        held = np.count_nonzero(call.resident | call.in_flight)
        assert held <= run.deployment.resident.sum() + 3


def test_time_saved_goes_by_recall():
    """The same cache, one link: the better the gate, the sooner; and a bad one is worse than none."""
    w = world(pcie=100e9)
    spans = [makespan("prefetch", w, predictor={"kind": "gate", "recall": [r], "cost": 0}, buffers=4) for r in (0.0, 0.5, 1.0)]
    none = makespan("prefetch", w, predictor={"kind": "gate", "cost": 0}, buffers=0, capacity=_capacity(w))
    assert spans[2] < spans[1] < spans[0]
    assert spans[2] < none < spans[0]


def _capacity(w: World) -> int:
    """Experts per layer beside four buffers, where all layers get equally many."""
    run = ran("prefetch", w, buffers=4)
    return int(run.deployment.resident.sum(axis=1).min())


def test_nothing_is_fetched_where_everything_fits():
    run = ran("prefetch", world(hbm=2e9), predictor={"kind": "perfect"})
    assert run.deployment.resident.all()
    assert not any(loads(call) for call in run.calls)


def test_a_depth_one_prefetch_saves_at_most_the_rest_of_the_layer():
    """Overlap window of a prefetch: what runs between one layer's routing and the next one's; the link's work stays."""
    w = world(pcie=25e9)
    perfect = ran("prefetch", w, predictor={"kind": "perfect"}, buffers=4)
    none = ran("prefetch", w, predictor={"kind": "perfect"}, buffers=0, capacity=_capacity(w))
    recorder = none.outcome.recorder
    window = sum(time for lane, time in recorder.busy.items() if not lane.startswith("pcie"))
    saved = recorder.makespan - perfect.outcome.recorder.makespan
    assert 0 < saved <= window
    assert perfect.outcome.recorder.makespan >= perfect.outcome.recorder.busy["pcie:forward"]


# a predictor on the host


def test_a_prediction_that_takes_time_leaves_at_a_later_decision():
    slow = ran("promoe", world(), predictor={"kind": "learned", "recall": [1.0, 1.0], "cost": 1.0})
    assert not any(loads(call) for call in slow.calls)
    quick = ran("promoe", world(), predictor={"kind": "learned", "recall": [1.0, 1.0], "cost": 0})
    partial = ran("promoe", world(), predictor={"kind": "learned", "recall": [1.0, 1.0], "cost": 5e-5})
    assert all(call.slot == "dispatch" for call in quick.calls if loads(call))
    assert any(call.slot == "adapt" for call in partial.calls if loads(call))


def test_promoe_looks_a_stride_ahead():
    run = ran("promoe", world(), predictor={"kind": "learned", "recall": [1.0, 1.0], "cost": 0})
    for call in run.calls:
        assert {layer for layer, _ in loads(call)} <= {call.layer + 2}
    assert any(loads(call) for call in run.calls)


# AdapMoE


def test_adapmoe_leaves_out_an_expert_as_often_as_its_layers_say():
    w = world(seed=3)
    chances = (0.0, 1.0)
    run = ran("adapmoe", w, single=chances)
    single = np.linspace(0.0, 1.0, LAYERS)
    dropped, met = np.zeros(LAYERS), np.zeros(LAYERS)
    for call in run.calls:
        if call.slot != "dispatch" or call.phase != "decode":
            assert call.slot != "dispatch" or call.answer.counts is None
            continue
        met[call.layer] += 1
        if call.answer.counts is not None:
            assert call.answer.counts.sum() == TOP_K - 1
            assert (call.answer.counts <= call.seen.counts).all()
            dropped[call.layer] += 1
    assert dropped[0] == 0
    assert dropped[-1] == met[-1]
    spread = np.sqrt(single * (1 - single) * met)
    assert (np.abs(dropped - single * met) <= 4 * spread + 1e-9).all()
    quality = run.outcome.recorder.quality
    assert quality.skipped == dropped.sum()
    assert quality.replaced == 0


def test_adapmoe_serves_batches_without_gating_and_prefetch():
    run = ran("adapmoe", world(requests=3))
    assert run.outcome.recorder.quality.skipped == 0
    assert not any(loads(call) for call in run.calls)
    lossless = ran("adapmoe", world(), gating=False)
    assert lossless.outcome.recorder.quality.skipped == 0
    assert any(loads(call) for call in lossless.calls)


def test_adapmoe_fetches_the_first_missing_expert_of_the_next_layer_alone():
    run = ran("adapmoe", world(), gating=False, accuracy=(1.0, 1.0))
    assert max(len(loads(call)) for call in run.calls) == 1


def test_adapmoe_gives_the_first_layers_more_slots():
    run = ran("adapmoe", world(), total=24)
    slots = run.deployment.resident.sum(axis=1)
    assert slots.sum() == 24
    assert slots[0] == slots.max() > slots[-1]
    equal = ran("adapmoe", world(), total=24, slots="equal").deployment.resident.sum(axis=1)
    assert equal.tolist() == [4] * LAYERS


def test_an_expert_that_was_left_out_counts_as_unused():
    """Whatever its cache keeps was computed: no upload and no use of an expert without tokens."""
    run = ran("adapmoe", world(), single=(1.0, 1.0), prefetch=0)
    for call, after in pairwise(run.calls):
        if call.slot == "dispatch" and call.answer.counts is not None:
            left_out = np.flatnonzero(call.seen.counts - call.answer.counts)
            assert not set(left_out.tolist()) & set(after.seen.uploaded.tolist())


# Pre-gated MoE


def test_pre_gated_waits_for_uploads_of_the_first_block_only():
    run = ran("pre_gated", world())
    for call in run.calls:
        if call.slot == "adapt" and call.phase == "decode":
            assert (len(call.seen.uploaded) > 0) == (call.layer == 0)
    assert not any(loads(call) for call in run.calls if call.phase == "prefill" or call.layer == LAYERS - 1)
    prefetches = run.outcome.recorder.prefetches
    assert prefetches.used == prefetches.copies == (TOKENS - 1) * (LAYERS - 1) * TOP_K


def test_pre_gated_holds_two_buffers_of_active_experts():
    run = ran("pre_gated", world())
    assert not run.deployment.resident.any()
    held = [int(np.count_nonzero(call.resident | call.in_flight)) for call in run.calls]
    assert max(held) <= 2 * TOP_K


def test_pre_gated_lies_between_on_demand_and_everything_resident():
    w = world(pcie=100e9)
    pre, demand = makespan("pre_gated", w), makespan("on_demand", w)
    everything = makespan("gpu_only", world(hbm=2e9, pcie=100e9))
    assert everything < pre < demand
    slow_ids = makespan("pre_gated", w, ids=1e-3)
    assert slow_ids >= pre + (TOKENS - 1) * LAYERS * 0.5e9  # ps; prompts pay too


def test_pre_gated_keeps_a_cache_where_asked():
    run = ran("pre_gated", world(), cached=0.25)
    assert run.deployment.resident.sum(axis=1).tolist() == [4] * LAYERS
    assert makespan("pre_gated", world(), cached=0.25) < makespan("pre_gated", world())


# one pool


def test_moe_infinity_fetches_as_its_paper_says_and_not_as_its_release_does():
    run = ran("moe_infinity", world(requests=2), prefetch=False)
    assert not any(loads(call) for call in run.calls)
    on = ran("moe_infinity", world(requests=2), trace={"kind": "sequence", "per_cell": 0})
    assert any(loads(call) for call in on.calls)


@pytest.mark.parametrize("eviction", ["lfu", "activation", "lru", "lru_ds"])
@pytest.mark.parametrize("prefetch", [False, True])
def test_the_pool_never_overflows_and_spares_what_runs(eviction, prefetch):
    run = ran("moe_infinity", world(requests=2), eviction=eviction, prefetch=prefetch, flight=3)
    slots = int(run.deployment.resident.sum())
    for call in run.calls:
        assert np.count_nonzero(call.resident | call.in_flight) <= slots
        active = {(call.layer, e) for e in np.flatnonzero(call.seen.counts).tolist()} if call.layer >= 0 else set()
        assert not active & set(evicted(call))


def test_lru_ds_spares_the_next_three_layers():
    run = ran("moe_infinity", world(requests=2), eviction="lru_ds", prefetch=False)
    for call in run.calls:
        if call.slot == "adapt":
            near = {(call.layer + step) % LAYERS for step in (1, 2, 3)}
            far = [pair for pair in np.argwhere(call.resident).tolist() if pair[0] not in near | {call.layer}]
            if len(far) >= len(evicted(call)):
                assert not near & {layer for layer, _ in evicted(call)}


def test_activation_evicts_the_least_of_decay_share_and_visits():
    """The formula, from what had been seen, on every eviction of a run; a lot worth less than one visit breaks ties."""
    run = ran("moe_infinity", world(), eviction="activation", prefetch=False)
    matrix, uses = np.zeros((LAYERS, EXPERTS)), np.zeros((LAYERS, EXPERTS))
    checked = 0
    for call in run.calls:
        if call.slot == "dispatch":
            matrix[call.layer] += call.seen.counts
            uses[call.layer] += call.seen.counts > 0
            continue
        stays = call.resident.copy()
        stays[call.layer, call.seen.counts > 0] = False
        for pair in evicted(call):
            stays[pair] = False
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        weight = share * (1 - ((np.arange(LAYERS) - call.layer - 1) % LAYERS + 1) / (LAYERS + 1))[:, None]
        if evicted(call) and stays.any():
            assert max((weight * uses)[pair] for pair in evicted(call)) <= (weight * (uses + 1))[stays].min() + 1e-6
            checked += 1
        uses[call.layer, call.answer.keep] = 1
    assert checked > 20


def test_finemoe_looks_its_distance_ahead_and_at_the_first_layer_nearer_too():
    run = ran("finemoe", world(requests=2), maps={"kind": "map", "distance": 3})
    for call in run.calls:
        if call.slot == "dispatch":
            layers = {layer - call.layer for layer, _ in loads(call)}
            assert layers <= ({1, 2, 3} if call.layer == 0 else {3})
    assert any(loads(call) for call in run.calls)


# prefetch halves of other systems


def test_mixtral_offloading_speculates_only_when_asked():
    plain = ran("mixtral_offloading", world())
    assert not any(loads(call) for call in plain.calls)
    on = ran("mixtral_offloading", world(), speculate=1, predictor={"kind": "gate", "recall": [1.0]})
    assert 0 < max(len(loads(call)) for call in on.calls) <= 1
    assert not any(loads(call) for call in on.calls if call.phase == "prefill")
    prefetches = on.outcome.recorder.prefetches
    assert prefetches.used == prefetches.copies


@dataclass
class Seen:
    """A visit that foresees the tokens that a test gives for later layers."""

    foreseen: dict[int, np.ndarray] = field(default_factory=dict)

    def __call__(self, depth: int):
        return self.foreseen.get(depth)


def test_hybrimoe_fetches_what_shortens_a_later_schedule_most():
    """Layer 1 has one missing expert with few tokens, layer 2 one with many that takes the CPU longer: that one goes first."""
    shape = small_model(experts=8, layers=3)
    profile = popularity(8, 3)
    p = Problem(shape, machine(hbm=110e6), small_job([8] * 4, [4] * 4, 3), profile, np.random.default_rng(0))
    policy = find("policies", "hybrimoe")(choose="impact", prefetch=1, horizon=2)
    deployment = policy.deploy(p)
    view = tiny.view_of(p, deployment)
    missing = [int(np.flatnonzero(~deployment.resident[layer])[0]) for layer in range(3)]
    there = [np.flatnonzero(deployment.resident[layer]) for layer in range(3)]
    near, far = np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64)
    near[missing[1]], near[there[1][:2]] = 1, 1
    far[[missing[2], *np.flatnonzero(~deployment.resident[2])[1:4]]] = 2
    impact = deployment.state.impact
    gains = [impact.gains(view.resident[layer], counts, view.home[layer]) for layer, counts in ((1, near), (2, far))]
    best = [(float(g.max()), layer, int(e[g.argmax()])) for layer, (e, g) in zip((1, 2), gains, strict=True)]
    counts = np.zeros(8, dtype=np.int64)
    counts[there[0][:2]] = 1
    single = tiny.visit_of(p, deployment, 0, counts)
    visit = Visit(
        0, "decode", 0, 1, counts, single.gpu, single.cpu, single.local, single.copy, single.resident, Seen({1: near, 2: far})
    )
    moves = policy.dispatch(visit, view).moves
    assert moves.load.tolist() == [list(max(best)[1:])]
    assert max(best)[0] > 0


def test_hybrimoe_by_impact_fetches_only_in_decode_and_within_its_horizon():
    run = ran("hybrimoe", world(requests=2), choose="impact", horizon=2, buffers=0)
    assert any(loads(call) for call in run.calls)
    for call in run.calls:
        assert call.phase == "decode" or not loads(call)
        assert {layer - call.layer for layer, _ in loads(call)} <= {1, 2}


def test_a_copy_that_nobody_waits_for_any_more_is_called_off_or_dropped():
    """Slow link, wrong gate: copies of a layer that has run land late and leave without having been the cache's."""
    w = world(pcie=1e9)
    run = ran("prefetch", w, predictor={"kind": "gate", "recall": [0.0]}, buffers=4)
    outcome = run.outcome
    assert outcome.recorder.prefetches.used <= outcome.recorder.prefetches.copies
    late = {pair for call in run.calls for pair in evicted(call) if call.resident[pair] and pair[0] != call.layer}
    assert late


def test_a_policy_object_with_times_in_it_is_repeated_from_its_result(tmp_path):
    stated = find("policies", "prefetch")(predictor={"kind": "learned", "cost": 123e-6}, buffers=2)
    small = {"workload.requests": 1, "workload.prompt": 8, "workload.output": 3}
    first = moesim.run("quickstart", policy=stated, **small)
    first.save(tmp_path)
    again = moesim.run(tmp_path / "result.json")
    assert again.summary["makespan_s"] == first.summary["makespan_s"]
    assert again.summary["policy"] == "prefetch"
