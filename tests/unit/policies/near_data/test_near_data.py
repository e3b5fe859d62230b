"""Policies beside near-data units: MoNDE, DynaNDE and TriMoE."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.errors import InputError
from moesim.policies.near_data.dynande import DynaNde
from moesim.policies.near_data.monde import Monde
from moesim.policies.near_data.trimoe import TriMoe

UNIT = {"cxl": {"cxl0": (8e9, 64e9)}, "ndp": True}
COUNTS = [40, 1, 900, 3, 0, 7, 200, 15]


def scene(policy, counts=COUNTS, phase="decode", **machine):
    p = tiny.problem(tiny.system(**{"hbm": 0.14e9, **UNIT, **machine}))
    deployment = policy.deploy(p)
    return p, deployment, tiny.visit_of(p, deployment, 0, counts, phase), tiny.view_of(p, deployment)


@pytest.mark.parametrize("policy", [Monde(), DynaNde(), TriMoe()])
def test_they_need_units_with_room_for_all_experts(policy):
    with pytest.raises(InputError, match="needs a near-data unit"):
        policy.deploy(tiny.problem())
    small = tiny.system(hbm=0.14e9, cxl={"cxl0": (0.1e9, 64e9)}, ndp=True)
    with pytest.raises(InputError, match="find no room where a near-data unit is"):
        policy.deploy(tiny.problem(small))
    p, deployment, _, _ = scene(policy)
    assert (deployment.home == p.tiers.index("cxl0")).all()


# MoNDE


def test_monde_moves_the_heaviest_in_proportion_to_the_link():
    p, deployment, visit, view = scene(Monde(alpha=4.0))
    share = 4.0 * float(p.costs.local(1, "cxl0")) / float(p.costs.copy(p.model.expert_bytes, "cxl0", "hbm"))
    moved = int(np.ceil(share * 7))
    assert moved == 2
    assert deployment.state.share == pytest.approx([share] * 3)
    on_gpu = Monde().dispatch(visit, view).device == p.attending_index
    assert np.flatnonzero(on_gpu).tolist() == [2, 6]


def test_monde_moves_one_at_least_and_keeps_none():
    p, deployment, visit, view = scene(Monde())
    device = Monde().dispatch(visit, view).device
    assert np.flatnonzero(device == p.attending_index).tolist() == [2]
    assert (np.delete(device, 2) == p.devices.index("ndp_cxl0")).all()
    assert not deployment.resident.any()


def test_each_unit_serves_its_own_tier():
    two = {"cxl0": (0.1e9, 64e9), "cxl1": (0.1e9, 64e9)}
    p, deployment, _, _ = scene(Monde(), cxl=two)
    names = np.array(p.devices)[deployment.state.devices]
    assert (names == np.array([f"ndp_{tier}" for tier in p.tiers])[deployment.home]).all()
    assert len(np.unique(names)) == 2


# DynaNDE


def end_of(p, visit, here, on_gpu):
    """Seconds of a visit with the GPU and the unit side by side, activations crossing the link."""
    copies = sum(visit.copy[e] for e in on_gpu if not here[e])
    last = visit.gpu[on_gpu[-1]] if on_gpu else 0.0
    rest = [e for e in np.flatnonzero(visit.counts) if e not in on_gpu]
    nbytes = min(sum(visit.counts[e] for e in rest), visit.tokens) * p.model.token_bytes
    away = float(p.costs.copy(nbytes, "hbm", "cxl0") + p.costs.copy(nbytes, "cxl0", "hbm"))
    return max(copies + last, sum(visit.gpu[e] for e in on_gpu), away + sum(visit.local[e] for e in rest))


@pytest.mark.parametrize("seed", range(8))
def test_dynande_takes_the_best_beginning_of_its_list(seed):
    counts = np.random.default_rng(seed).integers(0, 3000, 8)
    p, _, visit, view = scene(DynaNde(), counts)
    here = view.resident[0]
    benefit = visit.local - visit.gpu - np.where(here, 0.0, visit.copy)
    order = [e for e in np.argsort(-benefit, kind="stable").tolist() if counts[e]]
    ends = [end_of(p, visit, here, order[:n]) for n in range(len(order) + 1)]
    chosen = DynaNde().dispatch(visit, view).device == p.attending_index
    on_gpu = [e for e in order if chosen[e]]
    assert end_of(p, visit, here, on_gpu) == pytest.approx(min(ends))


def test_dynande_never_loses_to_near_data_alone_or_to_mondes_share():
    p, _, visit, view = scene(DynaNde(cached=0.0), [2] * 8)
    dynamic = np.flatnonzero(DynaNde().dispatch(visit, view).device == p.attending_index).tolist()
    assert end_of(p, visit, view.resident[0], dynamic) <= end_of(p, visit, view.resident[0], [])
    assert end_of(p, visit, view.resident[0], []) < end_of(p, visit, view.resident[0], [0])  # what a fixed ratio costs


def test_dynande_caches_a_quarter_and_keeps_the_frequent():
    _, deployment, _, view = scene(DynaNde())
    assert deployment.resident.sum(axis=1).tolist() == [2, 2, 2]
    held, missing = np.flatnonzero(view.resident[0]), np.flatnonzero(~view.resident[0])
    counts = np.zeros(8, dtype=int)
    counts[held[0]] = 5
    DynaNde().adapt(tiny.step_of(0, counts), view)
    counts = np.zeros(8, dtype=int)
    counts[missing[0]] = 1
    moves = DynaNde().adapt(tiny.step_of(0, counts, [missing[0]]), view)
    assert moves.evict.tolist() == [[0, held[1]]]


# TriMoE


def test_trimoe_uses_all_three_kinds_and_prompts_only_the_gpu():
    p, _, visit, view = scene(TriMoe(), [300, 200, 100, 40, 5, 4, 3, 2])
    used = {p.devices[d] for d in TriMoe().dispatch(visit, view).device}
    assert used == {"gpu", "cpu", "ndp_cxl0"}
    visit = tiny.visit_of(p, TriMoe().deploy(p), 0, COUNTS, "prefill")
    assert (TriMoe().dispatch(visit, view).device == p.attending_index).all()


@pytest.mark.parametrize("seed", range(8))
def test_trimoe_is_never_slower_than_one_device(seed):
    counts = np.random.default_rng(seed).integers(1, 1500, 8)
    p, _, visit, view = scene(TriMoe(), counts)
    device = TriMoe().dispatch(visit, view).device
    gpu = np.maximum(visit.gpu, np.where(view.resident[0], 0.0, visit.copy))
    times = {"gpu": gpu, "cpu": visit.cpu, "ndp_cxl0": visit.local}
    ends = {name: float(t[device == p.devices.index(name)].sum()) for name, t in times.items()}
    assert max(ends.values()) <= min(float(t.sum()) for t in times.values()) + 1e-12


def test_trimoe_follows_the_average():
    _, deployment, _, view = scene(TriMoe(alpha=0.3))
    before = deployment.state.average[0].copy()
    hot = int(np.flatnonzero(~view.resident[0])[0])
    counts = np.zeros(8, dtype=int)
    counts[hot] = 500
    moves = TriMoe(alpha=0.3).adapt(tiny.step_of(0, counts), view)
    assert deployment.state.average[0] == pytest.approx(0.7 * before + 0.3 * counts)
    assert moves.load.tolist() == [[0, hot]]
    coldest = min(np.flatnonzero(view.resident[0]), key=lambda e: deployment.state.average[0, e])
    assert moves.evict.tolist() == [[0, coldest]]
    again = TriMoe().adapt(tiny.step_of(0, counts, [hot]), view)
    assert again.keep.tolist() == [hot]
    assert not len(again.load)


def test_trimoe_leaves_equals_where_they_are():
    _, deployment, _, view = scene(TriMoe())
    deployment.state.average[:] = 5.0
    assert TriMoe().adapt(tiny.step_of(0, [5] * 8), view).load is None
