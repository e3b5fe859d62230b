"""Where master copies lie, and what follows for times and bytes: kinds of copies, tables by tokens, what a copy draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.arrays import IntArray
from moesim.contract import Problem
from moesim.engine.programs.durations import Placement, _padded, _table_size, queue_of, usage_of
from moesim.plugins import find
from tests.policy_problems import GB, job, model, problem, system

EXPERT = 6 * 1024 * 1024.0
COPY_PS = round((EXPERT / 25e9 + 1e-5 + 1e-7) * 1e12)
"""At 25 GB/s, behind 10 us of set-up and 0.1 us of latency."""


def posed(**machine: Any) -> Problem:
    return problem(system(**machine), model(experts=4, layers=2), job(layers=2))


def placed(work: Problem, tiers: list[list[str]] | None = None, **changes: Any) -> Placement:
    """Experts in `tiers` [L][E], all in DRAM by default."""
    deployment = find("policies", "on_demand")().deploy(work)
    home: IntArray = deployment.home.copy()
    if tiers is not None:
        home = np.array([[work.tiers.index(tier) for tier in row] for row in tiers])
    return Placement(work, home, replace(deployment, home=home, **changes))


def test_copies_of_one_size_in_one_tier_are_of_one_kind() -> None:
    work = posed(cxl={"near": (GB, 22e9)})
    where = placed(work, [["ddr", "near", "ddr", "ddr"], ["near"] * 4])
    assert where.kinds() == [("ddr", EXPERT), ("near", EXPERT)]
    assert where.kind_of(np.array([1, 0])).tolist() == [[1, 1, 1, 1], [0, 1, 0, 0]]
    assert where.kind_sums(np.array([[1, 2, 3, 4], [5, 6, 7, 8]])).tolist() == [1 + 3 + 4, 2 + 5 + 6 + 7 + 8]
    sizes = np.full((2, 4), EXPERT)
    sizes[0, 2] = EXPERT / 4
    mixed = placed(work, [["ddr", "near", "ddr", "ddr"], ["near"] * 4], expert_bytes=sizes)
    assert sorted(mixed.kinds()) == [("ddr", EXPERT / 4), ("ddr", EXPERT), ("near", EXPERT)]
    quarter = mixed.kinds().index(("ddr", EXPERT / 4))
    assert np.argwhere(mixed.kind_of(np.array([0, 1])) == quarter).tolist() == [[0, 2]]


def test_a_kind_that_a_dispatch_asks_for_joins_those_that_are_stored() -> None:
    work = posed()
    where = placed(work)
    version = where.version
    tiers, sizes = np.full((1, 4), work.tiers.index("ddr")), np.full((1, 4), EXPERT / 2)
    assert where.kinds_of(tiers, sizes).tolist() == [[1] * 4]
    assert where.kinds() == [("ddr", EXPERT), ("ddr", EXPERT / 2)]
    assert where.version == version + 1
    assert where.kinds_of(tiers, sizes).tolist() == [[1] * 4]
    assert where.version == version + 1, "known by now"
    times = where.times(np.ones((1, 4), dtype=np.int64), np.array([0]), np.array([[0, 1, 1, 0]]))
    half = round((EXPERT / 2 / 25e9 + 1e-5 + 1e-7) * 1e12)
    assert times.copy_ps.tolist() == [[COPY_PS, half, half, COPY_PS]]


def test_a_home_that_changes_changes_the_price_of_a_copy() -> None:
    work = posed(cxl={"far": (GB, 9e9)})
    where = placed(work)
    assert where.stored[1].tolist() == [[COPY_PS] * 4] * 2
    where.home[0, 1] = work.tiers.index("far")
    where.refresh()
    far = where.stored[1][0, 1]
    assert far == round(float(work.costs.copy(EXPERT, "far", "hbm")) * 1e12)
    assert far > COPY_PS
    assert (where.stored[1] == COPY_PS).sum() == 7


def test_times_of_visits_are_those_of_the_cost_model_by_tokens() -> None:
    work = posed()
    counts, layers = np.array([[0, 1, 2, 9], [5, 0, 70, 3]]), np.array([1, 0])
    times = placed(work).times(counts, layers)
    assert times.gpu.tolist() == work.costs.gpu(counts).tolist()
    assert times.cpu.tolist() == work.costs.cpu(counts, "ddr").tolist()
    assert times.gpu_ps.tolist() == np.rint(work.costs.gpu(counts) * 1e12).astype(int).tolist()
    assert times.copy.tolist() == [[float(work.costs.copy(EXPERT, "ddr", "hbm"))] * 4] * 2
    assert times.local_ps.tolist() == [[-1] * 4] * 2, "no near-data unit"
    second = times.rows(slice(1, 2))
    assert second.gpu.tolist() == [times.gpu[1].tolist()]


def test_a_batch_beyond_the_table_is_priced_by_the_model_itself() -> None:
    work = posed()
    counts, layers = np.array([[4095, 4096, 5000, 1]]), np.array([0])
    times = placed(work).times(counts, layers)
    assert times.gpu.tolist() == work.costs.gpu(counts).tolist()
    assert times.cpu.tolist() == work.costs.cpu(counts, "ddr").tolist()


@pytest.mark.parametrize(
    ("largest", "size"), [(0, 64), (63, 64), (64, 128), (127, 128), (128, 256), (4000, 4096), (9999, 4096)]
)
def test_tables_grow_by_powers_of_two(largest: int, size: int) -> None:
    assert _table_size(largest) == size


def test_what_the_cpu_cannot_read_takes_no_time_there() -> None:
    work = posed(cxl={"near": (GB, 22e9)}, ndp=True)
    times = placed(work, [["ddr", "near", "ddr", "near"]] * 2).times(np.array([[1, 1, 0, 3]]), np.array([0]))
    assert (times.local_ps >= 0).tolist() == [[False, True, False, True]]
    assert times.local[0, 1] == float(work.costs.local(1, "near", EXPERT))
    assert np.isinf(times.local[0, 0])


def test_an_upload_draws_the_bytes_of_each_kind_along_its_way() -> None:
    work = posed(cxl={"near": (GB, 22e9)})
    where = placed(work, [["ddr", "near", "ddr", "ddr"], ["near"] * 4])
    usage, chunks = where.upload(0, np.array([0, 1, 3]))
    assert chunks is None
    assert usage["pcie:forward"] == 3 * EXPERT
    assert (usage["ddr:read"], usage["near:read"], usage["hbm:write"]) == (2 * EXPERT, EXPERT, 3 * EXPERT)
    usage, chunks = where.upload(1, np.zeros(0, dtype=np.int64))
    assert (usage, chunks) == ({}, None)


def test_copies_in_pieces_are_as_many_copies() -> None:
    where = placed(posed(), pieces=3)
    _, chunks = where.upload(0, np.array([0, 2]))
    assert chunks is not None
    assert chunks.tolist() == [3, 3]


def test_a_device_draws_what_it_reads_unless_it_reads_its_own_memory() -> None:
    work = posed(cxl={"near": (GB, 22e9)}, ndp=True)
    where = placed(work, [["ddr", "near", "ddr", "near"]] * 2)
    runs = np.array([True, True, True, False])
    assert where.read_by(work.cpu_index, runs, 0)["ddr:read"] == 2 * EXPERT
    assert where.read_by(work.cpu_index, runs, 0)["near:read"] == EXPERT
    assert where.read_by(work.local_index[work.tiers.index("near")], runs, 0) == {}


def test_experts_below_their_capacity_are_padded_and_share_the_time_of_idle_ones() -> None:
    """8 tokens over 4 experts at 1.5: each computes at least 3. Two idle ones take 3 each, which the two used share."""
    seconds = _padded(np.array([[6, 2, 0, 0]]), 1.5, lambda tokens: np.asarray(tokens, dtype=np.float64))
    assert seconds.tolist() == [[6 + 3, 3 + 3, 0, 0]]
    assert _padded(np.zeros((1, 4), dtype=np.int64), 1.5, lambda tokens: np.asarray(tokens) * 1.0).tolist() == [[0.0] * 4]


def test_ways_without_a_copy_engine_are_queues_of_their_own() -> None:
    work = posed(cxl={"near": (GB, 22e9)})
    assert queue_of(work.costs.path("ddr", "hbm")) == "pcie:forward"
    assert queue_of(work.costs.path("ddr", "near")) == "ddr>near"
    assert usage_of({"a": 1.0, "b": 2.0}, 10.0) == usage_of((("a", 1.0), ("b", 2.0)), 10.0) == {"a": 10.0, "b": 20.0}
