"""The decider of a pool writes what the slots of MoE-Infinity answer, visit after visit, as copies land and leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import policy_problems as tiny
import pytest
from reporting import for_all

from moesim import jit
from moesim.arrays import IntArray
from moesim.contract import Desk, Moves, Problem, Step, View
from moesim.policies.caching.moe_infinity import MoeInfinity
from moesim.policies.caching.moe_infinity_decider import PoolDecider
from moesim.policies.kit.compiled import pool_moves_kernel

LAYERS, EXPERTS = 3, 16


def scene(hbm: float = 64e9) -> Problem:
    return tiny.problem(tiny.system(hbm=hbm, ddr=64e9), tiny.model(experts=EXPERTS, layers=LAYERS), tiny.job(layers=LAYERS))


def tight() -> Problem:
    """A third of the experts fit into the pool."""
    roomy = scene()
    plan, number = MoeInfinity().deploy(roomy).plan, LAYERS * EXPERTS / 3 / 0.9
    return scene(64e9 - roomy.gpu_free(plan) + number * roomy.model.expert_bytes)


def desk_of(view: View) -> Desk:
    flags = (array.reshape(-1).view(np.uint8) for array in (view.resident, view.in_flight))
    room = LAYERS * EXPERTS + 1
    lists = (np.zeros(size, dtype=np.int64) for size in (EXPERTS, EXPERTS, room, room, room))
    return Desk(*flags, np.zeros(EXPERTS, dtype=np.uint8), *lists)


def written(desk: Desk) -> list[list[int]]:
    """Places that leave, experts that stay and places that come; the lists are emptied, as the engine does."""
    lists: list[IntArray] = [desk.evict, desk.keep, desk.load]
    parts = [rows[1 : 1 + rows[0]].tolist() for rows in lists]
    for rows in lists:
        rows[0] = 0
    return parts


def answered(moves: Moves | None) -> list[list[int]]:
    evict, keep, load = (None,) * 3 if moves is None else (moves.evict, moves.keep, moves.load)
    evicted, loaded = ([] if pairs is None else (pairs[:, 0] * EXPERTS + pairs[:, 1]).tolist() for pairs in (evict, load))
    return [evicted, [] if keep is None else keep.tolist(), loaded]


def carry_out(view: View, layer: int, parts: list[list[int]], landing: Any) -> None:
    evict, keep, load = parts
    for flags in (view.resident, view.in_flight):
        flags.reshape(-1)[evict] = False
    view.in_flight.reshape(-1)[load] = True
    view.resident[layer, keep] = True
    landed = view.in_flight & landing
    view.resident[landed], view.in_flight[landed] = True, False


@for_all(range(4))
@pytest.mark.skipif(jit.native(pool_moves_kernel) is None, reason="numba is not installed")
def test_it_answers_as_the_policy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    p, rng = tight(), np.random.default_rng(seed)
    policy = MoeInfinity(flight=3, eviction=("lfu", "activation")[seed % 2])  # type: ignore[arg-type]
    by_slots, by_arrays = policy.deploy(p), policy.deploy(p)
    views = [tiny.view_of(p, deployment) for deployment in (by_slots, by_arrays)]
    desk = desk_of(views[1])
    decider, moved = policy.decider(desk, views[1]), [0, 0, 0]
    assert isinstance(decider, PoolDecider)
    for number in range(6):
        phase = "decode" if number % 3 else "prefill"
        loads = [rng.multinomial(6, rng.dirichlet(np.full(EXPERTS, 0.3))) for _ in range(LAYERS)]
        visits = [tiny.visit_of(p, by_slots, layer, counts, phase) for layer, counts in enumerate(loads)]
        whole: Any = visits[0]
        whole.layer, whole.counts, first = np.arange(LAYERS), np.array(loads), tiny.visit_of(p, by_slots, 0, loads[0], phase)
        decider.begin(whole)
        for layer, visit in enumerate([first, *visits[1:]]):
            for view in views:
                view.now = number + 0.1 * layer
            visit.resident = views[0].resident[layer].copy()
            answer = policy.dispatch(visit, views[0])
            decider.dispatch(layer)
            assert answer.order is not None
            assert answer.order.tolist() == desk.order.tolist()
            needed = (visit.counts > 0) & ~views[0].resident[layer] & ~views[0].in_flight[layer]
            parts = written(desk)
            assert answered(answer.moves) == parts
            moved = [total + len(part) for total, part in zip(moved, parts, strict=True)]
            landing = rng.random((LAYERS, EXPERTS)) < 0.5
            for view in views:
                carry_out(view, layer, parts, landing)
                view.now += 0.05
            desk.uploaded[:] = needed
            step = Step(number, phase, layer, visit.counts, np.flatnonzero(needed), None)  # type: ignore[arg-type]
            moves = policy.adapt(step, views[0])
            decider.adapt(layer)
            parts = written(desk)
            assert answered(moves) == parts
            moved = [total + len(part) for total, part in zip(moved, parts, strict=True)]
            landing = rng.random((LAYERS, EXPERTS)) < 0.3
            for view in views:
                carry_out(view, layer, parts, landing)
    assert min(moved) > 0, "copies leave, stay and come"


def test_it_needs_predictions_and_a_compiled_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    p = scene()
    monkeypatch.setattr(jit, "repaid", lambda *_: False)
    for policy in (MoeInfinity(), MoeInfinity(prefetch=False, eviction="activation"), MoeInfinity(prefetch=False)):
        deployment = policy.deploy(p)
        assert policy.decider(desk_of(tiny.view_of(p, deployment)), tiny.view_of(p, deployment)) is None
