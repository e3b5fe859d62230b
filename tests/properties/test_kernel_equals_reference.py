"""I9: the kernel, compiled and as plain Python, gives the picoseconds, bytes, books and critical paths of the reference."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

import engine_worlds as worlds
import program_worlds
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.contract import Deployment, Problem
from moesim.engine import SimulationOptions, simulate
from moesim.policies.kit.cached import Cache, Eviction

Knobs, Scripted, Stepwise, Restless = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless

SOME = settings(max_examples=30, deadline=None, derandomize=True, database=None)
CHUNK = 250
"""Random programs per test: six visits each; `python -m tests.properties` draws thousands."""

compiled = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


def differing(name: str, seeds: range) -> list[int]:
    return [seed for seed in seeds if program_worlds.story(name, seed) != program_worlds.story("reference", seed)]


@pytest.mark.parametrize("first", range(0, 500, CHUNK))
def test_random_programs_on_the_plain_kernel(first):
    assert differing("plain", range(first, first + CHUNK)) == []


@compiled
@pytest.mark.parametrize("first", range(1500, 2000, CHUNK))
def test_random_programs_on_the_compiled_kernel(first):
    assert differing("compiled", range(first, first + CHUNK)) == []


def compare(k: Knobs, policy: type) -> None:
    by_reference, by_kernel = worlds.run(k, policy, "reference"), worlds.run(k, policy, "kernel")
    assert worlds.differences(worlds.record(by_reference), worlds.record(by_kernel)) == {}


@SOME
@given(strategies.knobs())
def test_whole_passes(k):
    compare(k, Scripted)


@SOME
@given(strategies.knobs())
def test_visit_by_visit(k):
    compare(k, Stepwise)


@SOME
@given(strategies.moving())
def test_while_copies_move(k):
    compare(k, Restless)


def with_kernel(monkeypatch, compiled: bool, k: Knobs):
    monkeypatch.setattr("moesim.engine.context.repaid", lambda _problem: compiled)
    return worlds.record(worlds.run(k, Restless, "kernel"))


@compiled
@settings(SOME, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=strategies.moving())
def test_runs_are_the_same_compiled_and_as_plain_python(monkeypatch, k):
    assert worlds.differences(with_kernel(monkeypatch, True, k), with_kernel(monkeypatch, False, k)) == {}


@SOME
@given(strategies.knobs())
def test_a_policy_that_is_asked_visit_by_visit_takes_the_time_of_whole_passes(k):
    whole, stepwise = worlds.run(k, Scripted), worlds.run(k, Stepwise)
    assert worlds.differences(worlds.record(whole), worlds.record(stepwise)) == {}


@SOME
@given(strategies.knobs())
def test_shares_of_the_critical_path_add_up_to_the_makespan(k):
    recorder = worlds.run(k, Stepwise).recorder
    assert sum(recorder.critical.values()) == recorder.makespan


# Worlds that once told engines apart


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


# Timelines


class InParts(Cache):
    """A cache whose layers meet several groups of sequences."""

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, expert_batch=2))


@pytest.mark.parametrize("rule", get_args(Eviction))
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(k=strategies.knobs(), capacity=st.integers(0, 6))
def test_caches_that_are_asked_about_whole_passes(rule, k, capacity):
    def records(policy: Cache) -> list[dict]:
        unequal = []
        for engine in ("reference", "kernel"):
            problem, table = worlds.problem(k)
            unequal.append(worlds.record(simulate(problem, policy, table, SimulationOptions(engine=engine))))
        return unequal

    for policy in (Cache, InParts):
        by_reference, by_kernel = records(policy(eviction=rule, capacity=capacity))
        assert worlds.differences(by_reference, by_kernel) == {}


def timeline(k: Knobs, engine: str) -> list[tuple[str, str, int, int]]:
    slices = worlds.run(k, Restless, engine, timeline=True).recorder.slices
    return sorted((s.track, s.name, s.start, s.end) for s in slices if s.track != "stalls")


@SOME
@given(strategies.moving())
def test_timelines_show_the_same_work(k):
    assert timeline(k, "reference") == timeline(k, "kernel")


@SOME
@given(strategies.moving())
def test_a_timeline_changes_no_result(k):
    assert (
        worlds.differences(worlds.record(worlds.run(k, Restless)), worlds.record(worlds.run(k, Restless, timeline=True))) == {}
    )
