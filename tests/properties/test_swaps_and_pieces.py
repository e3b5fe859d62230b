"""Weights that swap places and experts that cross in pieces: I2 to I4 and I9 where they are what is looked at."""

from __future__ import annotations

from typing import Any, ClassVar

import engine_worlds as worlds
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.clock import SECOND, to_ps
from moesim.contract import Dispatch
from moesim.errors import PolicyError

Knobs, Scripted, Stepwise, Restless, replace = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless, worlds.replace

SOME = settings(max_examples=15, deadline=None, derandomize=True, database=None)
LONE = {"cpu": False, "cxl": 0, "drive": False, "places": "ggg", "kv": "hbm", "total": None, "both": None}
"""Nothing beside the GPU and the copies into its memory."""


class Swapping(Restless):
    """Restless, and remembers when it evicted how many copies that were used, and when it was asked for a dispatch."""

    kind: str = "swapping"  # type: ignore[assignment]
    left: ClassVar[list[tuple[int, float, int]]] = []
    """(ps, bytes, number) of what left."""
    dispatched: ClassVar[list[int]] = []

    def dispatch(self, visit, view):
        self.dispatched.append(round(view.now * SECOND))
        return super().dispatch(visit, view)

    def adapt(self, step, view):
        moves = super().adapt(step, view)
        if moves.evict is not None and len(moves.evict):
            out = [tuple(pair) for pair in moves.evict.tolist() if view.resident[tuple(pair)]]
            sizes = [float(view.copy_bytes[pair]) for pair in out]
            self.left.append((round(view.now * SECOND), sum(sizes), len(out)))
        return moves


def swapped(k, **more: Any):
    Swapping.left.clear()
    Swapping.dispatched.clear()
    return worlds.run(k, Swapping, **more).recorder


@SOME
@given(strategies.moving(prefetch=0.0, keep=0.5, evict=0.6), st.integers(1, 3))
def test_i2_what_leaves_is_written_home(k, slots):
    recorder = swapped(replace(k, swap=slots))
    leaving = sum(nbytes for _, nbytes, _ in Swapping.left)
    written = recorder.caused.get("eviction", 0.0)
    under_way = (leaving - written) / worlds.problem(k)[0].model.expert_bytes
    assert under_way >= -1e-6
    if not Swapping.left or Swapping.left[-1][0] < Swapping.dispatched[-1]:
        assert under_way <= slots


def test_i2_what_was_brought_in_vain_and_what_is_dropped_moves_nothing():
    class OnCpu(Restless):
        kind: str = "on_cpu"  # type: ignore[assignment]

        def dispatch(self, visit, view):
            return Dispatch(np.full(len(visit.counts), view.problem.cpu_index))

    k = Knobs(layers=3, experts=7, output=5, prefetch=0.6, evict=0.6, cpu=True, residents=0.0, swap=2)
    recorder = worlds.run(k, OnCpu).recorder
    assert recorder.caused["prefetch"] > 0
    assert "eviction" not in recorder.caused
    staying = worlds.run(replace(k, off_gpu=0.0, swap=0), Restless).recorder
    assert "eviction" not in staying.caused


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_i3_no_layer_begins_while_more_leaves_than_has_slots(slots, seed):
    k = Knobs(seed=seed, layers=3, experts=7, output=5, residents=0.8, keep=1.0, evict=0.5, off_gpu=0.0, pcie=1e9, swap=slots)
    recorder = swapped(k, timeline=True)
    home = sorted(s.end for s in recorder.slices if s.cause == "eviction")
    waited = False
    for now in Swapping.dispatched:
        leaving = sum(number for time, _, number in Swapping.left if time < now) - sum(end <= now for end in home)
        assert leaving <= slots
        waited = waited or leaving == slots
    assert waited
    assert sum(recorder.critical.values()) == recorder.makespan
    assert recorder.critical["pcie:reverse"] > 0


def test_swaps_take_their_time_and_share_the_link():
    k = Knobs(layers=3, experts=7, output=5, residents=0.8, keep=1.0, evict=0.5, off_gpu=0.0, pcie=1e9, seed=1)
    dropped, aside, coupled = (worlds.run(world, Restless).recorder for world in (
        k, replace(k, swap=9), replace(k, swap=9, both=1.2e9)
    ))  # fmt: skip
    assert dropped.moved["pcie:forward"] == aside.moved["pcie:forward"] == coupled.moved["pcie:forward"]
    assert dropped.makespan < aside.makespan < coupled.makespan  # the routing is read back behind a copy home


