"""Policies that decide on arrays, compiled, answer as they do with numpy: the same runs to the picosecond and the byte."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import engine_worlds as worlds
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim import jit
from moesim.contract import Deployment, Dispatch, Foresight, Policy, Problem, View, Visit
from moesim.engine import SimulationOptions, simulate
from moesim.policies.caching.moe_infinity import MoeInfinity
from moesim.policies.caching.prefetch import Prefetch
from moesim.policies.kit.predictors import Gate, Perfect
from moesim.policies.kit.predictors_sequence import Sequence
from moesim.policies.near_data.cxl_expert import CxlExpert
from moesim.policies.near_data.moe_cxl import MoeCxl

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
SOME = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def deciders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything is compiled, however short; receives the names of the deciders that were asked."""
    names: list[str] = []
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    monkeypatch.setattr("moesim.engine.context.repaid", lambda _problem: True)
    return names


def record(k: worlds.Knobs, policy: Policy, experts: int) -> dict[str, Any]:
    """Of a run on a GPU with room for so many experts."""
    roomy, table = worlds.problem(k)
    spare = roomy.gpu_free(policy.deploy(roomy).plan) - experts * roomy.model.expert_bytes
    problem, _ = worlds.problem(k, hbm=worlds.TB - spare)
    return worlds.record(simulate(problem, policy, table, SimulationOptions(engine="kernel")))


def compare(monkeypatch: pytest.MonkeyPatch, deciders: list[str], k: worlds.Knobs, policy: Policy, experts: int) -> None:
    """The run with its decider, which is asked, and without."""
    decide = type(policy).decider
    with monkeypatch.context() as patched:
        patched.setattr(type(policy), "decider", lambda *_: None)
        by_policy = record(k, policy, experts)

    def watched(*arguments: Any) -> Any:
        decider = decide(*arguments)
        deciders.append(type(decider).__name__)
        return decider

    with monkeypatch.context() as patched:
        patched.setattr(type(policy), "decider", watched)
        assert worlds.differences(by_policy, record(k, policy, experts)) == {}


class InParts(Prefetch):
    """Layers meet several groups of sequences."""

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, expert_batch=2))


@SOME
@given(
    k=strategies.knobs(gpus=0, layers=4, requests=3, output=5),
    kind=st.sampled_from([Prefetch, InParts]),
    predictor=st.sampled_from([Gate(recall=(0.5, 0.4)), Gate(recall=(0.9,)), Perfect()]),
    eviction=st.sampled_from(["lru", "lfu", "fifo"]),
    depth=st.integers(1, 3),
    buffers=st.sampled_from([None, 1, 3]),
    experts=st.integers(1, 12),
)
def test_buffers(monkeypatch, deciders, k, kind, predictor, eviction, depth, buffers, experts):
    compare(monkeypatch, deciders, k, kind(predictor=predictor, eviction=eviction, depth=depth, buffers=buffers), experts)
    assert deciders[-1] == "BuffersDecider"


@pytest.mark.usefixtures("deciders")
def test_a_subclass_with_a_slot_of_its_own_is_asked_itself():
    layers: list[int] = []

    class Counted(Prefetch):
        """Notes where it is asked."""

        def dispatch(self, visit: Visit, view: View) -> Dispatch:
            layers.append(visit.layer)
            return super().dispatch(visit, view)

    record(worlds.Knobs(layers=2, requests=1, output=2), Counted(predictor=Perfect()), 3)
    assert layers == [0, 1, 0, 1]


@SOME
@given(
    k=strategies.knobs(gpus=0, cpu=True, layers=3, requests=3, output=5),
    rule=st.sampled_from([{}, {"step": 0.3}, {"learn": 1}, {"adaptive": False}]),
    shape=st.sampled_from([{"hot": 0.75, "warm": 0.5}, {"hot": 0.3, "warm": 0.0}, {"hot": 1.0, "warm": 0.9, "cold_cost": 9.0}]),
    pipeline=st.sampled_from(["overlap", "serial"]),
    resident=st.booleans(),
    experts=st.integers(0, 12),
)
def test_lanes(monkeypatch, deciders, k, rule, shape, pipeline, resident, experts):
    policy = CxlExpert(
        cxl="none", near_data=k.ndp > 0, pipeline=pipeline, resident=resident, alpha=0.5, link_share=1.0, **shape, **rule
    )
    compare(monkeypatch, deciders, k, policy, experts)
    assert deciders[-1] == "LanesDecider"


@SOME
@given(
    k=strategies.knobs(gpus=0, layers=4, requests=3, output=5),
    eviction=st.sampled_from(["lfu", "activation", "lru", "lru_ds"]),
    trace=st.sampled_from([Sequence(capacity=2, per_cell=0.0), Sequence(capacity=2), Sequence(per_cell=1e-7)]),
    flight=st.integers(1, 4),
    share=st.sampled_from([0.5, 1.0]),
    experts=st.integers(1, 14),
)
def test_pools(monkeypatch, deciders, k, eviction, trace, flight, share, experts):
    compare(monkeypatch, deciders, k, MoeInfinity(eviction=eviction, trace=trace, flight=flight, share=share), experts)
    assert deciders[-1] == "PoolDecider"


class CxlInParts(MoeCxl):
    """Layers meet several groups of sequences."""

    def deploy(self, problem: Problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, expert_batch=2))


@settings(SOME, max_examples=40)
@given(
    k=st.sampled_from([0, 2]).flatmap(lambda cxl: strategies.knobs(gpus=0, cxl=cxl, layers=4, experts=7, requests=3, output=9)),
    kind=st.sampled_from([MoeCxl, CxlInParts]),
    hint=st.sampled_from([Foresight(recall=(0.6,)), None]),
    order=st.sampled_from(["device", "tokens"]),
    depth=st.integers(1, 2),
    period=st.integers(1, 3),
    prefetch=st.sampled_from([4, 0]),
    copies=st.integers(0, 1),
    experts=st.sampled_from([17, 3, 9, 24]),
)
def test_uploads_from_homes(monkeypatch, deciders, k, kind, hint, order, depth, period, prefetch, copies, experts):
    """Where experts have further copies, visits of their layer are the policy's."""
    policy = kind(
        cxl="none", hint=hint, order=order, depth=depth, period=period, prefetch=prefetch, copies=copies, doubt=0.0,
        link_share=1.0, idle_cost=0.0,
    )  # fmt: skip
    compare(monkeypatch, deciders, k, policy, experts)
    assert deciders[-1] == "CxlDecider"
