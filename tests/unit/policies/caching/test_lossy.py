"""Systems that change the output of the model: what they decide, and that the run tells it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import policy_problems as tiny
import pytest
from pydantic import ValidationError
from reporting import for_all

from moesim.contract import Overlap, Precomputed
from moesim.errors import InputError
from moesim.policies.caching.edgemoe import EdgeMoe
from moesim.policies.caching.hobbit import Hobbit
from moesim.policies.in_place.daop import Daop, substituted
from moesim.policies.kit.precision import GateWeights
from moesim.policies.near_data.context_cxl_ndp import ContextCxlNdp
from moesim.testing import PolicyCases, machine, small_worlds
from moesim.testing.watched import run_world

GB, MB = 1e9, 1e6
WORLDS = {world.name: world for world in small_worlds()}
ROOMY = replace(
    WORLDS["near_data"],
    name="near_data_roomy",
    system=machine(130 * MB, 60 * MB, {"near": (GB, 22e9), "far": (GB, 9e9)}, ndp=True),
)
"""Near-data units beside devices that hold a copy of every expert in every precision."""


def ran(policy, world):
    run = run_world(world, policy)
    assert run.outcome is not None, run.error
    return run


def dispatches(run, phase: str | None = None):
    return [call for call in run.calls if call.slot == "dispatch" and phase in (None, call.phase)]


class TestRoomyContextCxlNdp(PolicyCases):
    """The shipped worlds give this policy no decode; this one does."""

    policy = ContextCxlNdp()
    worlds = (ROOMY,)


# HOBBIT


def test_hobbit_that_wants_everything_in_full_loses_nothing():
    for depth in (0, 2):
        run = ran(Hobbit(gates=GateWeights(high=1.0, low=1.0), depth=depth), WORLDS["gpu_cpu"])
        quality = run.outcome.recorder.quality
        assert list(quality.precision) == [16.0]
        assert quality.skipped == quality.replaced == quality.stale == 0


def test_hobbit_skips_all_but_the_first_expert_of_a_lone_token_where_a_parameter_says_so():
    run = ran(Hobbit(batch=1, depth=0, gates=GateWeights(high=0.0, low=0.0), low_cache=0.0), WORLDS["gpu_cpu"])
    for call in dispatches(run, "decode"):
        missing = ~call.resident[call.layer]
        left_out = (call.seen.counts > 0) & (call.answer.counts == 0)
        assert not (left_out & ~missing).any()
        assert left_out.sum() <= 1  # k = 2: the first one is always computed
    assert run.outcome.recorder.quality.skipped > 0


def test_hobbit_loads_fewer_bytes_where_low_precision_serves():
    full = ran(Hobbit(depth=0, batch=1, gates=GateWeights(high=1.0, low=1.0)), WORLDS["gpu_cpu"])
    mixed = ran(Hobbit(depth=0, batch=1, gates=GateWeights(high=0.0, low=1.0)), WORLDS["gpu_cpu"])
    assert mixed.outcome.recorder.caused["demand"] < full.outcome.recorder.caused["demand"]
    bits = mixed.outcome.recorder.quality.precision
    assert set(bits) == {4.0, 16.0}
    assert bits[4.0] > 0
    assert mixed.outcome.recorder.makespan < full.outcome.recorder.makespan


@pytest.mark.parametrize("world", ["gpu_cpu", "near_data", "gpu_host"])
def test_hobbit_keeps_both_caches_within_their_slots(world):
    run = ran(Hobbit(low_cache=0.4), WORLDS[world])
    problem = run.world.problem()
    high, low = Hobbit(low_cache=0.4).deploy(problem).state.slots
    assert low > 0
    seen = 0
    for call in run.calls:
        held = call.resident | call.in_flight
        small = held & (call.copy_bytes < problem.model.expert_bytes)
        assert small.sum() <= low
        assert (held & ~small).sum() <= high
        seen += small.sum()
    assert seen > 0


def test_hobbit_serves_low_wants_from_high_copies_and_loads_over_low_ones():
    run = ran(Hobbit(depth=0, low_cache=0.4, batch=1), WORLDS["gpu_cpu"])
    size = run.problem.model.expert_bytes
    again = 0
    for before, after in pairwise(run.calls):
        if before.slot == "dispatch" and after.slot == "adapt":
            held, nbytes = before.resident[before.layer], before.answer.nbytes
            serves = held & ~(nbytes > before.copy_bytes[before.layer])
            missing = np.flatnonzero((before.answer.counts > 0) & ~serves)
            assert sorted(after.seen.uploaded.tolist()) == missing.tolist()
            again += int((held & (nbytes == size) & (before.copy_bytes[before.layer] < size))[missing].sum())
    assert again > 0


def test_hobbit_evicts_the_lowest_score():
    """w1 R/T + w2 F/T + w3 H/T + w4 (1 - ((l - i + L) mod L) / L), one expert at a time."""
    policy = Hobbit(weights=(0.4, 0.3, 0.2, 0.1))
    memory = policy.deploy(tiny.problem(tiny.system(hbm=0.1e9))).state
    rng = np.random.default_rng(0)
    for array in (memory.recent, memory.uses, memory.high_uses):
        array[:] = rng.integers(0, 9, size=array.shape)
    memory.tokens, current = 9, 1
    layers, experts = memory.recent.shape
    for layer in range(layers):
        for expert in range(experts):
            past = 0.4 * memory.recent[layer, expert] + 0.3 * memory.uses[layer, expert] + 0.2 * memory.high_uses[layer, expert]
            near = 0.1 * (1 - ((layer - current + layers) % layers) / layers)
            assert policy._score(memory, current)[layer, expert] == pytest.approx(past / 9 + near, abs=1e-8)


def test_hobbit_computes_first_what_is_there_in_the_precision_asked_for():
    """All are wanted in full: resident 3 has a copy of a quarter, so 5 goes first, and then whoever has most tokens."""
    policy, problem = Hobbit(depth=0, batch=1, gates=GateWeights(high=1.0, low=1.0)), tiny.problem(tiny.system(hbm=0.1e9))
    deployment = policy.deploy(problem)
    view = tiny.view_of(problem, deployment)
    view.resident[0] = False
    view.resident[0, [3, 5]] = True
    view.copy_bytes = np.full(view.resident.shape, problem.model.expert_bytes)
    view.copy_bytes[0, 3] /= 4
    order = policy.dispatch(tiny.visit_of(problem, deployment, 0, [0, 7, 0, 6, 0, 1, 5, 5]), view).order
    assert order is not None
    assert order[:5].tolist() == [5, 1, 3, 6, 7]


def test_hobbit_forgets_the_sequence_before():
    memory = Hobbit().deploy(tiny.problem(tiny.system(hbm=0.1e9))).state
    memory.uses[:] = 5
    memory.begin_pass("decode")
    assert memory.tokens == 1
    assert memory.uses.all()
    memory.begin_pass("prefill")
    assert memory.tokens == 1
    assert not memory.uses.any()


def test_hobbit_needs_room_for_both_copies():
    """24 experts of 6.3 MB fit into 160 MB, with a quarter more they do not; a copy of nothing computes nothing."""
    world = replace(WORLDS["gpu_cpu"], system=machine(hbm=100 * MB, ddr=160 * MB))
    Hobbit(low=0.01).deploy(world.problem())
    with pytest.raises(ValidationError, match="greater than 0"):
        Hobbit(low=0.0)
    with pytest.raises(InputError, match="24 experts of 7,864,320 B"):
        Hobbit().deploy(world.problem())


# EdgeMoE


def test_edgemoe_gives_widths_by_importance():
    shares = np.array([[0.1, 0.4, 0.2, 0.3], [0.4, 0.3, 0.2, 0.1]])
    assert EdgeMoe().widths(shares).tolist() == [[2, 8, 4, 4], [8, 4, 4, 2]]
    assert (EdgeMoe(share8=1.0, share2=0.5).widths(shares) == 8).all()


def test_edgemoe_may_order_experts_at_random():
    p = tiny.problem(tiny.system(hbm=0.15e9))
    by_use, by_lot = (EdgeMoe(importance=order).deploy(p).expert_bytes for order in ("popularity", "chance"))
    assert by_use.sum() == by_lot.sum()
    assert (np.sort(by_use, axis=1) == np.sort(by_lot, axis=1)).all()
    assert (by_use != by_lot).any()


def test_edgemoe_tells_its_widths_and_keeps_its_buffer():
    policy = EdgeMoe(buffer=4)
    run = ran(policy, WORLDS["storage"])
    quality = run.outcome.recorder.quality
    assert set(quality.precision) == {2.0, 4.0, 8.0}
    assert max(int((call.resident | call.in_flight).sum()) for call in run.calls) <= 4
    problem = run.world.problem()
    on = problem.tiers.index("ssd")
    assert (run.deployment.home == on).all()
    assert run.outcome.recorder.prefetches.copies > 0


def test_edgemoe_of_a_quantised_model_has_no_wider_copies_than_it():
    """A model stored with 4 bits has no 8-bit copy to offer."""
    world = WORLDS["storage"]
    four = world.model.model_copy(update={"precision": world.model.precision.model_copy(update={"experts": "int4"})})
    sizes = EdgeMoe().deploy(replace(world.problem(), model=four)).expert_bytes
    assert sizes.max() == four.expert_bytes
    assert sorted(set(sizes.ravel() / four.expert_bytes)) == [0.5, 1.0]


# DAOP


def test_what_the_cpu_may_not_take_goes_to_the_best_resident():
    counts, held = np.array([1, 1, 0, 0]), np.array([False, False, True, True])
    score = np.array([0.4, 0.3, 0.1, 0.2])
    assert substituted(counts, held, score, 1, 1).tolist() == [1, 0, 0, 1]
    assert substituted(counts, held, score, 2, 1).tolist() == [1, 1, 0, 0]


@for_all(range(20))
def test_substitution_keeps_the_tokens_and_the_limit(seed):
    rng = np.random.default_rng(seed)
    experts, top_k, tokens = 8, 3, int(rng.integers(1, 6))
    counts = np.bincount(np.concatenate([rng.choice(experts, top_k, replace=False) for _ in range(tokens)]), minlength=experts)
    held, score, limit = rng.random(experts) < 0.5, rng.random(experts), tokens
    after = substituted(counts, held, score, limit, tokens)
    assert after.sum() == counts.sum()
    assert after.min() >= 0
    assert after.max() <= tokens
    room = int((tokens - counts[held]).sum())
    assert after[~held].sum() == max(min(counts[~held].sum(), limit), counts[~held].sum() - room)


@pytest.mark.parametrize("world", ["cxl", "storage", "gpu_cpu_even"])
def test_daop_swaps_by_the_prompt(world):
    run = ran(Daop(), WORLDS[world])
    prompt = [call for call in run.calls if call.phase == "prefill"]
    swapped = 0
    for call, after in pairwise(prompt):
        if call.slot == "dispatch" and after.slot == "adapt" and after.answer.keep is not None:
            entering, leaving = after.answer.keep, after.answer.evict[:, 1]
            counts = call.seen.counts
            assert (counts[entering] > 1.05 * counts[leaving]).all()
            assert (call.answer.device[entering] == run.problem.attending_index).all()
            sooner = call.seen.cpu[leaving] <= (call.seen.copy + call.seen.gpu)[leaving]
            assert ((call.answer.device[leaving] == run.problem.cpu_index) == sooner).all()
            swapped += len(entering)
    assert swapped == (run.calls[-1].resident & ~run.deployment.resident).sum() > 0
    assert run.outcome.recorder.caused["eviction"] == swapped * run.problem.model.expert_bytes  # weights change places


def test_daops_cpu_begins_a_layer_before_and_takes_turns_before_that():
    deployment = Daop(first=3, staging=1).deploy(WORLDS["gpu_cpu"].problem())
    assert (deployment.plan.decode.pipeline, deployment.plan.prefill.pipeline) == (Precomputed(turns=3), Overlap())
    assert (deployment.plan.staging, deployment.plan.swap) == (1, 1)
    assert Daop().deploy(WORLDS["gpu_cpu"].problem()).plan.staging == 2


@pytest.mark.parametrize("recall", [0.3, 1.0])
def test_daop_computes_on_the_cpu_at_most_half_of_a_tokens_experts(recall):
    run = ran(Daop(first=1, recall=recall), WORLDS["gpu_cpu"])
    stale = replaced = 0
    for call in dispatches(run, "decode"):
        on_cpu = call.answer.device == run.problem.cpu_index
        if call.layer < 1:
            assert call.answer.counts is None
            continue
        assert call.answer.counts[on_cpu].sum() <= call.seen.tokens
        assert (call.answer.stale == np.where(on_cpu, call.answer.counts, 0)).all()
        stale += int(call.answer.stale.sum())
        replaced += int(np.maximum(call.answer.counts - call.seen.counts, 0).sum())
    quality = run.outcome.recorder.quality
    assert (quality.stale, quality.replaced) == (stale, replaced)
    assert stale > 0


def test_a_better_prediction_replaces_fewer_experts():
    seen = [
        ran(Daop(first=1, recall=recall), WORLDS["gpu_cpu"]).outcome.recorder.quality.replaced for recall in (0.3, 0.84, 1.0)
    ]
    assert seen[0] > seen[1] > seen[2]


# Context-aware mixed precision


def test_the_prompt_pins_its_most_used_experts_and_decode_moves_nothing():
    run = ran(ContextCxlNdp(pinned=2), ROOMY)
    last = {call.layer: call.seen.counts for call in dispatches(run, "prefill")}
    for call in dispatches(run, "decode"):
        resident = call.resident[call.layer]
        assert resident.sum() == 2
        assert last[call.layer][resident].min() >= last[call.layer][~resident].max()
    decoded = sum(row.uploads for row in run.outcome.recorder.passes if row.phase == "decode")
    assert decoded == 0


@pytest.mark.parametrize("mean_bits", [2.0, 3.0])
def test_near_data_units_compute_from_copies_within_the_budget(mean_bits):
    run = ran(ContextCxlNdp(mean_bits=mean_bits, pinned=2), ROOMY)
    for call in dispatches(run, "decode"):
        absent = ~call.resident[call.layer]
        bits = 16 * call.answer.nbytes[absent] / run.problem.model.expert_bytes
        assert set(bits) <= {1.0, 2.0, 3.0, 4.0}
        assert bits.mean() <= mean_bits + 1e-9
    assert min(run.outcome.recorder.quality.precision) <= mean_bits


@pytest.mark.parametrize("mean_bits", [1.0, 4.0])
def test_near_data_units_read_the_bytes_of_the_copy_that_serves(mean_bits):
    """Roofline of a unit by hand: below 4 bits one of 512 GB/s and 2 TFLOPS gains nothing, its operations hold it back."""
    run = ran(ContextCxlNdp(mean_bits=mean_bits, pinned=2), ROOMY)
    flops, seconds = run.problem.model.expert_flops, 0.0
    for call in dispatches(run, "decode"):
        there = ~call.resident[call.layer] & (call.seen.counts > 0)
        seconds += np.maximum(call.answer.nbytes[there] / 512e9, call.seen.counts[there] * flops / 2e12).sum()
    busy = sum(time for lane, time in run.outcome.recorder.busy.items() if lane.startswith("ndp"))
    assert busy == pytest.approx(seconds * 1e12, rel=1e-6)


def test_machines_that_do_not_suit_are_refused():
    with pytest.raises(InputError, match="near-data unit"):
        ContextCxlNdp().deploy(WORLDS["gpu_cpu"].problem())
    with pytest.raises(InputError, match="no CPU"):
        Daop().deploy(WORLDS["gpu_host"].problem())
