"""Dispatch rules, and the simple policies made of them."""

from __future__ import annotations

import numpy as np
import policy_problems as tiny
import pytest

from moesim.contract import Serial, View
from moesim.errors import InputError
from moesim.policies.baselines.on_demand import OnDemand
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.policies.kit.dispatch import cpu_missing, hot_by_rank, in_order, threshold, upload_missing
from moesim.policies.kit.placement import place, quota

COUNTS = [5, 0, 9000, 1, 1, 0, 2, 3]


def scene(residents: int = 2, counts=COUNTS, **machine):
    p = tiny.problem(tiny.system(**machine))
    deployment = place(p, resident=quota(p.popularity, residents))
    return p, tiny.visit_of(p, deployment, 0, counts), tiny.view_of(p, deployment)


def test_quartile_of_128_is_exactly_32_in_spite_of_ties():
    counts = np.zeros(128, dtype=np.int64)
    counts[:20] = 7
    assert hot_by_rank(counts, 0.75).sum() == 32
    assert hot_by_rank(np.stack([counts, counts[::-1]]), 0.75).sum(axis=1).tolist() == [32, 32]


@pytest.mark.parametrize(("percentile", "hot"), [(0.0, 8), (0.5, 4), (0.75, 2), (1.0, 0)])
def test_hot_experts_are_those_with_most_tokens(percentile, hot):
    chosen = hot_by_rank(np.array(COUNTS), percentile)
    assert chosen.sum() == hot
    assert hot in (0, 8) or np.array(COUNTS)[chosen].min() >= np.array(COUNTS)[~chosen].max()


def test_order_is_residents_then_tokens_then_id():
    resident = np.array([False, False, False, True, False, True, False, False])
    assert in_order(np.array(COUNTS), resident).tolist() == [3, 5, 2, 0, 7, 6, 4, 1]


def test_uploads_put_everything_on_the_gpu():
    p, visit, view = scene()
    chosen = upload_missing(visit, view)
    assert (chosen.device == p.attending_index).all()
    assert chosen.load is None


def test_whole_layer_loads_all_that_is_neither_resident_nor_in_flight():
    _, visit, view = scene()
    view.in_flight[0, 5] = True
    load = upload_missing(visit, view, whole_layer=True).load
    assert (load == ~(view.resident[0] | view.in_flight[0])).all()


def test_cpu_takes_what_is_missing():
    p, visit, view = scene()
    chosen = cpu_missing(visit, view)
    assert (chosen.device[view.resident[0]] == p.attending_index).all()
    assert (chosen.device[~view.resident[0]] == p.cpu_index).all()


def test_cpu_leaves_copies_in_flight_to_the_gpu():
    p, visit, view = scene()
    view.in_flight[0] = ~view.resident[0]
    assert (cpu_missing(visit, view).device == p.attending_index).all()


def test_threshold_compares_cpu_with_copy_and_gpu():
    p, visit, view = scene(residents=0)
    device = threshold(visit, view).device
    faster = visit.cpu <= visit.copy + visit.gpu
    assert device[2] == p.attending_index
    assert (device == np.where(faster, p.cpu_index, p.attending_index)).all()
    assert faster[0]


def test_threshold_is_the_break_even_of_the_costs():
    p = tiny.problem()
    even = int(p.costs.break_even("ddr"))
    deployment = place(p)
    visit = tiny.visit_of(p, deployment, 0, [even - 1, even, 0, 0, 0, 0, 0, 0])
    device = threshold(visit, tiny.view_of(p, deployment)).device
    assert device[:2].tolist() == [p.cpu_index, p.attending_index]


def test_without_a_cpu_everything_is_uploaded():
    p, visit, view = scene(cpu=False)
    assert (cpu_missing(visit, view).device == p.attending_index).all()
    assert (threshold(visit, view).device == p.attending_index).all()


def test_on_demand_keeps_nothing():
    p = tiny.problem()
    deployment = OnDemand(pipeline="serial").deploy(p)
    assert not deployment.resident.any()
    assert deployment.plan.decode.pipeline == Serial()
    view, visit = tiny.view_of(p, deployment), tiny.visit_of(p, deployment, 1, COUNTS)
    assert OnDemand().dispatch(visit, view).load is None
    assert OnDemand(granularity="layer").dispatch(visit, view).load.all()


def test_static_popularity_fills_gpu_memory_with_the_most_popular():
    p = tiny.problem(tiny.system(hbm=0.12e9))
    deployment = StaticPopularity(rule="global").deploy(p)
    count = int(deployment.resident.sum())
    assert 0 < count < 24
    assert p.popularity[deployment.resident].min() >= np.sort(p.popularity.ravel())[-count]
    free = p.gpu_free(deployment.plan)
    assert 0 <= free - count * p.model.expert_bytes < p.model.expert_bytes


def test_static_popularity_refuses_cpu_misses_without_a_cpu():
    with pytest.raises(InputError, match=r"policy\.misses: 'cpu' needs"):
        StaticPopularity(misses="cpu").deploy(tiny.problem(tiny.system(cpu=False)))


@pytest.mark.parametrize("misses", ["upload", "cpu", "threshold"])
def test_dispatch_does_not_change_what_it_sees(misses):
    p, visit, view = scene()
    before = visit.counts.copy(), view.resident.copy()
    first = StaticPopularity(misses=misses).dispatch(visit, view)
    second = StaticPopularity(misses=misses).dispatch(visit, View(p, view.resident, view.in_flight, view.home))
    assert (first.device == second.device).all()
    assert (first.order == second.order).all()
    assert (before[0] == visit.counts).all()
    assert (before[1] == view.resident).all()
