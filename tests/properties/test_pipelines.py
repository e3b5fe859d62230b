"""Pipelines whose layers overlap: timed alike by both engines, true to the invariants and to closed forms."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal

import engine_worlds as worlds
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.clock import SECOND, to_ps
from moesim.contract import Deployment, Dispatch
from moesim.engine.books.energy_and_cost import bound_seconds
from moesim.engine.programs.program import JOIN, Operation, Program
from moesim.engine.reference.engine import ReferenceEngine
from moesim.errors import PolicyError

SOME = settings(max_examples=20, deadline=None, derandomize=True, database=None)
LANES = ("gpu", "pcie:forward", "pcie:reverse", "cpu")


def random_program(seed: int, number: int, *, usage: float = 0.0) -> Program:
    """Operations on four lanes that wait for up to three earlier ones; some take no time, some come in ranks."""
    rng = np.random.default_rng(seed)
    program = Program()
    for index in range(number):
        after = tuple(set(rng.integers(0, index, rng.integers(0, min(index, 3) + 1)).tolist())) if index else ()
        lane, service = LANES[int(rng.integers(4))], int(rng.choice([0, 1, 3, 3, 6, 10])) * 10**6
        draws = {"ddr:read": usage * service * 40e9 / 1e12} if usage and lane != "gpu" else {}
        program.add(Operation(program.lane(lane), service, after, int(rng.integers(2)), in_order=True, draws=draws))
    program.add(Operation(JOIN, 0, tuple(range(number))))
    return program


def timed(program: Program, capacity: dict[str, float] | None = None) -> ReferenceEngine:
    engine = ReferenceEngine(program, capacity or {"ddr:read": 1e15})
    engine.submit()
    engine.run(len(program) - 1)
    return engine


@SOME
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_lanes_do_one_thing_at_a_time_in_rank_and_never_idle(seed, number):
    """I4 to I6, and the critical path is as long as the whole."""
    program = random_program(seed, number)
    engine = timed(program)
    work = {n: op for n, op in program.operations.items() if op.lane >= 0}
    start, end = ({n: getattr(engine.operations[n], edge) for n in program.operations} for edge in ("start", "end"))
    ready = {n: max((end[earlier] for earlier in op.after), default=0) for n, op in work.items()}
    for lane in program.lanes.values():
        here = {n: op for n, op in work.items() if op.lane == lane}
        spans = sorted((start[n], end[n]) for n in here)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        for n, op in here.items():
            assert ready[n] <= start[n] == end[n] - op.service
            busy = sum(min(e, start[n]) - max(s, ready[n]) for s, e in spans if s < start[n] and e > ready[n])
            assert busy == start[n] - ready[n]
            for earlier, its in here.items():  # nothing that was ready and went first by rank and number starts later
                if ready[earlier] < start[n] < start[earlier]:
                    assert (op.priority, n) < (its.priority, earlier)
    path = engine.critical(len(program) - 1, 0)
    assert sum(stop - begin for _, begin, stop in path) == engine.now
    assert all(a[2] == b[1] for a, b in pairwise(path))


@SOME
@given(st.integers(0, 10**6), st.floats(0.3, 1.0))
def test_lanes_that_share_a_tier_slow_each_other_and_never_gain(seed, usage):
    program = random_program(seed, 25, usage=usage)
    capacity = worlds.system(worlds.Knobs(cpu=True)).resources()
    slowed = timed(program, capacity)
    for number, operation in program.operations.items():
        assert slowed.operations[number].end - slowed.operations[number].start >= operation.service


# Whole runs


class Streamed(worlds.Scripted):
    """Everything on the GPU, layers streamed; `how` goes to the deployment or to both plans."""

    kind: Literal["streamed"] = "streamed"
    how: Any = None

    def deploy(self, problem) -> Deployment:
        return worlds.streaming(super().deploy(problem), self.how)

    def dispatch(self, visit, view) -> Dispatch:
        return Dispatch(view.problem.gpu_at[view.home[visit.layer]])


WAYS = [
    {"ahead": 1},
    {"ahead": 2},
    {"ahead": 1, "pipeline": "serial"},
    {"ahead": 1, "pipeline": "paged"},
    {"ahead": 1, "pipeline": "alternating"},
    {"ahead": 1, "pipeline": "module"},
    {"ahead": 0, "pipeline": "module"},
]


def streamed(k: worlds.Knobs, how: dict[str, Any], engine: Any = "auto", timeline: bool = False):
    p, table = worlds.problem(k)
    return p, worlds.simulate(p, Streamed(knobs=k, how=how), table, worlds.SimulationOptions(engine=engine, timeline=timeline))


KNOBS = {"off_gpu": 0.0, "streamed": False, "staging": 40, "serial": False, "ordered": False}


@SOME
@given(strategies.knobs(**KNOBS), st.sampled_from(WAYS))
def test_i1_i2_i11_of_streamed_runs(k, how):
    p, outcome = streamed(k, how)
    recorder = outcome.recorder
    tokens = int(p.job.prompt.sum()) + (int(p.job.output.sum()) - p.job.requests if k.attention else 0)
    assert sum(recorder.expert_tokens.values()) == p.model.top_k * tokens * p.layers
    streams = p.gpu_at[outcome.deployment.home] == p.attending_index  # what lives with another GPU runs there
    away = ~outcome.deployment.resident & streams
    per_pass = float((outcome.deployment.expert_bytes * away).sum())
    passes = len(recorder.passes)
    if how["ahead"] or how.get("pipeline") != "module":
        assert recorder.caused.get("demand", 0.0) == pytest.approx(per_pass * passes)
    assert sum(recorder.critical.values()) == recorder.makespan
    assert max(recorder.busy.values()) <= recorder.makespan
    assert recorder.layers.time.sum() <= recorder.makespan
    assert bound_seconds(p, outcome) <= (recorder.makespan + recorder.rounded / 2) / SECOND * (1 + 1e-9)


@SOME
@given(strategies.knobs(**KNOBS), st.sampled_from(WAYS))
def test_i9_streamed_runs_are_alike_on_both_engines(k, how):
    (_, kernel), (_, reference) = streamed(k, how), streamed(k, how, "reference")
    assert worlds.differences(worlds.record(kernel), worlds.record(reference)) == {}


@pytest.mark.parametrize("ahead", [1, 2])
def test_in_a_steady_state_a_layer_takes_the_longer_of_upload_and_compute(ahead):
    """Upload-bound decode: passes follow each other at the pace of the link, whatever the GPU does beside it."""
    k = worlds.Knobs(
        layers=4, top_k=4, residents=0.0, requests=1, batch=1, output=12, staging=40, pcie=0.5e9, setup=0.0, seed=5
    )
    p, outcome = streamed(k, {"ahead": ahead})
    passes = outcome.recorder.passes[2:-1]
    weights = p.layers * p.experts * p.model.expert_bytes
    for row in passes:
        assert (row.end - row.start) / SECOND == pytest.approx(weights / k.pcie, rel=1e-6)


def test_serial_adds_upload_and_the_rest():
    k = worlds.Knobs(layers=3, experts=4, residents=0.0, requests=1, batch=1, output=4, staging=40, seed=2)
    (_, overlapped), (_, serial) = streamed(k, {"ahead": 1}), streamed(k, {"ahead": 1, "pipeline": "serial"})
    decode = [row for row in serial.recorder.passes if row.phase == "decode"]
    link = serial.recorder.busy["pcie:forward"] - overlapped.recorder.busy["pcie:forward"]
    assert link == 0
    gpu, up = serial.recorder.busy["gpu"], serial.recorder.busy["pcie:forward"]
    prefill = serial.recorder.passes[0]
    assert sum(row.end - row.start for row in decode) <= gpu + up <= serial.recorder.makespan + min(gpu, prefill.end)


def test_weights_cross_once_for_all_groups_and_are_read_by_each():
    k = worlds.Knobs(layers=3, experts=4, residents=0.0, requests=4, batch=4, micro=1, output=3, staging=40, seed=4)
    (_, together), (_, groups) = streamed(k, {"ahead": 1}), streamed(worlds.replace(k, expert_batch=1), {"ahead": 1})
    assert groups.recorder.caused["demand"] == together.recorder.caused["demand"]
    assert groups.recorder.busy["gpu"] > together.recorder.busy["gpu"]


def test_pages_overlap_what_a_barrier_holds_up():
    """Attention of one micro-batch on the CPU runs beside the experts of another."""
    base = worlds.Knobs(layers=4, residents=1.0, requests=4, prompt=3000, batch=4, micro=1, expert_batch=1, output=6, seed=6)
    base = worlds.replace(base, cpu=True, kv="ddr", places="gcg", staging=40, launch=1e-5)
    (_, paged), (_, barrier) = streamed(base, {"ahead": 1, "pipeline": "paged"}), streamed(base, {"ahead": 1})
    assert paged.recorder.busy["cpu"] == barrier.recorder.busy["cpu"]
    assert paged.recorder.makespan < barrier.recorder.makespan


def paged_slices(k: worlds.Knobs, lane: str) -> list[Any]:
    _, outcome = streamed(k, {"ahead": 1, "pipeline": "paged"}, timeline=True)
    return sorted((piece for piece in outcome.recorder.slices if piece.track == lane), key=lambda piece: piece.start)


def test_a_micro_batch_goes_on_to_the_next_layer_before_another_one_meets_its_experts():
    """The CPU waits for the projections, so they go ahead of experts that are ready too."""
    k = worlds.Knobs(layers=3, residents=1.0, requests=2, prompt=3000, batch=2, micro=1, expert_batch=1, output=3, seed=6)
    k = worlds.replace(k, cpu=True, kv="ddr", places="gcg", staging=40, launch=1e-4)
    names = [piece.name for piece in paged_slices(k, "gpu")]
    passes = "|".join(names).split("|LM head")
    (both,) = (piece for piece in passes if "router|router" in piece)  # the decode pass with both micro-batches
    assert both.count("experts|attention|experts") == 2
    assert both.endswith("router|router|experts|experts")


def test_pages_are_of_equal_size_however_few_experts_they_hold():
    k = worlds.Knobs(layers=3, experts=3, residents=0.0, requests=2, batch=2, micro=1, expert_batch=1, output=3, seed=6)
    k = worlds.replace(k, cpu=True, kv="ddr", places="gcg", staging=40)
    pages = [piece for piece in paged_slices(k, "pcie:forward") if piece.name == "upload experts"]
    size, number = Counter(piece.end - piece.start for piece in pages).most_common(1)[0]
    assert number % 8 == 0
    p, _ = worlds.problem(k)
    assert 8 * size == 3 * int(to_ps(p.costs.copy(p.model.expert_bytes, "ddr", "hbm")))


def test_a_share_of_attention_on_the_cpu_moves_that_share_of_the_cache_less():
    base = worlds.Knobs(
        layers=3, experts=4, residents=1.0, requests=2, batch=2, micro=1, output=6, prompt=40, cpu=True, kv="ddr", staging=40
    )
    (_, none), (_, half) = (streamed(base, {"ahead": 1, "pipeline": "module", "cpu_share": share}) for share in (0.0, 0.5))
    prefill = 0.0
    p, _ = worlds.problem(base)
    per_token = float(p.model.kv_bytes_per_layer.sum())
    prefill = per_token * float(p.job.prompt.sum())
    decode = none.recorder.caused["kv"] - prefill
    crossing = half.recorder.caused["kv"] - prefill
    on_cpu = 0.5 * (none.recorder.moved["pcie:forward"])
    assert crossing <= decode
    assert half.recorder.moved["pcie:forward"] == pytest.approx(on_cpu, rel=0.2)
    assert half.recorder.busy["cpu"] > 0


class Late(Streamed):
    """All experts on the CPU, all of them late where another layer follows."""

    kind: Literal["late"] = "late"
    share: float = 1.0

    def dispatch(self, visit, view) -> Dispatch:
        stale = (
            visit.counts if visit.phase == "decode" and visit.layer + 1 < view.problem.layers else np.zeros_like(visit.counts)
        )
        stale = np.where(np.arange(len(stale)) < self.share * len(stale), stale, 0)
        return Dispatch(np.full(len(visit.counts), view.problem.cpu_index), stale=stale)


def late(k: worlds.Knobs, share: float, engine: Any = "auto"):
    p, table = worlds.problem(k)
    return worlds.simulate(
        p, Late(knobs=k, how={"pipeline": "deferred"}, share=share), table, worlds.SimulationOptions(engine=engine)
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_late_experts_run_beside_the_next_layer(share):
    k = worlds.Knobs(layers=5, experts=4, top_k=2, residents=0.0, requests=1, batch=1, output=4, cpu=True, seed=9)
    now, then = late(k, 0.0), late(k, share)
    assert then.recorder.busy["cpu"] == now.recorder.busy["cpu"]
    assert (then.recorder.makespan < now.recorder.makespan) == (share > 0)
    assert worlds.differences(worlds.record(then), worlds.record(late(k, share, "reference"))) == {}
    assert sum(then.recorder.critical.values()) == then.recorder.makespan


class Early(Streamed):
    """Odd experts are on the GPU, the others on the CPU: in decode those of all layers from `first` on a layer early."""

    kind: Literal["early"] = "early"
    first: int = 1
    half: bool = False
    """Whether the CPU computes only one of its experts early, which no pipeline takes."""

    def deploy(self, problem) -> Deployment:
        deployment = super().deploy(problem)
        deployment.resident[:, 1::2] = True
        return deployment

    def dispatch(self, visit, view) -> Dispatch:
        problem, on_gpu = view.problem, np.arange(len(visit.counts)) % 2 == 1
        view.state.append(visit.counts)
        device = np.where(on_gpu, problem.attending_index, problem.cpu_index)
        if visit.phase == "prefill" or visit.layer < self.first:
            return Dispatch(device)
        stale = np.where(on_gpu, 0, visit.counts)
        if self.half:
            stale[np.flatnonzero(stale)[1:]] = 0
        return Dispatch(device, stale=stale)


def early(k: worlds.Knobs, engine: Any = "auto", timeline: bool = False, turns: int = 0, **keys: Any):
    p, table = worlds.problem(k)
    policy = Early(knobs=k, how={"pipeline": "precomputed", "turns": turns}, **keys)
    return worlds.simulate(p, policy, table, worlds.SimulationOptions(engine=engine, timeline=timeline))


EARLY = worlds.Knobs(layers=5, experts=6, top_k=3, shared=True, requests=1, batch=1, output=5, cpu=True, sync=2e-5, seed=9)


@SOME
@given(
    strategies.knobs(**{**KNOBS, "cpu": True, "residents": 0.0, "swap": 0, "pieces": 1, "gpus": 0}),
    st.integers(0, 3), st.integers(1, 3),
)  # fmt: skip
def test_i9_experts_that_begin_early_are_alike_on_both_engines(k, turns, first):
    kernel, reference = (early(k, engine, turns=turns, first=first) for engine in ("auto", "reference"))
    assert worlds.differences(worlds.record(kernel), worlds.record(reference)) == {}
    assert sum(kernel.recorder.critical.values()) == kernel.recorder.makespan


@pytest.mark.parametrize(("turns", "first"), [(0, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("launch", [0.0, 1e-4])
def test_a_layer_ends_when_its_gpu_experts_and_what_the_cpu_began_a_layer_before_have_ended(turns, first, launch):
    """The last pass summed by hand from the services of its parts, in which each lane serves in turn."""
    outcome = early(worlds.replace(EARLY, launch=launch), timeline=True, turns=turns, first=first)
    decode, layers = outcome.recorder.passes[-1], EARLY.layers
    slices = sorted(outcome.recorder.slices, key=lambda piece: piece.start)
    parts = [piece for piece in slices if decode.start <= piece.start < decode.end and piece.end > piece.start]
    services = {lane: [(s.name, s.end - s.start) for s in parts if s.track == lane] for lane in LANES}
    gpu = [list(map(itemgetter(1), group)) for group in _runs_of_experts(services["gpu"])]
    (ids,) = {service for name, service in services["pcie:reverse"] if name == "expert ids"}
    (out,) = {service for name, service in services["pcie:reverse"] if name == "activations"}
    (back,) = {service for name, service in services["pcie:forward"] if name == "activations"}
    cpu = iter([service for _, service in services["cpu"]])
    on_cpu = [bool(counts[::2].any()) for counts in outcome.deployment.state[-layers:]]
    free = dict.fromkeys(LANES, decode.start)

    def serve(lane: str, ready: int, service: int) -> int:
        free[lane] = max(free[lane], ready) + service
        return free[lane]

    def helped(ready: int) -> int:
        sent = serve("pcie:reverse", serve("pcie:reverse", ready, ids), out)
        return serve("pcie:forward", serve("cpu", sent, next(cpu)), back)

    now, ahead = decode.start, 0
    for layer, (*front, experts) in enumerate(gpu[:layers]):
        router, own = now + sum(front), 0
        before, ahead = ahead, helped(router) if first <= layer + 1 < layers and on_cpu[layer + 1] else 0
        if layer < first and on_cpu[layer]:
            own = helped(router)
        now = max((own if own and layer < turns else router) + experts, own, before)
    assert sum(on_cpu[first:]) > 0
    assert now + sum(gpu[layers]) == decode.end
    assert sum(name == "experts ahead" for name, _ in services["cpu"]) == sum(on_cpu[first:])


def _runs_of_experts(services: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """The services of a lane, cut behind the experts of each layer."""
    runs: list[list[tuple[str, int]]] = [[]]
    for name, service in services:
        runs[-1].append((name, service))
        if name == "experts":
            runs.append([])
    return runs


def test_a_head_start_hides_what_the_gpu_has_to_do_and_moves_no_byte_more():
    now, then = early(EARLY, first=EARLY.layers), early(EARLY)
    assert then.recorder.makespan < now.recorder.makespan
    assert then.recorder.busy == now.recorder.busy
    assert then.recorder.moved == pytest.approx(now.recorder.moved)
    assert then.recorder.quality.stale > now.recorder.quality.stale == 0


@pytest.mark.parametrize(("keys", "mistake"), [({"first": 0}, "before MoE layer 0"), ({"half": True}, "early, or none")])
def test_a_layer_begins_early_as_a_whole_and_behind_another_one(keys, mistake):
    with pytest.raises(PolicyError, match=mistake):
        early(EARLY, **keys)


@pytest.mark.parametrize("how", [how for how in WAYS if how.get("pipeline") != "serial"])
def test_i3_streams_need_room_for_what_they_stream(how):
    """Seven experts in each of three layers, none resident: (ahead + 1) layers of slots are just enough."""
    slots = 7 * (max(how["ahead"], 0 if how.get("pipeline") == "module" else 1) + 1)
    k = worlds.Knobs(layers=3, experts=7, residents=0.0, staging=slots)
    streamed(k, how)
    with pytest.raises(PolicyError, match="staging"):
        streamed(worlds.replace(k, staging=slots - 1), how)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_i2_late_results_cross_once_and_late_experts_draw_their_own_weights(share):
    k = worlds.Knobs(layers=5, experts=4, top_k=2, residents=0.0, requests=1, batch=1, output=4, cpu=True, seed=9)
    p, table = worlds.problem(k)
    now, then = late(k, 0.0), late(k, share)
    assert then.recorder.moved == pytest.approx(now.recorder.moved)
    policy = Late(knobs=k, how={"pipeline": "deferred"}, share=share)
    shown = worlds.simulate(p, policy, table, worlds.SimulationOptions(timeline=True)).recorder
    drawn = sum(s.amount for s in shown.slices if s.track == "cpu" and "experts" in s.name)
    decode = 2 * p.layers * (len(shown.passes) - 1)
    assert drawn == pytest.approx((decode + _active(p, table)) * p.model.expert_bytes)
    for track in ("pcie:forward", "pcie:reverse"):
        assert shown.moved.get(track, 0.0) == pytest.approx(sum(s.amount for s in shown.slices if s.track == track))


def _active(p, table) -> int:
    """Experts that the prompts ask for."""
    return int(np.count_nonzero(table.prefill_counts(np.arange(p.job.requests))))


def test_kv_stores_hold_up_nothing_but_the_end_of_a_layer():
    """With everything resident, streaming nothing is as fast as walking layer by layer."""
    k = worlds.Knobs(
        layers=4, residents=1.0, requests=2, batch=2, micro=1, output=4, prompt=400, kv="ddr", staging=40, launch=0.0
    )
    p, table = worlds.problem(k)
    plain = worlds.simulate(p, worlds.Scripted(knobs=worlds.replace(k, off_gpu=0.0)), table)
    (_, ahead) = streamed(k, {"ahead": 1})
    assert ahead.recorder.makespan <= plain.recorder.makespan


def test_overlapping_layers_need_a_memoryless_policy_and_plain_dispatches():
    class Learning(Streamed):
        kind: Literal["learning"] = "learning"
        memoryless = False

    class Choosy(Streamed):
        kind: Literal["choosy"] = "choosy"

        def dispatch(self, visit, view):
            return super().dispatch(visit, view)._replace(nbytes=view.copy_bytes[visit.layer] / 2)

    for policy, promise in ((Learning, "memoryless"), (Choosy, "precision")):
        k = worlds.Knobs(staging=40)
        p, table = worlds.problem(k)
        with pytest.raises(PolicyError, match=promise):
            worlds.simulate(p, policy(knobs=k, how={"ahead": 1}), table)
