"""Steps that mix decodes and parts of prompts, and prompts in chunks: timed alike by both engines, true to the invariants."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import engine_worlds as worlds
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.contract import Deployment, Dispatch
from moesim.contract.steps import StepPlan
from moesim.engine.passes import pass_of
from moesim.engine.programs.pre_expert import structure_of_pass
from moesim.errors import InputError, MoesimError
from moesim.scheduling.rounds import steps_of_job
from moesim.workload.table import Job, RoutingTable

Knobs, Scripted, Stepwise, Restless = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless
SOME = settings(max_examples=6, deadline=None, derandomize=True, database=None)
WAYS: list[dict[str, Any]] = [
    {"ahead": 1},
    {"ahead": 1, "pipeline": "serial"},
    {"ahead": 1, "pipeline": "paged"},
    {"ahead": 1, "pipeline": "module"},
]


class Parted(Scripted):
    """Decodes attend on the CPU, prompts on the GPU: a step that holds both has two chains side by side."""

    kind: Literal["parted"] = "parted"  # type: ignore[assignment]

    def deploy(self, problem) -> Deployment:
        deployment = super().deploy(problem)
        plan = replace(deployment.plan, kv="ddr", prefill=replace(deployment.plan.prefill, core="gpu"))
        return replace(deployment, plan=replace(plan, decode=replace(plan.decode, core="cpu")))


class Ahead(Scripted):
    """Everything on the GPU, layers streamed ahead, used or not."""

    kind: Literal["ahead"] = "ahead"  # type: ignore[assignment]
    how: Any = None

    def deploy(self, problem) -> Deployment:
        return worlds.streaming(super().deploy(problem), self.how)

    def dispatch(self, visit, view) -> Dispatch:
        return Dispatch(view.problem.gpu_at[view.home[visit.layer]])


def alike(k: Knobs, policy: type, schedule: Any = worlds.Rounds) -> worlds.Outcome:
    by_reference, by_kernel = (worlds.run(k, policy, engine, schedule=schedule) for engine in ("reference", "kernel"))
    assert worlds.differences(worlds.record(by_reference), worlds.record(by_kernel)) == {}
    return by_kernel


@SOME
@given(strategies.knobs(prompt=12, requests=4), st.sampled_from([Scripted, Stepwise]))
def test_i9_mixed_steps(k, policy):
    alike(k, policy, partial(worlds.Mixing, seed=k.seed))


@SOME
@given(strategies.moving(prompt=12, requests=4))
def test_i9_mixed_steps_while_copies_move(k):
    alike(k, Restless, partial(worlds.Mixing, seed=k.seed))


@SOME
@given(strategies.knobs(cpu=True, attention=True, requests=4))
def test_i9_steps_whose_parts_attend_on_different_devices(k):
    alike(k, Parted, partial(worlds.Mixing, seed=k.seed))


@SOME
@given(strategies.knobs(staging=40, streamed=False, serial=False, off_gpu=0.0, ordered=False), st.sampled_from(WAYS))
def test_i9_mixed_steps_whose_layers_stream(k, how):
    alike(k, partial(Ahead, how=how), partial(worlds.Mixing, seed=k.seed))


@SOME
@given(strategies.knobs(prompt=20), st.integers(1, 25))
def test_i9_i13_chunks_change_times_and_never_tokens(k, cut):
    whole, chunks = worlds.run(k), alike(replace(k, cut=cut), Scripted)
    assert chunks.recorder.layers.activations.tolist() == whole.recorder.layers.activations.tolist()
    stored = [run.recorder.caused.get("kv", 0.0) for run in (whole, chunks)]
    assert stored[1] >= stored[0] * (1 - 1e-12)  # the same entries are written, and earlier ones are read again
    assert chunks.recorder.first_token.min() > 0
    assert sum(chunks.recorder.critical.values()) == chunks.recorder.makespan


@SOME
@given(strategies.knobs(prompt=20))
def test_i13_one_chunk_of_the_whole_prompt_is_the_unchunked_run(k):
    longest = replace(k, cut=20 * k.requests)
    assert worlds.differences(worlds.record(worlds.run(k)), worlds.record(worlds.run(longest))) == {}


@SOME
@given(strategies.knobs(prompt=12, attention=True))
def test_i1_i3_mixed_steps_compute_every_token_once(k):
    """Without requests that are taken back: as many pairs as the job in rounds, and no more cache than is set aside."""
    p, _ = worlds.problem(k)
    mixed = worlds.run(k, schedule=partial(worlds.Mixing, seed=k.seed, takes_back=0.0)).recorder
    rounds = worlds.run(k).recorder
    assert mixed.layers.activations.tolist() == rounds.layers.activations.tolist()
    assert 0 < mixed.kv_peak <= p.kv_bytes(k.batch) * (1 + 1e-12)
    assert sum(mixed.critical.values()) == mixed.makespan
    assert (mixed.first_token <= mixed.finish).all()


def test_waiting_for_requests_delays_a_run_and_is_not_work():
    k = Knobs(requests=2, layers=1)
    outcome = worlds.run(k, schedule=partial(worlds.Mixing, seed=1))
    assert outcome.recorder.critical["arrivals"] > 0
    assert "arrivals" not in outcome.recorder.busy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": [0, 0]}, "twice"),
        ({"requests": []}, "without sequences"),
        ({"new_tokens": [99, 1]}, "does not have"),
        ({"before": [-1, 0]}, "does not have"),
        ({"yields": [True, True]}, "before the prompt"),
    ],
)
def test_steps_that_cannot_be_are_refused(change, message):
    p, table = worlds.problem(Knobs(prompt=1, output=1))
    job = replace(p.job, prompt=np.array([3, 3]))
    parts = {"requests": [0, 1], "new_tokens": [1, 1], "before": [0, 0], "yields": [False, False], **change}
    if not parts["requests"]:
        parts = {name: [] for name in parts}
    plan = StepPlan(*(np.array(values, dtype=bool if name == "yields" else np.int64) for name, values in parts.items()))
    with pytest.raises(MoesimError, match=message):
        pass_of(0, plan, job, table, 0)


def test_a_scheduler_that_overfills_the_cache_is_stopped():
    class Greedy(worlds.Mixing):
        def kv_room(self) -> float:
            return 1.0

    with pytest.raises(MoesimError, match="KV cache"):
        worlds.run(Knobs(), schedule=Greedy)


def test_the_steps_of_a_job_in_chunks():
    """Two prompts of 5 and 4 tokens in chunks of 3: the rest of the first one passes with the beginning of the second."""
    job = Job(np.zeros(2), np.array([5, 4]), np.array([2, 1]), layers=1, chunk=3)
    deployment = worlds.Scripted(knobs=Knobs()).deploy(worlds.problem(Knobs())[0])
    steps = [
        (s.requests.tolist(), s.new_tokens.tolist(), s.before.tolist(), s.yields.tolist())
        for s in steps_of_job(job, deployment)
    ]
    assert steps == [
        ([0], [3], [0], [False]),
        ([0, 1], [2, 1], [3, 0], [True, False]),
        ([1], [3], [1], [True]),
        ([0], [1], [5], [True]),
    ]


def test_attention_of_a_mixed_step_is_the_sum_of_its_parts():
    """One prompt part of 4 tokens behind 6 others, and one decode at context 9: each core alone, one projection for all."""
    k = Knobs(requests=2, prompt=10, output=9, layers=1, places="ggg", micro=4)
    p, table = worlds.problem(k)
    job = replace(p.job, prompt=np.array([10, 5]), output=np.array([1, 5]))
    deployment = worlds.Scripted(knobs=k).deploy(p)
    plan = StepPlan(np.array([0, 1]), np.array([3, 1]), np.array([6, 8]), np.array([False, True]))
    ids = np.zeros((2, 10, 1, 1), dtype=np.uint8)
    routing = RoutingTable(np.zeros((2, 1, 4), dtype=np.uint32), ids[:, :5], 4, table.profile, prompts=lambda: ids)
    structure = structure_of_pass(p, deployment, pass_of(0, plan, job, routing, 0))
    ((chain,),) = structure.chains
    costs, gpu, model = p.costs, "gpu", p.model
    parts = costs.core(gpu, model.core_flops_prefill([3], [6]), model.core_bytes_prefill([3], [6]), "prefill", "hbm")
    decode = costs.core(gpu, model.core_flops_decode([9]), model.core_bytes_decode([9]), "decode", "hbm")
    dense = float(costs.projections(gpu, 4) + costs.output(gpu, 4))
    assert chain.stages[0].total == pytest.approx((float(parts[0] + decode[0]) + dense) * 1e12, abs=3)


def test_a_routing_that_knows_counts_alone_cannot_be_cut():
    table = RoutingTable(np.ones((1, 1, 4), dtype=np.uint32), np.zeros((1, 0, 1, 1), dtype=np.uint8), 4, np.ones((1, 4)) / 4)
    with pytest.raises(InputError, match="cannot be cut"):
        table.chunk_counts(np.array([0]), np.array([0]), np.array([2]), np.array([4]))
    assert table.chunk_counts(np.array([0]), np.array([0]), np.array([4]), np.array([4])).tolist() == [[1, 1, 1, 1]]
