"""Runs whose time is known on paper, and how many events they cost."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import engine_worlds as worlds
import numpy as np
import pytest

import moesim.engine.run as engine_run
from moesim.clock import SECOND, to_ps
from moesim.contract import Dispatch
from moesim.engine import SimulationOptions, simulate
from moesim.errors import PolicyError
from moesim.runs.run import problem_of
from moesim.scenario.scenario import load_data

Knobs, Scripted, Stepwise, replace = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.replace


class Everywhere(Scripted):
    """Every active expert on one device."""

    kind: str = "everywhere"  # type: ignore[assignment]
    device: str = "gpu"
    memoryless: ClassVar[bool] = True

    def dispatch(self, visit, view):
        return Dispatch(np.full(visit.counts.shape, view.problem.devices.index(self.device)))


def run(k, device: str = "gpu", engine: str = "auto"):
    p, table = worlds.problem(k)
    return p, table, simulate(p, Everywhere(knobs=k, device=device), table, SimulationOptions(engine=engine)).recorder


LAYER = Knobs(layers=1, attention=False, experts=6, requests=1, prompt=40, residents=0.0, batch=1, launch=0.0, setup=0.0)
"""One batch through one layer: nothing but experts."""


@pytest.mark.parametrize("engine", ["kernel", "reference"])
def test_residents_alone_take_what_the_cost_model_says(engine):
    p, table, recorder = run(replace(LAYER, residents=1.0, launch=5e-6), engine=engine)
    counts = table.prefill_counts(np.array([0]))[0]
    assert recorder.makespan == int(to_ps(p.costs.gpu(counts)).sum()) + 5_000_000  # one fused call
    assert recorder.critical == {"gpu": recorder.makespan, **{k: 0 for k in recorder.critical if k != "gpu"}}


@pytest.mark.parametrize("serial", [True, False])
def test_a_cpu_alone_takes_its_work_and_the_crossings(serial):
    k = replace(LAYER, cpu=True, sync=3e-6, serial=serial)
    p, table, recorder = run(k, "cpu")
    counts = table.prefill_counts(np.array([0]))[0]
    tokens = int(p.job.prompt[0])
    nbytes = p.model.token_bytes * min(int(counts.sum()), tokens)
    out, back = p.costs.copy(nbytes, "hbm", "ddr"), p.costs.copy(nbytes, "ddr", "hbm")
    ids = p.costs.copy(4.0 * p.model.top_k * tokens, "hbm", "ddr")
    work = int(to_ps(p.costs.cpu(counts, "ddr")).sum()) + 3_000_000
    assert recorder.makespan == sum(int(to_ps(t)) for t in (out, back, ids)) + work
    assert recorder.busy["cpu"] == work


@pytest.mark.parametrize("engine", ["kernel", "reference"])
@pytest.mark.parametrize(("fused", "residents"), [(False, 0.0), (False, 1.0), (True, 1.0)])
def test_a_thread_that_launches_for_the_gpu_first_begins_later_by_every_call(engine, fused, residents):
    """Half of the experts on each device; the CPU is held up by one launch for each call to the GPU."""
    k = replace(LAYER, cpu=True, launch=7e-6, fused=fused, residents=residents)

    class Halves(Everywhere):
        def dispatch(self, visit, view):
            return Dispatch(np.arange(len(visit.counts)) % 2 * view.problem.cpu_index)

    def busy(k):
        p, table = worlds.problem(k)
        (counts,) = table.prefill_counts(np.array([0]))
        outcome = simulate(p, Halves(knobs=k), table, SimulationOptions(engine=engine))
        assert p.attending_index == 0
        return outcome.recorder.busy["cpu"], int(np.count_nonzero(counts[::2]))

    (alone, active), (first, _) = busy(k), busy(replace(k, launches_gpu=True))
    assert first - alone == 7_000_000 * (1 if fused else active)


@pytest.mark.parametrize("serial", [False, True])
def test_an_expert_that_is_loaded_without_tokens_takes_the_link_and_no_call_of_the_gpu(serial):
    """Three tokens in one layer of six experts, each of which has a call of its own."""
    k = replace(LAYER, prompt=3, launch=5e-6, fused=False, serial=serial)

    class AllLoaded(Everywhere):
        def dispatch(self, visit, view):
            return super().dispatch(visit, view)._replace(load=np.ones(len(visit.counts), dtype=bool))

    p, table = worlds.problem(k)
    (counts,) = table.prefill_counts(np.array([0]))
    recorder = simulate(p, AllLoaded(knobs=k), table, SimulationOptions()).recorder
    active = counts[counts > 0]
    assert len(active) < 6
    assert recorder.busy["gpu"] == int(to_ps(p.costs.gpu(active)).sum()) + len(active) * 5_000_000
    work = recorder.breakdown.operations["prefill", "gpu", "experts"]
    assert work[2] == recorder.busy["gpu"], "the table of operations has the time of uploaded experts, too"
    assert recorder.busy["pcie:forward"] == 6 * int(to_ps(p.costs.copy(p.model.expert_bytes, "ddr", "hbm")))


def test_a_serial_pipeline_is_the_sum_of_its_lanes():
    k = Knobs(serial=True, cpu=True, layers=3, experts=7, output=4, prompt=40, seed=5)
    recorder = worlds.run(k, Scripted).recorder
    assert sum(recorder.busy.values()) == recorder.makespan
    assert {lane: t for lane, t in recorder.busy.items() if t} == {lane: t for lane, t in recorder.critical.items() if t}
    assert worlds.run(replace(k, serial=False), Scripted).recorder.makespan < recorder.makespan


def decode_seconds(recorder) -> float:
    return sum(row.end - row.start for row in recorder.passes if row.phase == "decode") / SECOND


def test_on_demand_decode_is_bound_by_the_upload():
    k = Knobs(layers=3, experts=7, requests=4, batch=4, micro=4, output=4, residents=0.0, pcie=1e7, setup=0.0, launch=0.0)
    k = replace(k, seed=4)
    p, table, recorder = run(k)
    streamed = sum(row.uploads for row in recorder.passes if row.phase == "decode") * p.model.expert_bytes
    tokens = int(p.job.output.sum()) - p.job.requests
    rate = tokens / decode_seconds(recorder)
    assert rate == pytest.approx(tokens * k.pcie / streamed, rel=2e-3)
    assert rate < tokens * k.pcie / streamed
    active = sum(np.count_nonzero(table.decode_counts(np.flatnonzero(p.job.output > g + 1), g)) for g in range(p.job.passes))
    assert streamed == active * p.model.expert_bytes


def test_halving_the_expert_batch_doubles_the_uploads_where_every_half_needs_every_expert():
    k = replace(LAYER, experts=2, top_k=2, requests=4, batch=4, staging=8)
    whole, halves, quarters = (run(replace(k, expert_batch=n))[2] for n in (0, 2, 1))
    assert [int(r.layers.uploads.sum()) for r in (whole, halves, quarters)] == [2, 4, 8]
    assert halves.moved["pcie:forward"] == 2 * whole.moved["pcie:forward"]
    assert whole.makespan < halves.makespan < quarters.makespan
    assert whole.expert_tokens == halves.expert_tokens == quarters.expert_tokens


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_faster_link_is_never_slower(seed, serial):
    k = Knobs(layers=3, experts=7, output=4, prompt=40, off_gpu=0.0, staging=2)
    k = replace(k, seed=seed, serial=serial, kv=("hbm", "ddr")[seed % 2])
    spans = [worlds.run(replace(k, pcie=rate), Scripted).recorder.makespan for rate in (1e9, 2e9, 5e9, 20e9, 100e9)]
    assert spans == sorted(spans, reverse=True)
    assert spans[0] > spans[-1]


def test_two_copies_at_once_share_a_bus():
    """Uploads beside a CPU that reads its experts: each alone fits on the bus, together they take longer than either."""
    k = Knobs(layers=2, experts=7, cpu=True, prompt=40, residents=0.0, pcie=8e9, seed=1)
    free, shared = (worlds.run(replace(k, total=total), Scripted) for total in (None, 9e9))
    assert shared.recorder.makespan > free.recorder.makespan
    assert free.recorder.moved["ddr:read"] == shared.recorder.moved["ddr:read"]
    assert shared.recorder.makespan / SECOND >= shared.recorder.moved["ddr:total"] / 9e9


@pytest.mark.parametrize("serial", [True, False])
def test_uploads_need_a_slot_to_land_in(serial):
    with pytest.raises(PolicyError, match="staging slot"):
        run(replace(LAYER, staging=0, serial=serial))
    assert run(replace(LAYER, staging=0, residents=1.0))[2].makespan > 0


def test_time_of_a_layer_is_that_of_its_attention_and_experts():
    layers = worlds.run(Knobs(cpu=True, layers=3, output=4)).recorder.layers
    assert layers.time.tolist() == (layers.attention + layers.experts).tolist()
    assert (layers.time > 0).all()


# Moments


def moments_per_visit(hardware: str, policy: dict) -> list[float]:
    """Moments at which anything ends per layer visit of each pass: prefill first, then decode."""
    routing = {"kind": "zipf", "exponent": 0.6}
    workload = {"kind": "offline", "requests": 32, "prompt": 32, "output": 4, "routing": routing}
    data = {"name": "count", "hardware": hardware, "model": "qwen3-30b-a3b", "workload": workload, "policy": policy}
    loaded = load_data(data)
    job, table = loaded.build()
    marks = [0]
    patch, close = pytest.MonkeyPatch(), engine_run._close

    def mark(context, *rest):
        marks.append(context.machine.engine.moments)
        close(context, *rest)

    patch.setattr(engine_run, "_close", mark)
    try:
        # with a timeline, each pass is walked by itself
        simulate(problem_of(loaded, job, table), loaded.scenario.policy, table, SimulationOptions(timeline=True))
    finally:
        patch.undo()
    return [(b - a) / job.layers for a, b in pairwise(marks)]


@pytest.mark.parametrize("policy", [{"kind": "cox_moe"}, {"kind": "cxl_expert", "cxl": "none"}], ids=["cox_moe", "cxl_expert"])
@pytest.mark.parametrize("hardware", ["rtx6000ada-xeon8452y", "a100-xeon8452y"])
def test_a_visit_has_two_moments_for_each_upload_at_most(hardware, policy):
    """A copy lands and its expert ends; attention, the CPU and what crosses for it add a handful."""
    assert max(moments_per_visit(hardware, policy)[1:]) <= 2 * 128 + 12
