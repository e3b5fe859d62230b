"""Policies whose weights swap places or whose experts cross in pieces: what it costs them, and what it saves them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.clock import SECOND
from moesim.plugins import find
from moesim.testing.watched import Run, run_world
from moesim.testing.worlds import World, machine, popularity, small_job, small_model
from moesim.workload.table import RoutingTable

LAYERS, EXPERTS, TOP_K, TOKENS = 4, 8, 2, 24
SIZE = small_model().expert_bytes


def world(hbm: float = 190e6, pcie: float = 25e9, seed: int = 0) -> World:
    """One short conversation in which every token asks for experts anew."""
    rng, shares = np.random.default_rng(seed), popularity(EXPERTS, LAYERS, 0.3, seed)
    picks = np.stack([rng.choice(EXPERTS, TOP_K, replace=False) for _ in range(LAYERS * TOKENS)]).reshape(TOKENS, LAYERS, TOP_K)
    prefill = np.zeros((1, LAYERS, EXPERTS), dtype=np.uint32)
    np.put_along_axis(prefill[0], picks[0], 1, axis=1)
    table = RoutingTable(prefill, picks[None, 1:].astype(np.uint8), EXPERTS, shares)
    shape = small_model(experts=EXPERTS, layers=LAYERS, top_k=TOP_K)
    return World("swaps", "", machine(hbm=hbm, pcie=pcie), shape, small_job([1], [TOKENS], LAYERS), table)


def ran(name: str, w: World, **parameters: Any) -> Run:
    run = run_world(w, find("policies", name)(**parameters))
    assert run.error is None, run.error
    return run


def makespan(run: Run) -> int:
    assert run.outcome is not None
    return run.outcome.recorder.makespan


# mixtral-offloading


def test_mixtral_offloading_copies_home_what_it_evicts():
    swapped, dropped = ran("mixtral_offloading", world()), ran("mixtral_offloading", world(), swap=False)
    out = [call.answer.evict for call in swapped.calls if call.slot == "adapt" and call.answer.evict is not None]
    evicted = sum(len(pairs) for pairs in out)
    caused = swapped.outcome.recorder.caused
    assert evicted > 20
    assert evicted - 2 <= caused["eviction"] / SIZE <= evicted  # some may be under way when the last token is there
    assert caused["demand"] == dropped.outcome.recorder.caused["demand"]
    assert "eviction" not in dropped.outcome.recorder.caused
    moved = swapped.outcome.recorder.moved["pcie:reverse"] - dropped.outcome.recorder.moved["pcie:reverse"]
    assert moved == pytest.approx(caused["eviction"])


def test_a_swap_holds_up_the_routing_of_the_next_layer_by_a_copy_at_most():
    """A layer's two evictions go one by one, and the expert ids of the next go ahead of the second."""
    swapped, dropped = ran("mixtral_offloading", world()), ran("mixtral_offloading", world(), swap=False)
    home = float(swapped.problem.costs.copy(SIZE, "hbm", "ddr")) * SECOND
    later = makespan(swapped) - makespan(dropped)
    held = [run.outcome.recorder.critical["pcie:reverse"] for run in (swapped, dropped)]
    assert 0.3 * home * LAYERS * (TOKENS - 1) < later <= home * LAYERS * (TOKENS - 1)
    assert held[0] - held[1] == pytest.approx(later, rel=1e-3)


def test_four_buffers_are_shared_between_the_ways():
    for staging, into, home in ((4, 2, 2), (3, 2, 1), (1, 1, 1)):
        d = ran("mixtral_offloading", world(), staging=staging).deployment
        assert (d.plan.staging, d.plan.swap) == (into, home)
    d = ran("mixtral_offloading", world(), swap=False).deployment
    assert (d.plan.staging, d.plan.swap) == (4, 0)


def test_speculated_experts_that_nobody_used_are_in_the_host_still():
    run = ran("mixtral_offloading", world(), speculate=1, predictor={"kind": "gate", "recall": [0.3]})
    prefetches, caused = run.outcome.recorder.prefetches, run.outcome.recorder.caused
    vain = prefetches.copies - prefetches.used
    assert vain > 5
    arrived = caused["demand"] / SIZE + prefetches.used  # of what came and was used no more can have left
    assert caused["eviction"] / SIZE <= arrived


# ProMoE


def test_promoe_lets_a_demanded_expert_go_ahead_between_two_matrices():
    """A predictor that is always wrong keeps the link busy: what is demanded waits for a third of a copy, not for all of it."""
    never = {"kind": "learned", "recall": [0.0, 0.0], "cost": 0}
    third, whole = (ran("promoe", world(), predictor=never, pieces=pieces) for pieces in (3, 1))
    assert third.deployment.pieces == 3
    assert ran("promoe", world()).deployment.pieces == 3
    assert makespan(third) < makespan(whole)


def test_pieces_pay_their_set_up():
    w = world()
    copies = [ran("promoe", w, pieces=pieces).calls[0].seen.copy.max() for pieces in (1, 3)]
    assert copies[1] - copies[0] == pytest.approx(2 * (1e-5 + 1e-7))  # PCIe and the latency of the memory behind it


# AdapMoE


def test_adapmoe_starts_an_expert_when_its_first_matrix_is_there():
    """At one token a layer ends a third of an expert after its last copy, where it ended a whole one after it."""
    w = world(pcie=100e9)
    links = {"pcie": w.system.links["pcie"].model_copy(update={"setup": 0.0})}
    w = replace(w, system=w.system.model_copy(update={"links": links}))
    early, late = (ran("adapmoe", w, gating=False, prefetch=0, pieces=pieces) for pieces in (3, 1))
    assert (early.deployment.pieces, late.deployment.pieces) == (3, 1)
    p, recorder = early.problem, early.outcome.recorder
    uploads = int(recorder.layers.uploads.sum())
    assert uploads == late.outcome.recorder.layers.uploads.sum()
    waited = sum(1 for call in early.calls if call.slot == "adapt" and len(call.seen.uploaded))
    gpu = float(p.costs.gpu(1)) + p.costs.calls("gpu").apart
    set_up = 2 * float(p.costs.path("ddr", "hbm").setup) * uploads  # the latency of the memory, once for each matrix
    saved = (makespan(late) - makespan(early)) / SECOND
    assert saved + set_up == pytest.approx(waited * gpu * 2 / 3, rel=1e-3)
