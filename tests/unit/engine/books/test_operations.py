"""FLOP, bytes and times of each kind of operation, summed by hand for a small model, and the roofs of the devices.

Four decoder layers of 1,024, the first dense; 8 heads and 2 key-value heads of 128; shared experts of 512; 1,000 words.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.clock import SECOND
from moesim.contract import Homes, Problem
from moesim.engine.books.operations import ExpertWork, Operations, roofs
from moesim.engine.passes import Part, core_work
from moesim.engine.programs.attention import cores_of_step
from moesim.engine.programs.gpu_steps import Parts
from moesim.policies.baselines.static_popularity import StaticPopularity
from moesim.results.breakdown import Breakdown
from moesim.results.recorder import LayerSums, Recorder
from tests.policy_problems import job, model, problem, system

SHAPE = model(shared=512, dense=1)
QKV, OUTPUT, ROUTER = 1024 * (1024 + 2 * 256), 1024 * 1024, 1024 * 8
DENSE, HEAD = 3 * 1024 * 2048, 1024 * 1000
HIDDEN, ENTERS, LEAVES = 2048, 3072, 2048
"""Bytes of a token: its state, what goes into the core, what comes out."""
STREAM, COMPUTE = 0.83 * 2e12, 0.8 * 200e12
"""What products reach on the GPU of the tests."""


def posed(attention: bool = True, **machine: Any) -> Problem:
    return problem(system(**machine), SHAPE, job(layers=3, attention=attention))


@pytest.fixture
def work() -> Problem:
    return posed()


def books(work: Problem) -> tuple[Operations, Breakdown]:
    recorder = Recorder(LayerSums.zeros(3), 4, 8)
    return Operations(work, StaticPopularity().deploy(work), recorder), recorder.breakdown


def product(flops: float, weights: float, activations: float) -> tuple[float, float, int]:
    """FLOP, bytes and ps of a product on the GPU: streaming and computing overlap but for their norm of power 3."""
    nbytes = weights + activations
    return flops, nbytes, round(((flops / COMPUTE) ** 3 + (nbytes / STREAM) ** 3) ** (1 / 3) * SECOND)


def times(number: int, work: tuple[float, float, int]) -> tuple[float, float, int]:
    return number * work[0], number * work[1], number * work[2]


def enter(operations: Operations, work: Problem, *parts: Part, sampled: int) -> None:
    new = np.concatenate([part.new_tokens for part in parts])
    phase = "prefill" if parts[0].phase == "prefill" else "decode"
    step: Any = SimpleNamespace(phase=phase, new_tokens=new, sampled=sampled, parts=list(parts))
    done = [core_work(SHAPE, part) for part in parts]
    operations.dense(step, cores_of_step(work, StaticPopularity().deploy(work), parts, done), done)


def decodes(number: int, before: int) -> Part:
    return Part("decode", np.ones(number, dtype=np.int64), np.full(number, before))


def test_a_step_of_two_sequences_that_decode(work: Problem) -> None:
    """Each attends to 10 tokens: 4 layers x 2 x 10 keys and values of 2 heads, 8 heads x 4 x 128 FLOP each."""
    operations, breakdown = books(work)
    enter(operations, work, decodes(2, before=9), sampled=2)
    sums = {
        name: entry for (phase, device, name), entry in breakdown.operations.items() if (phase, device) == ("decode", "gpu")
    }
    assert len(sums) == len(breakdown.operations)
    assert sums == {
        "QKV projection": times(4, product(2 * 2 * QKV, 2 * QKV, 2 * (HIDDEN + ENTERS))),
        "output projection": times(4, product(2 * 2 * OUTPUT, 2 * OUTPUT, 2 * (LEAVES + HIDDEN))),
        "attention core": (4 * 20 * 8 * 4 * 128, 4 * 20 * 1024, 4 * round(20 * 1024 / (0.8 * 2e12) * SECOND)),
        "router": times(3, product(2 * 2 * ROUTER, 2 * ROUTER, 2 * HIDDEN)),
        "dense layers": product(2 * 2 * DENSE, 2 * DENSE, 2 * 2 * HIDDEN),
        "LM head": product(2 * 2 * HEAD, 2 * HEAD, 2 * HIDDEN),
    }


def test_a_prompt_reads_fresh_keys_and_yields_one_token_or_none(work: Problem) -> None:
    """30 tokens are 465 pairs of a query and a key."""
    operations, breakdown = books(work)
    enter(operations, work, Part("prefill", np.array([30]), np.array([0])), sampled=0)
    assert ("prefill", "gpu", "LM head") not in breakdown.operations
    flops, nbytes, _ = breakdown.operations["prefill", "gpu", "attention core"]
    assert (flops, nbytes) == (4 * 465 * 8 * 4 * 128, 4 * 30 * 1024)
    enter(operations, work, Part("prefill", np.array([30]), np.array([0])), sampled=1)
    assert breakdown.operations["prefill", "gpu", "LM head"] == product(2 * HEAD, 2 * HEAD, HIDDEN)
    assert breakdown.operations["prefill", "gpu", "router"][0] == 2 * 3 * 2 * 30 * ROUTER


def test_a_mixed_step_counts_as_prefill_with_both_its_cores(work: Problem) -> None:
    operations, breakdown = books(work)
    enter(operations, work, Part("prefill", np.array([30]), np.array([0])), decodes(2, before=9), sampled=3)
    assert {phase for phase, _, _ in breakdown.operations} == {"prefill"}
    flops, nbytes, _ = breakdown.operations["prefill", "gpu", "attention core"]
    assert (flops, nbytes) == (4 * (465 + 20) * 8 * 4 * 128, 4 * (30 + 20) * 1024)
    assert breakdown.operations["prefill", "gpu", "router"][0] == 3 * 2 * 32 * ROUTER  # all tokens pass it together


def test_without_attention_experts_count_alone() -> None:
    work = posed(attention=False)
    operations, breakdown = books(work)
    enter(operations, work, decodes(2, before=9), sampled=2)
    assert breakdown.operations == {}


def test_experts_of_a_device_and_the_shared_ones_among_them(work: Problem) -> None:
    operations, breakdown = books(work)
    per_pair = 2 * 3 * 1024 * 1024
    operations.experts("decode", ExpertWork("cpu", 5, 1e6, 700))
    operations.experts("decode", ExpertWork("cpu", 2, 1e5, 300, flops=1e9))
    operations.experts("prefill", ExpertWork("cpu", 0, 0.0, 0))
    assert breakdown.operations == {("decode", "cpu", "experts"): (7 * per_pair + 1e9, 1.1e6, 1000)}


def test_many_steps_at_once_are_those_steps_one_by_one(work: Problem) -> None:
    one_by_one, apart = books(work)
    together, joined = books(work)
    contexts = (9, 30, 31)
    flops, nbytes = np.zeros((3, 2, 4)), np.zeros((3, 2, 4))
    for number, context in enumerate(contexts):
        part = decodes(2, context)
        enter(one_by_one, work, part, sampled=2)
        flops[number, 1], nbytes[number, 1] = core_work(SHAPE, part)
    parts = Parts(np.full(3, 2), np.full(3, 2), np.array([[0, 2]] * 3), flops, nbytes)
    together.steps("decode", parts, np.full(3, 2), np.ones(4, dtype=np.int64))
    assert joined.operations == apart.operations


def test_sums_of_fractions_do_not_depend_on_how_many_steps_are_entered_at_once() -> None:
    """Layers of several kinds have a fraction of a weight on average; an attended token may be one of several in an entry."""
    shape = model()
    vars(shape)["_qkv_parameters"] = 1e6 / 43
    work = problem(system(), shape, job(layers=3))
    flops, nbytes, steps = np.zeros((60, 2, 3)), np.zeros((60, 2, 3)), np.arange(1, 61)
    flops[:, 1], nbytes[:, 1] = steps[:, None] * 1e15 / 7, steps[:, None] * 1e4 / 3
    seen = []
    for at_once in (1, 7, 60):
        operations, breakdown = books(work)
        for first in range(0, 60, at_once):
            of = slice(first, first + at_once)
            parts = Parts(steps[of], steps[of], np.column_stack([0 * steps, steps])[of], flops[of], nbytes[of])
            operations.steps("decode", parts, steps[of], np.ones(3, dtype=np.int64))
        seen.append(breakdown.operations)
    assert seen[0] == seen[1] == seen[2]
    work_done, read, _ = seen[0]["decode", "gpu", "attention core"]
    assert work_done == pytest.approx(3 * 1830 * 1e15 / 7, rel=1e-15)
    assert read == pytest.approx(3 * 1830 * 1e4 / 3, rel=1e-15)
    assert seen[0]["decode", "gpu", "QKV projection"][0] == pytest.approx(3 * 1830 * 2e6 / 43, rel=1e-15)


def test_kinds_of_layers_stand_for_as_many_as_there_are(work: Problem) -> None:
    """Three layers of the first kind and one of the second."""
    operations, breakdown = books(work)
    flops, nbytes = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    flops[0, 1], nbytes[0, 1] = (10.0, 500.0), (1.0, 7.0)
    parts = Parts(np.array([1]), np.array([0]), np.array([[0, 1]]), flops, nbytes)
    operations.steps("decode", parts, np.array([1]), np.array([3, 1]))
    assert breakdown.operations["decode", "gpu", "attention core"][:2] == (3 * 10.0 + 500.0, 3 * 1.0 + 7.0)


class TestRoofs:
    def test_the_most_that_any_kernel_of_a_device_reaches(self) -> None:
        """The GPU streams experts at 0.84 and multiplies dense weights at 0.8; the CPU by its kernel; near data as stated."""
        assert roofs(posed(cxl={"near": (1e9, 22e9)}, ndp=True)) == {
            "gpu": (pytest.approx(0.84 * 2e12), pytest.approx(0.8 * 200e12)),
            "cpu": (pytest.approx(200e9), pytest.approx(20e12)),
            "ndp_near": (pytest.approx(512e9), pytest.approx(2e12)),
        }

    def test_they_are_entered_with_the_first_work(self, work: Problem) -> None:
        _, breakdown = books(work)
        assert breakdown.roofs == roofs(work)
        assert set(breakdown.roofs) == {"gpu", "cpu"}


def test_shared_experts_decode_where_attention_does_and_prompts_pass_them_on_the_gpu(work: Problem) -> None:
    """The CPU attends in the second half of four layers, of which the first is dense: two of three layers with experts."""
    deployed = StaticPopularity().deploy(work)
    homes = Homes(attention="ddr", dense="ddr", shared="ddr", kept_layers=2, attends="cpu")
    recorder = Recorder(LayerSums.zeros(3), 4, 8)
    operations = Operations(work, replace(deployed, plan=replace(deployed.plan, homes=homes)), recorder)
    for phase, shares in (("decode", {"gpu": 1, "cpu": 2}), ("prefill", {"gpu": 3})):
        number = np.array([2])
        operations.steps(
            phase, Parts(number, number, np.array([[0, 2]]), *np.zeros((2, 1, 2, 4))), number, np.ones(4, dtype=np.int64)
        )
        flops = {
            device: row[0]
            for (of, device, name), row in recorder.breakdown.operations.items()
            if (of, name) == (phase, "shared experts")
        }
        assert flops == {device: layers * 2 * SHAPE.shared_flops for device, layers in shares.items()}
