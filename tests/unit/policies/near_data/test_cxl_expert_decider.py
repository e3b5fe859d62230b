"""The decider of CXL-Expert answers each visit of a pass as `dispatch` does, and leaves the thresholds as that does."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim import jit
from moesim.contract import Desk, Problem, Visit
from moesim.policies.near_data import cxl_expert_kernel
from moesim.policies.near_data.cxl_expert import CxlExpert
from moesim.policies.near_data.cxl_expert_decider import LanesDecider

EXPERTS = 32


def scene() -> Problem:
    machine = tiny.system(ndp=True, cxl={"a": (64e9, 32e9)}, hbm=2e9, ddr=64e9)
    return tiny.problem(machine, tiny.model(experts=EXPERTS, layers=2), tiny.job(layers=2))


def all_of(visits: list[Visit]) -> Visit:
    parts = {name: np.stack([getattr(visit, name) for visit in visits]) for name in ("counts", "gpu", "cpu", "local", "copy")}
    layers, tokens = (np.array([getattr(visit, name) for visit in visits]) for name in ("layer", "tokens"))
    return Visit(0, "decode", layers, tokens, resident=np.stack([visit.resident for visit in visits]), **parts)


def test_it_needs_compiled_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    p, policy = scene(), CxlExpert()
    monkeypatch.setattr(jit, "repaid", lambda *_: False)
    deployment = policy.deploy(p)
    assert LanesDecider.of(deployment.state, None, tiny.view_of(p, deployment)) is None  # type: ignore[arg-type]
    assert CxlExpert(mode="printed").decider(None, tiny.view_of(p, deployment)) is None  # type: ignore[arg-type]


@pytest.mark.skipif(jit.native(cxl_expert_kernel) is None, reason="numba is not installed")
@pytest.mark.parametrize("busy", [0.0, 1e-3])
def test_it_answers_as_the_policy(monkeypatch: pytest.MonkeyPatch, busy: float) -> None:
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    p, rng = scene(), np.random.default_rng(5)
    policy = CxlExpert(resident=False, cold_cost=1.0)
    by_slots, by_arrays = policy.deploy(p), policy.deploy(p)
    for deployment in (by_slots, by_arrays):
        deployment.state.thresholds.least = 1.0  # from the percentile
    loads = [rng.multinomial(tokens, rng.dirichlet(np.full(EXPERTS, 0.3))) for tokens in (1, 64, 64, 8, 2000, 64)]
    layers = [0, 0, 0, 1, 1, 1]
    visits = [tiny.visit_of(p, by_slots, layer, counts) for layer, counts in zip(layers, loads, strict=True)]
    view = tiny.view_of(p, by_slots)
    backlog = {p.costs.path("ddr", p.gpu_tier).queue: busy}
    resident, in_flight = (np.zeros(2 * EXPERTS, dtype=np.uint8) for _ in range(2))
    for place in rng.choice(2 * EXPERTS, 12, replace=False).tolist():
        view.in_flight[divmod(place, EXPERTS)] = in_flight[place] = 1
    order, device, *lists = (np.full(EXPERTS, -1, dtype=np.int64) for _ in range(5))
    desk = Desk(resident, in_flight, np.zeros(EXPERTS, dtype=np.uint8), order, device, *lists)
    shown = tiny.view_of(p, by_arrays)
    shown.in_flight = view.in_flight
    decider = policy.decider(desk, shown)
    assert isinstance(decider, LanesDecider)
    decider.begin(all_of(visits))
    used = set()
    for row, visit in enumerate(visits):
        view.backlog = shown.backlog = backlog if row % 2 else {}
        answer = policy.dispatch(visit, view)
        decider.dispatch(row)
        assert (answer.device.tolist(), answer.order.tolist()) == (device.tolist(), order.tolist())  # type: ignore[union-attr]
        used |= set(device[visit.counts > 0].tolist())
    assert len(used) == 3, "the GPU, the CPU and the near-data unit"
    ours, theirs = by_arrays.state.thresholds, by_slots.state.thresholds
    assert (ours.high.tolist(), ours.low.tolist()) == (theirs.high.tolist(), theirs.low.tolist())
    assert (ours.high != 1.0).any()
