"""I9: the kernel, compiled and as plain Python, gives the picoseconds, bytes, books and critical paths of the reference."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any, get_args

import engine_worlds as worlds
import program_worlds
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.contract import Deployment, Problem
from moesim.engine import SimulationOptions, simulate
from moesim.engine.run import Outcome
from moesim.policies.kit.cached import Cache, Eviction

Knobs, Scripted, Stepwise, Restless = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless

SOME = settings(max_examples=18, deadline=None, derandomize=True, database=None)
CHUNK, VISITS = 400, 3
"""Random programs per test, three visits each; `python -m tests.properties` draws thousands."""

NUMBA = find_spec("numba") is not None
compiled = pytest.mark.skipif(not NUMBA, reason="numba is not installed")


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_random_programs_on_the_kernel_compiled_and_as_plain_python(first):
    """Plain Python, which takes as long as the reference, has every fourth one, and all of them without numba."""
    unequal = []
    for seed in range(first, first + CHUNK):
        reference = program_worlds.story("reference", seed, VISITS)
        kernels = ["compiled"] * NUMBA + ["plain"] * (not NUMBA or seed % 4 == 0)
        unequal += [(kernel, seed) for kernel in kernels if program_worlds.story(kernel, seed, VISITS) != reference]
    assert unequal == []


def compare(k: Knobs, policy: type, **options: bool) -> tuple[Outcome, dict[str, Any]]:
    """The run by the kernel and its record, which is that of the reference."""
    by_reference, by_kernel = (worlds.run(k, policy, engine, **options) for engine in ("reference", "kernel"))
    record = worlds.record(by_kernel)
    assert worlds.differences(worlds.record(by_reference), record) == {}
    assert timeline(by_reference) == timeline(by_kernel)
    return by_kernel, record


def timeline(outcome: Outcome) -> list[tuple[str, str, int, int]]:
    return sorted((s.track, s.name, s.start, s.end) for s in outcome.recorder.slices if s.track != "stalls")


@SOME
@given(strategies.knobs())
def test_whole_passes_and_visit_by_visit(k):
    """Both engines, a policy that is asked about whole passes or about each visit: one record, a critical path without gaps."""
    (_, whole), (stepwise, record) = compare(k, Scripted), compare(k, Stepwise)
    assert worlds.differences(whole, record) == {}
    assert sum(stepwise.recorder.critical.values()) == stepwise.recorder.makespan


@SOME
@given(strategies.moving())
def test_while_copies_move(k):
    """The same work on both timelines, which change nothing."""
    _, shown = compare(k, Restless, timeline=True)
    assert worlds.differences(worlds.record(worlds.run(k, Restless)), shown) == {}


def with_kernel(monkeypatch, compiled: bool, k: Knobs):
    monkeypatch.setattr("moesim.engine.context.repaid", lambda _problem: compiled)
    return worlds.record(worlds.run(k, Restless, "kernel"))


@compiled
@settings(SOME, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=strategies.moving())
def test_runs_are_the_same_compiled_and_as_plain_python(monkeypatch, k):
    assert worlds.differences(with_kernel(monkeypatch, True, k), with_kernel(monkeypatch, False, k)) == {}


# Worlds in which engines once differed


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


# Caches


class InParts(Cache):
    """A cache whose layers meet several groups of sequences."""

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, expert_batch=2))


@pytest.mark.parametrize("rule", get_args(Eviction))
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(k=strategies.knobs(), capacity=st.integers(0, 6), policy=st.sampled_from([Cache, InParts]))
def test_caches_that_are_asked_about_whole_passes(rule, k, capacity, policy):
    by_reference, by_kernel = (
        worlds.record(simulate(problem, policy(eviction=rule, capacity=capacity), table, SimulationOptions(engine=engine)))
        for engine in ("reference", "kernel")
        for problem, table in [worlds.problem(k)]
    )
    assert worlds.differences(by_reference, by_kernel) == {}