@SOME
@given(strategies.knobs(), st.integers(2, 4))
def test_i9_pieces_take_the_same_time_on_both_engines(k, pieces):
    k = replace(k, pieces=pieces)
    for policy in (Scripted, Stepwise):
        reference, kernel = worlds.run(k, policy, "reference"), worlds.run(k, policy)
        assert worlds.differences(worlds.record(reference), worlds.record(kernel)) == {}


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("pcie", [1e9, 20e9, 200e9])
def test_i4_a_part_runs_when_its_piece_has_landed_and_the_one_before_has_run(pieces, pcie):
    k = Knobs(experts=7, layers=1, attention=False, prompt=40, residents=0.3, off_gpu=0.0, pcie=pcie, pieces=pieces, seed=2)
    outcome = worlds.run(k, Restless)
    p, visit = worlds.problem(k)[0], outcome.deployment.state[0]
    size = p.model.expert_bytes
    gpu = to_ps(p.costs.gpu(visit.counts)).tolist()
    here = [e for e in range(7) if visit.counts[e] and visit.here[e]]
    up = [e for e in range(7) if visit.counts[e] and not visit.here[e]]
    launch = int(to_ps(k.launch))
    free = sum(gpu[e] for e in here) + launch * bool(here)
    landed = int(to_ps(p.costs.path("hbm", "ddr").seconds(visit.tokens * 4 * p.model.top_k)))
    copy = int(to_ps(float(p.costs.copy(size, "ddr", "hbm", pieces))))
    for e in up:
        for piece in range(pieces):
            last = piece == pieces - 1
            landed += copy // pieces + (copy % pieces if last else 0)
            work = gpu[e] + launch
            free = max(free, landed) + work // pieces + (work % pieces if last else 0)
    assert len(outcome.recorder.passes) == 1
    assert outcome.recorder.makespan == free
    assert copy == int(to_ps(pieces * k.setup + size / p.costs.path("ddr", "hbm").rate))


@SOME
@given(strategies.knobs(**LONE, serial=False, chunk=None, setup=0.0, latency=0.0), st.integers(2, 4))
def test_where_setting_up_is_free_pieces_hold_nobody_up(k, pieces):
    whole, cut = worlds.run(k, Stepwise).recorder, worlds.run(replace(k, pieces=pieces), Stepwise).recorder
    rounding = 2 * pieces * int(whole.layers.uploads.sum())
    assert cut.makespan <= whole.makespan + rounding
    assert cut.moved == whole.moved
    assert abs(cut.busy.get("pcie:forward", 0) - whole.busy.get("pcie:forward", 0)) <= rounding
    assert cut.busy["gpu"] == whole.busy["gpu"]


def waits_of_demand(k) -> list[int]:
    """ps from the moment at which a layer's routing is known to the start of the first copy that it demands."""
    waits = []
    for seed in range(12):
        recorder = worlds.run(replace(k, seed=seed), Restless, timeline=True).recorder
        demanded = [s.start for s in recorder.slices if s.track == "pcie:forward" and s.cause == "demand"]
        known = [s.end for s in recorder.slices if s.name == "expert ids"]
        for begin, following in zip(known, [*known[1:], recorder.makespan], strict=True):
            waits.append(min((start for start in demanded if begin <= start < following), default=begin) - begin)
    return waits


def test_a_demanded_copy_waits_for_one_piece_of_a_prefetch_at_most():
    k = Knobs(layers=3, experts=7, output=5, prefetch=0.6, evict=0.6, off_gpu=0.0, residents=0.0, pcie=1e9)
    p, _ = worlds.problem(k)
    whole, third = (float(p.costs.copy(p.model.expert_bytes, "ddr", "hbm", n)) * SECOND / n for n in (1, 3))
    assert third + 1 < max(waits_of_demand(k)) <= whole + 1
    assert 0 < max(waits_of_demand(replace(k, pieces=3))) <= third + 1


def test_pieces_of_an_expert_are_for_layers_that_do_not_overlap():
    class Paged(Scripted):
        kind: str = "paged"  # type: ignore[assignment]

        def deploy(self, problem):
            return worlds.replace(worlds.streaming(super().deploy(problem), {"pipeline": "paged"}), pieces=3)

    with pytest.raises(PolicyError, match="pieces"):
        worlds.run(Knobs(off_gpu=0.0), Paged)


def test_a_policy_sees_the_time_of_a_copy_that_the_run_charges():
    seen = []

    class Curious(Stepwise):
        kind: str = "curious"  # type: ignore[assignment]

        def dispatch(self, visit, view):
            seen.append(float(visit.copy[np.flatnonzero(visit.counts)].sum()))
            return super().dispatch(visit, view)

    for pieces in (1, 3):
        seen.clear()
        k = Knobs(pieces=pieces, off_gpu=0.0, residents=0.0, layers=1, output=2, setup=2e-5)
        recorder = worlds.run(k, Curious).recorder
        assert recorder.busy["pcie:forward"] == pytest.approx(sum(seen) * SECOND, rel=1e-9)
