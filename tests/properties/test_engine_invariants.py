"""I1 to I7 on random worlds under a policy that dispatches and moves copies at random."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random

import engine_worlds as worlds
import numpy as np
import program_worlds
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.clock import SECOND
from moesim.contract import Deployment
from moesim.engine.kernel.kernel import ROUNDING
from moesim.engine.programs.durations import queue_of
from moesim.engine.programs.program import Program
from moesim.engine.reference.engine import ReferenceEngine
from moesim.errors import CapacityError, InputError, PolicyError

TESTS = Path(__file__).parents[1]
Knobs, Scripted, Stepwise, Restless, replace = worlds.Knobs, worlds.Scripted, worlds.Stepwise, worlds.Restless, worlds.replace

PLAIN = {"total": None, "both": None, "cxl": 0, "cpu": False, "places": "ggg", "kv": "hbm"}
"""Nothing beside the GPU and the copies into its memory."""
SOME = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def seen(outcome):
    """The visits as the restless policy met them."""
    return outcome.deployment.state


# I1


@SOME
@given(strategies.moving(), st.sampled_from(["kernel", "kernel", "reference"]))
def test_i1_i3_i4_i5_hold_in_any_world(k, engine):
    """One run for all that needs no certain kind of world."""
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, Restless, engine, timeline=True)
    every_routed_pair_is_computed_once(k, p, outcome.recorder)
    each_device_computes_what_it_was_given(p, outcome)
    no_tier_ever_holds_more_than_it_has(p, outcome.recorder)
    passes_follow_each_other_and_tokens_come_in_order(outcome.recorder)
    a_lane_never_does_two_jobs_at_once(outcome.recorder)


def every_routed_pair_is_computed_once(k, p, recorder):
    tokens = int(p.job.prompt.sum()) + (int(p.job.output.sum()) - p.job.requests if k.attention else 0)
    pairs = p.model.top_k * tokens
    assert sum(recorder.expert_tokens.values()) == pairs * p.layers
    assert recorder.layers.activations.tolist() == [pairs] * p.layers
    assert sum(row.tokens for row in recorder.passes) == tokens
    assert sum(row.activations for row in recorder.passes) == pairs * p.layers


def each_device_computes_what_it_was_given(p, outcome):
    given_to: dict[str, int] = defaultdict(int)
    for visit in seen(outcome):
        for device, count in zip(visit.device, visit.counts, strict=True):
            given_to[p.devices[device]] += int(count)
    assert {d: n for d, n in given_to.items() if n} == {d: n for d, n in outcome.recorder.expert_tokens.items() if n}


def no_tier_ever_holds_more_than_it_has(p, recorder):
    assert set(recorder.peak) == set(p.tiers)
    assert all(held <= p.usable(tier) for tier, held in recorder.peak.items())


def passes_follow_each_other_and_tokens_come_in_order(recorder):
    assert [row.start for row in recorder.passes] == [0, *(row.end for row in recorder.passes[:-1])]
    assert recorder.passes[-1].end == recorder.makespan == sum(recorder.critical.values())
    assert (recorder.first_token > 0).all()
    assert (recorder.finish >= recorder.first_token).all()
    assert recorder.layers.attention.sum() + recorder.layers.experts.sum() <= recorder.makespan


def a_lane_never_does_two_jobs_at_once(recorder):
    tracks = defaultdict(list)
    for s in recorder.slices:
        # passes, layers, what visits waited for and levels are not lanes
        if s.track not in ("pass", "layer", "stalls") and not s.track.startswith("counter:"):
            tracks[s.track].append((s.start, s.end))
    for track, spans in tracks.items():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(spans)))
        assert sum(end - start for start, end in spans) == recorder.busy[track]


# I2


def moves_of_visits(p, outcome, compression: float) -> dict[str, float]:
    """Resource -> bytes of uploads, reads in place and activations, from what the policy was shown and answered."""
    moved: dict[str, float] = defaultdict(float)
    sizes = outcome.deployment.expert_bytes

    def add(usage, nbytes):
        for resource, factor in usage:
            moved[resource] += factor * nbytes

    for visit in seen(outcome):
        for e in np.flatnonzero(visit.counts).tolist():
            tier, size, device = p.tiers[visit.home[e]], sizes[visit.layer, e], p.devices[visit.device[e]]
            if device == "gpu" and not visit.here[e]:
                add(p.costs.path(tier, "hbm").usage, size)
            if device == "cpu":
                add(p.costs.reach("cpu", tier).usage, size)
        for index, name in enumerate(p.devices):
            pairs = int(visit.counts[visit.device == index].sum())
            if name != "gpu":
                nbytes = min(pairs, visit.tokens) * p.model.token_bytes / compression
                add(p.costs.path("hbm", p.memory_of(name)).usage, nbytes)
                add(p.costs.path(p.memory_of(name), "hbm").usage, nbytes)
    return moved


@SOME
@given(strategies.knobs(attention=False, streamed=False), st.sampled_from(["kernel", "reference"]))
def test_i2_bytes_of_experts_and_activations_are_those_of_the_dispatches(k, engine):
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, Restless, engine)
    expected, got = moves_of_visits(p, outcome, k.compression), dict(outcome.recorder.moved)
    for resource, factor in p.costs.path("hbm", p.main_memory).usage:  # the routing that is read back
        got[resource] = got.get(resource, 0.0) - factor * outcome.recorder.caused.get("routing", 0.0)
    for resource in set(expected) | set(got):
        assert got.get(resource, 0.0) == pytest.approx(expected.get(resource, 0.0), rel=1e-9, abs=1e-3)


def test_i2_a_prefetch_that_is_called_off_moves_nothing():
    k = Knobs(layers=3, experts=7, output=5, prefetch=0.6, evict=0.6, off_gpu=0.0, residents=0.0, pcie=3e9)
    recorder = worlds.run(k, Restless, timeline=True).recorder
    landed = sum(s.amount for s in recorder.slices if s.name.startswith("expert ") and s.name != "expert ids")
    assert landed + recorder.layers.uploads.sum() * 3 * 64 * 96 * 2 == recorder.moved["pcie:forward"]


def test_i2_kv_cache_in_host_memory_crosses_the_link_once_each_way():
    k = Knobs(kv="ddr", residents=1.0, off_gpu=0.0, requests=1, output=4, batch=1, seed=3)
    p, _ = worlds.problem(k)
    recorder = worlds.run(k, Scripted).recorder
    prompt, output = int(p.job.prompt[0]), int(p.job.output[0])
    per_token = p.model.kv_bytes_per_layer.sum()
    read = per_token * sum(prompt + i for i in range(1, output))
    assert recorder.moved.get("pcie:forward", 0.0) == pytest.approx(read)
    assert recorder.moved["pcie:reverse"] == pytest.approx(per_token * (prompt + output - 1))


# I3


def tight(k, experts: float) -> float:
    """GPU bytes with room for `experts` more than the deployment starts with."""
    p, _ = worlds.problem(k)
    outcome = worlds.run(k, Stepwise)
    return outcome.recorder.peak["hbm"] + experts * p.model.expert_bytes


CROWDED = Knobs(layers=3, experts=7, output=5, requests=3, off_gpu=0.0, residents=0.2, prefetch=0.5, seed=1)


def test_i3_overfilling_raises():
    room = tight(CROWDED, 3)
    with pytest.raises(CapacityError, match="evict first"):
        worlds.run(CROWDED, Restless, hbm=room)


def test_i3_room_that_is_asked_for_is_used_to_the_brim():
    room = tight(CROWDED, 3 * 7)
    recorder = worlds.run(CROWDED, Restless, hbm=room).recorder
    assert tight(CROWDED, 3) < recorder.peak["hbm"] <= room


@pytest.mark.parametrize(("tier", "short"), [("hbm", 1.0), ("ddr", 1.0), ("hbm", 0.0), ("ddr", 0.0)])
def test_i3_a_placement_that_does_not_fit_is_refused_to_the_byte(tier, short):
    k = replace(CROWDED, prefetch=0.0)
    room = worlds.run(k, Stepwise).recorder.peak[tier] - short
    if short:
        with pytest.raises(InputError, match=f"of tier '{tier}'"):
            worlds.run(k, Stepwise, **{tier: room})
    else:
        assert worlds.run(k, Stepwise, **{tier: room}).recorder.peak[tier] == room


@pytest.mark.parametrize("staging", [1, 2, 3])
@pytest.mark.parametrize("pcie", [1e9, 20e9, 200e9])
def test_i3_no_more_uploads_than_staging_slots_wait_to_be_computed(staging, pcie):
    k = Knobs(experts=7, layers=1, attention=False, prompt=40, residents=0.3, off_gpu=0.0, staging=staging, pcie=pcie, seed=2)
    recorder = worlds.run(k, Stepwise, timeline=True).recorder
    copies = [s for s in recorder.slices if s.name == "upload experts"]
    size = 3 * 64 * 96 * 2
    begins = [s.start + (s.end - s.start) * i // n for s in copies for n in [round(s.amount / size)] for i in range(n)]
    computed = sorted(s.end for s in recorder.slices if s.name == "uploaded expert")
    assert len(begins) == len(computed) > staging
    assert all(begin >= computed[i - staging] for i, begin in enumerate(begins) if i >= staging)


# I4, I5


@SOME
@given(strategies.moving(serial_link=True, both=5e9, chunk=None, pieces=1))
def test_i2_i5_a_link_moves_the_bytes_of_its_copies_within_its_rates(k):
    k = replace(k, kv="ddr" if k.places[1] == "c" else k.kv)  # else a CPU reads GPU memory as it computes
    recorder = worlds.run(k, Restless, timeline=True).recorder
    for track in ("pcie:forward", "pcie:reverse"):
        drawn = sum(s.amount for s in recorder.slices if s.track == track)
        assert recorder.moved.get(track, 0.0) == pytest.approx(drawn, rel=1e-6, abs=1e-3)
    limits = {"pcie:forward": k.pcie, "pcie:reverse": 0.9 * k.pcie, "both": k.both}
    for name, rate in limits.items():
        spans = [s for s in recorder.slices if s.track == name or (name == "both" and s.track.startswith("pcie:"))]
        spans.sort(key=lambda s: s.end)
        for i, first in enumerate(spans):
            inside, number = 0.0, 0
            for s in spans:  # whatever begins and ends within a stretch of time has passed in it
                if s.start >= first.start:
                    inside, number = inside + s.amount, number + 1
                    # each time is rounded to whole ps, and rates may exceed a resource by what that brings (ROUNDING)
                    assert inside <= rate * ((s.end - first.start + number / 2) / SECOND) * (1 + ROUNDING)
            if i > 20:
                break


@SOME
@given(strategies.moving(serial_link=True, prefetch=0.0, migrate=0.0, cpu=True, places="ggg", ndp=0, gpus=0))
def test_i4_results_follow_work_and_work_follows_activations(k):
    recorder = worlds.run(k, Restless, timeline=True).recorder

    def of(track, name):
        return sorted((s.start, s.end) for s in recorder.slices if s.track == track and s.name == name)

    out, work, back = of("pcie:reverse", "activations"), of("cpu", "experts"), of("pcie:forward", "activations")
    assert len(out) == len(work) == len(back)
    for before, after in ((out, work), (work, back)):
        assert all(first[1] <= then[0] for first, then in zip(before, after, strict=True))


@SOME
@given(strategies.moving(**PLAIN, prefetch=0.0, serial=False, chunk=None, pieces=1))
def test_i4_no_expert_is_computed_before_its_weights_are_there(k):
    recorder = worlds.run(k, Restless, timeline=True).recorder
    copies = sorted((s.start, s.end, s.amount) for s in recorder.slices if s.name == "upload experts")
    size = 3 * 64 * 96 * 2
    landed = [start + (end - start) * (i + 1) // n for start, end, b in copies for n in [round(b / size)] for i in range(n)]
    begun = sorted(s.start for s in recorder.slices if s.name == "uploaded expert")
    assert len(begun) == len(landed)
    assert all(b >= a for a, b in zip(landed, begun, strict=True))


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_i4_experts_wait_for_prefetches_that_are_under_way(serial, seed):
    k = Knobs(layers=3, experts=4, output=5, residents=0.0, off_gpu=0.0, prefetch=1.0, evict=1.0, pcie=1e8)
    k = replace(k, serial=serial, seed=seed)
    outcome = worlds.run(k, Restless, timeline=True)
    copies = defaultdict(list)
    for s in outcome.recorder.slices:
        if s.name.startswith("expert ") and s.cause == "demand":
            copies[s.name].append(s.end)
    assert copies  # some prefetch was needed before it had landed
    computing = [s.start for s in outcome.recorder.slices if s.name in ("uploaded expert", "experts", "resident experts")]
    assert all(any(start >= end for start in computing) for ends in copies.values() for end in ends)
    steps = [(row.start, row.end) for row in outcome.recorder.passes]
    assert all(any(a <= end <= b for a, b in steps) for ends in copies.values() for end in ends)
    slow = worlds.run(replace(k, pcie=2e8), Restless).recorder.makespan
    assert outcome.recorder.makespan > slow


# I6


@SOME
@given(st.integers(0, 9999))
def test_i6_a_lane_with_something_ready_is_never_idle(seed):
    rng = Random(seed)
    program = Program()
    lanes = [program.lane(f"lane {number}") for number in range(3)]
    engine = ReferenceEngine(program, {"r": 3e12})
    engine.set_pool(0, 2)
    for _ in range(4):
        begin = engine.now
        first, last = program_worlds.visit(rng, program, len(lanes), ["r"])
        engine.submit()
        engine.run(last)
        spans = {lane: [(s.start, s.end) for s in engine.stretches_begun if s.lane == lane] for lane in lanes}
        for number in range(first, last):
            operation, run = program.operations[number], engine.operations[number]
            if operation.lane >= 0 and operation.feed < 0 and operation.takes < 0:
                ready = max((engine.end(number) for number in operation.after), default=begin)
                busy = sum(max(min(b, run.start) - max(a, ready), 0) for a, b in spans[operation.lane])
                assert busy == run.start - ready


# I7


def test_i7_the_same_bytes_twice_and_in_any_process():
    here = worlds.digest(worlds.RICH)
    assert here == worlds.digest(worlds.RICH)
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
        command = [sys.executable, "-c", "import engine_worlds as w; print(w.digest(w.RICH))"]
        process = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert process.stdout.strip() == here


def test_i7_another_seed_gives_another_run():
    assert worlds.digest(worlds.RICH) != worlds.digest(replace(worlds.RICH, seed=8))


# Contracts of the slots


class Wrong(Scripted):
    """Breaks the contract in the way that its parameter says."""

    kind: str = "wrong"  # type: ignore[assignment]
    how: str = ""

    def deploy(self, problem) -> Deployment:
        d = super().deploy(problem)
        changes = {
            "shape": {"home": d.home[:, :-1]},
            "tier": {"home": d.home + 99},
            "pinned": {"home": np.zeros_like(d.home), "resident": np.zeros_like(d.resident)},
        }
        return worlds.replace(d, **changes.get(self.how, {}))

    def dispatch(self, visit, view):
        answer = super().dispatch(visit, view)
        device = {"device": np.full_like(answer.device, 9), "size": answer.device[:-1]}.get(self.how, answer.device)
        return answer._replace(device=device)


@pytest.mark.parametrize(
    ("how", "text"),
    [("shape", "shape"), ("tier", "not a tier"), ("pinned", "resident"), ("device", "does not exist"), ("size", r"not \[E\]")],
)
def test_a_policy_that_breaks_its_contract_is_refused(how, text):
    p, table = worlds.problem(Knobs())
    with pytest.raises(PolicyError, match=text):
        worlds.simulate(p, Wrong(knobs=Knobs(), how=how), table)


def test_queues_have_the_name_of_the_copy_engine_or_of_the_way():
    for serial, name in ((True, "pcie:forward"), (False, "ddr>hbm")):
        p, _ = worlds.problem(Knobs(serial_link=serial))
        assert queue_of(p.costs.path("ddr", "hbm")) == name
