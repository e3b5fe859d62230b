"""What a program does on each device, by numbers: calls, rows, kernels of a CPU, copies, budgets of tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.hardware import Cpu, FixedTimes, Gpu, NearDataUnit, System
from moesim.hardware.paths import Path
from moesim.runtime import FREE, Copies, GpuPrograms, Runtime
from moesim.runtime.budget import Budget, tokens_on
from moesim.runtime.cpu import CpuPrograms, KernelClass
from moesim.runtime.gpu import Operations
from moesim.runtime.runtime import Calls
from tests.policy_problems import system

GPU: dict[str, Any] = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14, "fixed": {"gemm": 4e-6, "layer": 15e-6}}
CPU: dict[str, Any] = {"kind": "cpu", "at": "host", "kernels": {"amx": {"rate": 1e12}, "avx2": {"rate": 1e11}}, "cores": 8}
NDP: dict[str, Any] = {"kind": "ndp", "inside": "cxl", "compute": 1e12}


def program(**changes: Any) -> Runtime:
    gpu = {"launches": {"graph": 1e-6, "direct": 5e-6, "compiled": 8e-6, "eager": 25e-6}, **changes.pop("gpu", {})}
    cpu = {"launch": 2e-5, "hand_over": 7e-5, **changes.pop("cpu", {})}
    return Runtime.model_validate({"gpu": gpu, "cpu": cpu, **changes})


def test_calls_are_paid_once_a_visit_where_they_are_fused_and_once_an_expert_elsewhere() -> None:
    together, apart = Calls(fused=True, together=3.0, apart=2.0), Calls(fused=False, together=3.0, apart=2.0)
    assert (together.once, together.per_call) == (3.0, 0.0)
    assert (apart.once, apart.per_call) == (0.0, 2.0)


def test_each_kind_of_device_has_the_calls_of_its_programs() -> None:
    # experts of a layer: a fused kernel of 15 us in a graph; one alone: a product of 4 us, launched when the router has spoken
    gpu = program().calls(Gpu.model_validate(GPU))
    assert (gpu.hand_over, gpu.fused) == (0.0, True)
    assert (gpu.together, gpu.apart) == (pytest.approx(16e-6), pytest.approx(9e-6))
    assert program(gpu={"fused": False}).calls(Gpu.model_validate(GPU)).fused is False
    assert program().calls(Cpu.model_validate(CPU)) == (7e-5, False, 2e-5, 2e-5, 0.0)
    assert program(cpu={"fused": True}).calls(Cpu.model_validate(CPU)).fused is True
    assert program().calls(NearDataUnit.model_validate(NDP)) == (0.0, False, 0.0, 0.0, 0.0)


def test_a_device_that_prices_its_calls_takes_none_of_the_program_s() -> None:
    def priced(kind: type[Any], parts: dict[str, Any], **own: Any) -> Calls:
        return program().calls(kind.model_validate({**parts, **own}))

    assert priced(Gpu, GPU, sync=1e-3) == (1e-3, True, 0.0, 0.0, 0.0)
    assert priced(Gpu, GPU, launch=2e-3) == (0.0, True, 2e-3, 2e-3, 0.0)
    assert priced(Gpu, GPU, fused=False).fused is False
    assert priced(Cpu, CPU, launch=2e-3) == (0.0, False, 2e-3, 2e-3, 0.0)
    assert priced(NearDataUnit, NDP, sync=4e-6, fused=True) == (4e-6, True, 0.0, 0.0, 0.0)


def test_the_fixed_time_of_an_operation_is_that_of_its_kernels_or_of_one_call() -> None:
    gpu, cpu = Gpu.model_validate(GPU), Cpu.model_validate(CPU)
    assert program().fixed(gpu, "projections") == pytest.approx(5e-6)
    assert program().fixed(gpu, "projections", captured=False) == pytest.approx(12e-6)
    assert program().fixed(gpu, "expert", captured=False) == pytest.approx(9e-6)
    assert program().fixed(cpu, "projections") == 2e-5
    assert program().fixed(Gpu.model_validate({**GPU, "launch": 3e-3}), "router") == 3e-3
    assert program().fixed(Gpu.model_validate({**GPU, "sync": 3e-3}), "router") == 0.0
    assert FREE.fixed(Gpu.model_validate(GPU), "head") == 0.0


def test_a_larger_step_costs_what_its_mode_costs_above_a_graph() -> None:
    fixed = FixedTimes(gemm=4e-6)
    compiled = GpuPrograms.model_validate({"mode": "compiled", "launches": {"graph": 1e-6, "compiled": 8e-6}})
    assert compiled.captured("output", fixed) == pytest.approx(7e-6)
    assert compiled.captured("expert", fixed) == 0.0


def test_an_operation_is_a_single_kernel_of_its_kind_unless_the_program_says_more() -> None:
    fixed = FixedTimes(gemm=1.0, attention=100.0, layer=10_000.0, small=1_000_000.0)
    seconds = {name: kernels.seconds(fixed, 0.5) for name, kernels in Operations()}
    assert seconds.pop("core") == 100.5
    assert seconds.pop("experts") == 10_000.5
    assert set(seconds.values()) == {1.5}
    assert len(seconds) == 7


@pytest.mark.parametrize(
    ("sizes", "largest", "rows"),
    [
        ((2, 4, 8), None, [0, 2, 2, 4, 8, 9]),
        ((2, 4, 8), 4, [0, 2, 2, 4, 5, 9]),
        ((2, 4, 8), 100, [0, 2, 2, 4, 8, 9]),
        ((), 4, [0, 1, 2, 3, 5, 9]),
    ],
)
def test_a_step_has_the_rows_of_the_smallest_graph_that_holds_it(
    sizes: tuple[int, ...], largest: int | None, rows: list[int]
) -> None:
    programs = GpuPrograms(graph_sizes=sizes, graph_tokens=largest)
    assert programs.rows([0, 1, 2, 3, 5, 9]).tolist() == rows


def test_a_model_with_latents_takes_the_kernels_meant_for_it() -> None:
    plain = program(
        gpu={"kernels": {"projections": {"gemm": 1}, "output": {"gemm": 2}}, "latent": {"projections": {"gemm": 3}}}
    )
    latent = plain.serving_latents()
    assert (latent.gpu.kernels.projections.gemm, latent.gpu.kernels.output.gemm) == (3, 2)
    assert plain.gpu.kernels.projections.gemm == 1
    assert program().serving_latents() == program()


def test_shares_of_a_program_take_the_place_of_those_of_the_gpu() -> None:
    gpu = Gpu.model_validate({**GPU, "formats": {"int4": {"bits": 4.5, "experts": {"kind": "roofline", "half": 2.0}}}})
    changed = GpuPrograms(streaming=0.5, efficiency=0.4).over(gpu)
    for cost in (changed.gemm, changed.experts, changed.formats["int4"].experts):
        assert (cost.streaming, cost.efficiency) == (0.5, 0.4)
    assert changed.formats["int4"].experts.half == 2.0
    core = GpuPrograms.model_validate({"attention": {"streaming": 0.3}}).over(gpu)
    assert (core.attention.streaming, core.attention.efficiency) == (0.3, gpu.attention.efficiency)
    assert core.gemm == gpu.gemm
    assert GpuPrograms().over(gpu) is gpu
    table = {"kind": "table", "weights": 1e9, "tokens": (1, 2), "time": (1e-3, 1e-3)}
    measured = Gpu.model_validate({**GPU, "experts": table, "formats": {"int4": {"bits": 4.5, "experts": table}}})
    assert GpuPrograms(streaming=0.5).over(measured).experts == measured.experts
    assert GpuPrograms(streaming=0.5).over(measured).formats == measured.formats


def kernel(cpu: dict[str, Any] | None = None, memory: float = 1e12, **changes: Any) -> Any:
    kind = KernelClass.model_validate({"core_bandwidth": 10e9, "core_rate": 1e11, **changes})
    return kind.kernel(Cpu.model_validate({**CPU, **(cpu or {})}).bound(memory))


def test_kernels_of_a_program_scale_with_cores_up_to_a_share_of_the_memory() -> None:
    plain = kernel(q=1.25, block=4)
    assert (plain.bandwidth, plain.rate, plain.q, plain.block, plain.unpack) == (80e9, 8e11, 1.25, 4, None)
    assert kernel(memory=50e9).bandwidth == 50e9
    assert kernel(memory=50e9, share=0.5).bandwidth == 25e9
    assert kernel(core_unpack=3e9).unpack == 24e9


@pytest.mark.parametrize(("cores", "sockets", "share"), [(31, 1, 0.8), (32, 1, 0.4), (63, 2, 0.8), (64, 2, 0.4)])
def test_a_socket_is_wide_from_32_cores_on(cores: int, sockets: int, share: float) -> None:
    limited = kernel({"cores": cores, "sockets": sockets}, memory=100e9, share=0.8, wide_share=0.4)
    assert limited.bandwidth == pytest.approx(share * 100e9)


def test_several_sockets_reach_a_share_of_what_each_reaches_alone() -> None:
    pair = {"cores": 16, "sockets": 2}
    both = kernel(pair, together=0.5, core_unpack=1e9)
    assert (both.bandwidth, both.rate, both.unpack) == (pytest.approx(80e9), pytest.approx(8e11), pytest.approx(8e9))
    apart = kernel(pair, together=0.5, together_rate=0.75)
    assert (apart.bandwidth, apart.rate) == (pytest.approx(80e9), pytest.approx(12e11))
    alone = kernel({"cores": 16}, together=0.5, together_rate=0.75)
    assert (alone.bandwidth, alone.rate) == (pytest.approx(160e9), pytest.approx(16e11))


def test_kernels_run_where_the_instructions_that_they_need_are_there() -> None:
    def runs(needs: str, **cpu: Any) -> bool:
        return KernelClass(core_bandwidth=1.0, core_rate=1.0, needs=needs).runs_on(Cpu.model_validate({**CPU, **cpu}))

    assert [runs(needs) for needs in ("", "amx", "avx", "avx512", "bf16")] == [True, True, True, False, False]
    assert runs("bf16", bf16=True)


def test_attention_of_a_program_takes_the_place_of_that_of_the_cpu_value_by_value() -> None:
    cpu = Cpu.model_validate(CPU)
    changed = CpuPrograms.model_validate({"attention": {"bandwidth": 3e9}}).over(cpu)
    assert (changed.attention.bandwidth, changed.attention.rate) == (3e9, cpu.attention.rate)
    assert CpuPrograms().over(cpu) is cpu
    assert CpuPrograms(kernels=("avx2", "amx_stock")).over(cpu).experts.use == ("avx2",)
    priced = Cpu.model_validate({**CPU, "experts": {"kind": "per_token", "time": 5e-5}})
    assert CpuPrograms(kernels=("nothing",)).over(priced) is priced
    with pytest.raises(
        InputError, match="the program has the CPU kernels nothing, and the CPU of this machine was measured with amx, avx2"
    ):
        CpuPrograms(kernels=("nothing",)).over(cpu)


PATH = Path("ddr", "hbm", 20e9, 1e-5, None, (("ddr:read", 1.0), ("pcie:forward", 1.0)), ("pcie",), None)
RATES = {"ddr:read": 40e9, "ddr:write": 40e9, "ddr:total": 40e9, "pcie:forward": 20e9}


def test_copies_are_as_fast_as_the_least_of_their_share_their_rate_and_what_they_share() -> None:
    assert Copies().over(PATH, "ddr", RATES) == PATH
    assert Copies(share=0.5).over(PATH, "ddr", RATES).rate == 10e9
    assert Copies(share=0.5, rate=4e9).over(PATH, "ddr", RATES).rate == 4e9
    assert Copies(share=0.5, storage=0.5).over(PATH, "ddr", RATES, stored=True).rate == 5e9
    assert Copies(share=0.5, storage=0.5).over(PATH, "ddr", RATES).rate == 10e9


def test_a_staged_copy_writes_and_reads_its_buffer_on_the_bus_that_has_one() -> None:
    staged = Copies(staged=True).over(PATH, "ddr", RATES)
    assert dict(staged.usage) == {"ddr:read": 2.0, "pcie:forward": 1.0, "ddr:write": 1.0, "ddr:total": 2.0}
    assert staged.rate == 20e9
    assert Copies(staged=True).over(PATH, "ddr", {**RATES, "ddr:total": 30e9}).rate == 15e9
    apart = {name: rate for name, rate in RATES.items() if name != "ddr:total"}
    assert "ddr:total" not in dict(Copies(staged=True).over(PATH, "ddr", apart).usage)


def named(name: str, hbm: float = 24e9) -> System:
    machine = system(hbm=hbm)
    return machine.with_devices({"gpu": machine.gpu.model_copy(update={"name": name})})


def test_the_last_budget_that_holds_for_a_gpu_counts() -> None:
    budgets = (Budget(tokens=2048), Budget(memory=24e9, tokens=4096), Budget(memory=70e9, tokens=8192, without=("a100", "l40")))
    assert [tokens_on(named("rtx", hbm), budgets) for hbm in (23e9, 24e9, 70e9)] == [2048, 4096, 8192]
    assert tokens_on(named("a100-80gb", 80e9), budgets) == 4096
    assert tokens_on(named("rtx"), ()) == 0
    assert tokens_on(named("rtx"), (Budget(memory=70e9, tokens=8),)) == 0
    assert program(budgets=budgets).chunk_on(named("rtx")) == 4096
    assert program(budgets=budgets, chunk=0).chunk_on(named("rtx")) == 0


@pytest.mark.parametrize(
    ("own", "of_program", "launches"), [(None, True, True), (None, False, False), (False, True, False), (True, False, True)]
)
def test_who_launches_is_what_the_cpu_says_and_else_the_program(own: bool | None, of_program: bool, launches: bool) -> None:
    cpu = Cpu.model_validate({**CPU, "launches_gpu": own})
    assert program(cpu={"one_thread": of_program}).one_thread(cpu) is launches
    assert program(cpu={"one_thread": True}).one_thread(NearDataUnit.model_validate(NDP)) is False


def test_a_machine_without_changes_is_the_machine() -> None:
    machine = system()
    assert program().over(machine) is machine
    changed = program(gpu={"streaming": 0.5}).over(machine)
    assert changed.gpu.gemm.streaming == 0.5
    assert changed.devices["cpu"] is machine.devices["cpu"]
    assert not math.isnan(changed.gpu.own_bandwidth or math.nan)
