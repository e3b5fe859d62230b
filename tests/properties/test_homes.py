"""Weights other than routed experts that live outside GPU memory: copied in every step, timed alike by both engines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import engine_worlds as worlds
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.clock import SECOND
from moesim.contract import Deployment, Dispatch, Homes, Paged
from moesim.contract.homes import in_flight, lying
from moesim.engine.books.energy_and_cost import bound_seconds
from moesim.errors import InputError, PolicyError

Knobs, Scripted, Stepwise = worlds.Knobs, worlds.Scripted, worlds.Stepwise
SOME = settings(max_examples=8, deadline=None, derandomize=True, database=None)
WAYS: list[dict[str, Any]] = [{"ahead": 1}, {"ahead": 2}, *({"ahead": 1, "pipeline": p} for p in ("serial", "paged", "module"))]
TIERS = st.sampled_from([None, "ddr", "ddr"])
HOMES = st.builds(Homes, TIERS, TIERS, TIERS, TIERS, TIERS, st.integers(0, 2)).filter(lambda homes: homes.elsewhere)


class Away(Scripted):
    """Weights outside GPU memory, layers one by one."""

    kind: Literal["away"] = "away"  # type: ignore[assignment]
    homes: Any = None

    def deploy(self, problem) -> Deployment:
        deployment = super().deploy(problem)
        return replace(deployment, plan=replace(deployment.plan, homes=self.homes))


class AwayStreamed(Away):
    """The same, everything streamed to the GPU."""

    kind: Literal["away_streamed"] = "away_streamed"  # type: ignore[assignment]
    how: Any = None

    def deploy(self, problem) -> Deployment:
        return worlds.streaming(super().deploy(problem), self.how)

    def dispatch(self, visit, view) -> Dispatch:
        return Dispatch(view.problem.gpu_at[view.home[visit.layer]])


def check(k: Knobs, policy: Any, homes: Homes, schedule: Any = worlds.Rounds) -> None:
    """I9; I2: every step brings what is away and the GPU computes with; and no run beats its bound."""
    by_reference, by_kernel = (worlds.run(k, policy, engine, schedule=schedule) for engine in ("reference", "kernel"))
    assert worlds.differences(worlds.record(by_reference), worlds.record(by_kernel)) == {}
    p, _ = worlds.problem(k)
    recorder, plan, model = by_kernel.recorder, by_kernel.deployment.plan, p.model
    expected = 0.0
    for row in recorder.passes:
        expected += sum(nbytes for layer in p.crossing(plan, row.phase) for _, nbytes in layer)
        expected += model.head_bytes if homes.head else 0.0
    rows = homes.head if model.tied_embedding else homes.embeddings
    expected += sum(row.tokens for row in recorder.passes) * model.embedding_bytes / model.vocab if rows else 0.0
    here = worlds.run(k, partial(policy.func, **{**policy.keywords, "homes": Homes()}))
    uploads = int(recorder.layers.uploads.sum()) - int(here.recorder.layers.uploads.sum())
    assert uploads == 0
    assert recorder.caused.get("demand", 0.0) - here.recorder.caused.get("demand", 0.0) == pytest.approx(expected)
    assert sum(recorder.critical.values()) == recorder.makespan
    assert bound_seconds(p, by_kernel) <= recorder.makespan / SECOND * (1 + 1e-9)


@SOME
@given(strategies.knobs(attention=True), HOMES, st.sampled_from([Away]))
def test_layers_one_by_one(k, homes, policy):
    check(k, partial(policy, homes=homes), homes)


@settings(SOME, max_examples=16)
@given(
    st.sampled_from(WAYS),
    strategies.knobs(attention=True, staging=40, streamed=False, serial=False, off_gpu=0.0, ordered=False),
    HOMES,
)
def test_layers_that_stream(how, k, homes):
    check(k, partial(AwayStreamed, homes=homes, how=how), homes)


@SOME
@given(strategies.knobs(attention=True, requests=4, prompt=12), HOMES)
def test_mixed_steps(k, homes):
    by_reference, by_kernel = (
        worlds.run(k, partial(Away, homes=homes), engine, schedule=partial(worlds.Mixing, seed=k.seed))
        for engine in ("reference", "kernel")
    )
    assert worlds.differences(worlds.record(by_reference), worlds.record(by_kernel)) == {}


PLAIN = Knobs(layers=3, dense=1, experts=4, residents=1.0, requests=1, batch=1, output=3, shared=True, setup=0.0)


def test_without_overlap_a_step_is_longer_by_the_copies():
    homes = Homes(attention="ddr", dense="ddr", shared="ddr", head="ddr")
    p, _ = worlds.problem(PLAIN)
    here, away = (worlds.run(PLAIN, partial(Away, homes=h)).recorder for h in (Homes(), homes))
    layers = [
        sum(nbytes for _, nbytes in layer)
        for layer in p.crossing(worlds.run(PLAIN, partial(Away, homes=homes)).deployment.plan, "decode")
    ]
    sent = [*layers, p.model.head_bytes]
    rows = p.model.embedding_bytes / p.model.vocab if p.model.tied_embedding else 0.0
    for a, b in zip(here.passes, away.passes, strict=True):
        longer = sum(float(p.costs.copy(nbytes, "ddr", "hbm")) for nbytes in (*sent, rows * b.tokens))
        assert (b.end - b.start) - (a.end - a.start) == pytest.approx(longer * SECOND, abs=20)


def test_streaming_ahead_hides_copies_behind_work():
    homes, k = Homes.everything("ddr"), replace(PLAIN, requests=4, batch=4, prompt=3000, staging=40, layers=6)
    demand = worlds.run(k, partial(Away, homes=homes)).recorder.makespan
    ahead = worlds.run(k, partial(AwayStreamed, homes=homes, how={"ahead": 1})).recorder.makespan
    assert ahead < demand


def test_gpu_memory_holds_buffers_instead_and_the_host_the_weights():
    p, _ = worlds.problem(PLAIN)
    plan = Scripted(knobs=PLAIN).deploy(p).plan
    homes = Homes.everything("ddr")
    away = replace(plan, homes=homes)
    model = p.model
    layers = p.crossing(away, "decode")
    buffer = in_flight(model, homes, layers, 0)
    assert buffer == pytest.approx(max(sum(n for layer in layers[:2] for _, n in layer), model.head_bytes))
    freed = sum(lying(model, homes).values())
    assert p.gpu_free(away) - p.gpu_free(plan) == pytest.approx(freed - buffer)
    assert freed == pytest.approx(model.non_expert_bytes - model.n_moe * model.router_bytes)
    assert p.host_overhead(away) == {"ddr": pytest.approx(freed)}
    staying = replace(plan, homes=Homes.everything("ddr", kept_layers=model.layers))
    assert p.host_overhead(staying) == {
        "ddr": pytest.approx(model.head_bytes + (0 if model.tied_embedding else model.embedding_bytes))
    }


def test_a_cpu_that_computes_with_them_reads_them_in_place():
    k = replace(PLAIN, cpu=True, kv="ddr", places="ccc")
    homes = Homes(attention="ddr")
    here, away = (worlds.run(k, partial(Away, homes=h)).recorder for h in (Homes(), homes))
    assert here.makespan == away.makespan


def test_homes_that_do_not_exist_are_refused():
    with pytest.raises(PolicyError, match="not a host tier"):
        worlds.run(PLAIN, partial(Away, homes=Homes(attention="moon")))
    with pytest.raises(PolicyError, match="lone MoE layer"):
        worlds.run(replace(PLAIN, attention=False), partial(Away, homes=Homes(shared="ddr")))


def test_prefill_does_not_page():
    class Paging(Away):
        def deploy(self, problem) -> Deployment:
            deployment = super().deploy(problem)
            return replace(
                deployment, plan=replace(deployment.plan, prefill=replace(deployment.plan.prefill, pipeline=Paged()))
            )

    with pytest.raises(PolicyError, match="Overlap and Serial"):
        worlds.run(PLAIN, partial(Paging, homes=Homes()))


def test_a_host_too_small_for_the_weights_is_named():
    with pytest.raises(InputError, match="weights other than routed experts"):
        worlds.run(PLAIN, partial(Away, homes=Homes.everything("ddr")), ddr=1e5)
