"""I9: the event engine, the automatic choice and the closed form give the same picoseconds, bytes and shares."""

from __future__ import annotations

import engine_worlds as worlds
import pytest
import strategies
from hypothesis import given, settings

from moesim.errors import PolicyError

Knobs, Scripted, Stepwise, Restless = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless

SOME = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def compare(k: Knobs, policy: type, engine: str = "auto") -> None:
    by_events, other = worlds.run(k, policy, "events"), worlds.run(k, policy, engine)
    assert worlds.differences(worlds.record(by_events), worlds.record(other)) == {}


@SOME
@given(strategies.knobs())
def test_auto_takes_the_same_time_as_events(k):
    compare(k, Scripted)


@SOME
@given(strategies.knobs())
def test_visit_by_visit_takes_the_same_time_as_events(k):
    compare(k, Stepwise)


@SOME
@given(strategies.knobs())
def test_closed_form_equals_events_or_says_that_it_does_not_apply(k):
    try:
        closed = worlds.record(worlds.run(k, Scripted, "closed_form"))
    except PolicyError:
        with pytest.raises(PolicyError, match="closed form"):
            worlds.run(k, Stepwise, "closed_form")
        return
    assert worlds.differences(worlds.record(worlds.run(k, Scripted, "events")), closed) == {}


@SOME
@given(strategies.moving())
def test_auto_equals_events_while_copies_move(k):
    compare(k, Restless)


@SOME
@given(strategies.knobs(total=None, both=None, chunk=None, staging=8, serial_link=True))
def test_shares_of_the_critical_path_add_up_to_the_makespan(k):
    for engine in ("auto", "events"):
        recorder = worlds.run(k, Stepwise, engine).recorder
        assert sum(recorder.critical.values()) == recorder.makespan


# Worlds that once told the engines apart


@pytest.mark.parametrize("policy", [Scripted, Stepwise])
@pytest.mark.parametrize(
    "k",
    [
        Knobs(setup=0.0),  # rounding to whole ps made a lone copy seem to ask for more than its link has
        Knobs(chunk=20e3, launch=0.0, kv="ddr"),  # the rest of a KV store was booked twice
        Knobs(both=30e9, launch=0.0, kv="ddr", seed=3),
        Knobs(cpu=True, setup=2e-5, micro=1, kv="ddr", places="cgg"),  # activations and KV cache in one queue
        Knobs(cpu=True, setup=2e-5, micro=1, kv="ddr", places="ggc"),
        Knobs(cxl=1, ndp=1, serial_link=False, off_gpu=1.0),  # no copy engine: a queue for each pair of tiers
        Knobs(cxl=1, serial_link=False, setup=2e-5, kv="cxl0"),
    ],
    ids=["rounding", "store", "store-both", "kv-lane-back", "kv-lane-out", "queues", "queues-kv"],
)
def test_worlds_that_once_differed(k, policy):
    compare(k, policy)


def test_a_prefetch_may_land_before_the_routing_is_read_back():
    k = Knobs(layers=3, experts=7, output=5, prefetch=0.6, evict=0.6, off_gpu=0.0, pcie=3e9, residents=0.0)
    for seed in range(8):
        compare(worlds.replace(k, seed=seed), Restless)


def test_prefetches_may_all_land_before_a_serial_visit_sends_anything():
    k = Knobs(
        cpu=True, layers=3, experts=4, output=5, residents=0.0, off_gpu=0.6, prefetch=0.9, evict=0.9, pcie=1e9, setup=2e-5
    )
    compare(worlds.replace(k, serial=True, seed=103), Restless)
