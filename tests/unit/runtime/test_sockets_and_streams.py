"""Several sockets and several streams on one CPU, by hand sums: where weights lie, and whose tokens go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.contract import Problem
from moesim.engine.programs.durations import Placement
from moesim.hardware import Cpu
from moesim.policies.kit.placement import place
from moesim.runtime import Runtime
from moesim.runtime.cpu import CpuCore, CpuPrograms, KernelClass
from moesim.scenario import load
from moesim.testing.worlds import small_job
from tests.policy_problems import GB, MB, problem, system

TWO: dict[str, Any] = {"kind": "cpu", "at": "host", "cores": 40, "sockets": 2, "together": 0.85}


def cpu(**changes: Any) -> Cpu:
    """Two sockets of 20 cores over 200 GB/s, whose kernels reach 0.85 of their sum."""
    return Cpu.model_validate({**TWO, "kernels": {"avx2": {"rate": 1e12, "bandwidth": 100e9}}, **changes}).bound(200e9)


def test_a_program_that_places_no_weights_by_socket_reaches_its_share_of_the_sum_of_both() -> None:
    # the sum is 100 / 0.85; half of it
    kernel = CpuPrograms(together=0.5).over(cpu()).kernels["avx2"]
    assert (kernel.bandwidth, kernel.rate) == (pytest.approx(100e9 * 0.5 / 0.85), pytest.approx(1e12 * 0.5 / 0.85))
    # so does reading the KV cache, unless the program has a core of its own
    core = CpuPrograms(together=0.5).over(cpu()).attention
    assert (core.bandwidth, core.rate) == (pytest.approx(45e9 * 0.5 / 0.85), pytest.approx(1e12 * 0.5 / 0.85))
    own = CpuPrograms(together=0.5, attention=CpuCore(bandwidth=5e9)).over(cpu()).attention
    assert (own.bandwidth, own.rate) == (5e9, pytest.approx(1e12 * 0.5 / 0.85))
    assert CpuPrograms().over(cpu()).kernels == cpu().kernels
    assert CpuPrograms(together=0.5).over(cpu(sockets=1)).kernels == cpu().kernels


def test_it_does_so_once_however_often_it_is_applied_and_whatever_limits_the_kernel() -> None:
    program = CpuPrograms(together=0.5)
    assert program.over(program.over(cpu())).kernels == program.over(cpu()).kernels
    # a kernel without a limit of its own streams what the memory gives
    free = program.over(cpu(kernels={"avx2": {"rate": 1e12, "unpack": 1e11}})).kernels["avx2"]
    assert (free.bandwidth, free.unpack) == (pytest.approx(200e9 * 0.5 / 0.85), pytest.approx(1e11 * 0.5 / 0.85))


def test_a_class_says_what_sockets_reach_of_cores_and_of_memory() -> None:
    # cores: 40 x 8 x 0.56 = 179 GB/s; memory: 0.8 x 200 = 160, of which 0.56 are 90
    aware = KernelClass(core_bandwidth=8e9, core_rate=1e10, share=0.8, together=0.56).kernel(cpu())
    assert aware.bandwidth == pytest.approx(160e9)
    oblivious = KernelClass(core_bandwidth=8e9, core_rate=1e10, share=0.8, together=0.56, together_memory=0.56).kernel(cpu())
    assert oblivious.bandwidth == pytest.approx(0.56 * 160e9)
    alone = KernelClass(core_bandwidth=8e9, core_rate=1e10, share=0.8, together=0.56, together_memory=0.56).kernel(
        cpu(sockets=1)
    )
    assert alone.bandwidth == pytest.approx(160e9)


def times(group: int, counts: list[int]) -> list[float]:
    """s of each expert on the CPU in a visit with `counts`, for a program that groups from `group` tokens on."""
    plain = problem(system(hbm=100 * MB, ddr=10 * GB), work=small_job([4] * 4, [2] * 4, 3))
    grouping = Problem(
        model=plain.model, system=plain.system, job=plain.job, popularity=plain.popularity, rng=np.random.default_rng(0),
        runtime=Runtime.model_validate({"cpu": {"group": group}}),
    )  # fmt: skip
    home = np.full((grouping.layers, grouping.experts), grouping.tiers.index("ddr"), dtype=np.int64)
    deployment = place(grouping, resident=np.zeros(home.shape, dtype=np.bool_))
    visit = np.array([counts], dtype=np.int64)
    return [float(value) for value in Placement(grouping, home, deployment).times(visit, np.array([0])).cpu[0]]


def test_tokens_of_a_few_streams_go_through_their_experts_one_by_one() -> None:
    # two experts a token: three streams, two of which ask for expert 0 and all for expert 1
    counts = [2, 3, 1, 0, 0, 0, 0, 0]
    together, apart = times(1, counts), times(4, counts)
    single = together[2]
    assert apart[:4] == pytest.approx([2 * single, 3 * single, single, 0.0])
    assert together[1] < 1.5 * single
    # four streams are enough
    assert times(4, [2, 3, 1, 2, 0, 0, 0, 0]) == times(1, [2, 3, 1, 2, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("program", "gain"),
    [
        ("reference", 1.7),
        ("torch-eager", 1.0),
        ("hf-eager", 1.0),
        ("ipex-eager", 1.0),
        ("llama-cpp", 1.12),
        ("ik-llama", 1.12),
        ("llama-cpp-numa", 1.98),
        ("ktransformers-0.2.0", 1.98),
        ("ktransformers", 1.63),
    ],
)
def test_two_sockets_over_one_are_what_each_shipped_program_makes_of_them(program: str, gain: float) -> None:
    def second(machine: str) -> float:
        """s of one token through an expert of 25 million weights in 4.85 bits."""
        scenario = load("quickstart", sets=[f"hardware={machine}", f"runtime={program}"]).scenario
        processor = scenario.runtime.over(scenario.hardware).devices["cpu"]
        return float(processor.expert_time(1, 25e6 * 4.85 / 8, 50e6))

    # what unpacking and cores take of it differs by program
    assert second("rtx4090-xeon6454s") / second("rtx4090-xeon6454s-dual") == pytest.approx(gain, rel=0.05)
