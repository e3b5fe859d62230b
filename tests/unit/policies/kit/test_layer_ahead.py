"""HybriMoE's prefill: the whole next layer is fetched while a layer runs, into room that decode lends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.plugins import find
from moesim.testing.watched import Run, run_world
from moesim.testing.worlds import World, machine, popularity, small_job, small_model
from moesim.workload.table import RoutingTable

LAYERS, EXPERTS, TOP_K, PROMPT, TOKENS = 5, 12, 2, 200, 4


def world(requests: int = 1, hbm: float = 260e6) -> World:
    """Prompts that use every expert of every layer; a few tokens each."""
    rng, shares = np.random.default_rng(1), popularity(EXPERTS, LAYERS, 0.3)
    prefill = np.zeros((requests, LAYERS, EXPERTS), dtype=np.uint32)
    for r, layer in np.ndindex(requests, LAYERS):
        prefill[r, layer] = PROMPT * TOP_K // EXPERTS
        prefill[r, layer, : PROMPT * TOP_K % EXPERTS] += 1
    decode = np.argsort(rng.random((requests, TOKENS - 1, LAYERS, EXPERTS)), axis=-1)[..., :TOP_K].astype(np.uint8)
    shape = small_model(experts=EXPERTS, layers=LAYERS, top_k=TOP_K)
    job = small_job([PROMPT] * requests, [TOKENS] * requests, LAYERS)
    return World("prefill", "", machine(hbm=hbm), shape, job, RoutingTable(prefill, decode, EXPERTS, shares))


def ran(w: World, **parameters: Any) -> Run:
    run = run_world(w, find("policies", "hybrimoe")(**parameters))
    assert run.error is None, run.error
    return run


def fetched(call) -> set[tuple[int, int]]:
    moves = call.answer.moves
    return set() if moves is None or moves.load is None else {(layer, expert) for layer, expert in moves.load.tolist()}


def test_a_prefill_fetches_every_missing_expert_of_the_next_layer():
    run = ran(world(hbm=500e6), buffers=2 * EXPERTS, capacity=3, prefetch=0)
    for call in run.calls:
        if call.slot == "dispatch":
            missing = np.flatnonzero(~call.resident[call.layer + 1]) if call.layer + 1 < LAYERS else np.zeros(0, dtype=int)
            expected = {(call.layer + 1, e) for e in missing.tolist()} if call.phase == "prefill" else set()
            assert fetched(call) == expected
    recorder = run.outcome.recorder
    assert recorder.passes[0].uploads == EXPERTS - 3  # those of the first layer alone wait for their routing
    assert recorder.prefetches.used == recorder.prefetches.copies == (LAYERS - 1) * (EXPERTS - 3)


def test_what_is_fetched_ahead_crosses_while_attention_runs():
    w = world(hbm=500e6)
    ahead, behind = (ran(w, buffers=buffers, capacity=3, prefetch=0) for buffers in (2 * EXPERTS, 0))
    first = [run.outcome.recorder.first_token[0] for run in (ahead, behind)]
    assert not any(fetched(call) for call in behind.calls if call.slot == "dispatch")
    attention = behind.outcome.recorder.breakdown.laps[0]["gpu"]
    assert 0 < first[1] - first[0] <= attention
    assert ahead.outcome.recorder.caused["prefetch"] + ahead.outcome.recorder.caused["demand"] == pytest.approx(
        behind.outcome.recorder.caused["demand"]
    )


def test_decode_lends_the_room_of_the_buffers_to_the_cache():
    run = ran(world(requests=3), batch=1, prefetch=4)
    held = run.deployment.resident.sum()
    p, d = run.problem, run.deployment
    room = p.gpu_free(d.plan) // p.model.expert_bytes
    assert held < room
    most = {"prefill": 0, "decode": 0}
    for call in run.calls:
        most[call.phase] = max(most[call.phase], int(np.count_nonzero(call.resident | call.in_flight)))
        if call.slot == "dispatch" and call.phase == "prefill" and call.layer > 0:
            per_layer = call.resident.sum(axis=1)[call.layer + 2 :]
            assert (per_layer <= run.deployment.resident.sum(axis=1)[call.layer + 2 :]).all()
    assert held < most["decode"] <= room
    assert most["prefill"] <= room


def test_no_buffers_where_both_devices_take_the_prompts():
    w = world()
    both, plain = ran(w, prefill="schedule"), ran(w, buffers=0)
    assert (both.deployment.resident == plain.deployment.resident).all()
    assert not any(fetched(call) for call in both.calls if call.slot == "dispatch")
