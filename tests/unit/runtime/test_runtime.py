"""Runtimes: what a program's calls cost by kind and mode, what it changes of a machine, how a scenario names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from reporting import for_all

from moesim import cli
from moesim.contract import Costs
from moesim.errors import InputError
from moesim.hardware import FixedTimes, Kernel
from moesim.runs.run import compare_loaded, run
from moesim.runtime import FREE, Copies, GpuPrograms, Runtime
from moesim.runtime.cpu import CpuPrograms, KernelClass
from moesim.runtime.gpu import GpuCore
from moesim.scenario import annotated, catalogue, check, load
from moesim.scenario.strict_yaml import read

FOLDER = Path(__file__).resolve().parents[3] / "hardware_profiles" / "runtimes"
FILES = sorted(FOLDER.glob("*.yaml"))
FIXED = FixedTimes(gemm=4e-6, attention=12e-6, layer=15e-6, small=2e-6)
SMALL = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 3}


@for_all(FILES)
def test_every_shipped_runtime_loads_and_every_value_says_where_it_is_from(path: Path) -> None:
    (file,) = check([path])["files"]
    assert not file["errors"]
    tree = annotated.push_down(annotated.strip(read(path, path.name).root, []))
    for way, leaf in tree.leaves():
        if isinstance(leaf.value, (int, float, str)) and not isinstance(leaf.value, bool) and way[-1] not in TEXTS:
            assert leaf.origin is not None, way
            assert leaf.origin.basis in ("measured", "datasheet", "derived", "assumed"), way
            assert leaf.origin.source, way


TEXTS = ("kind", "name", "profile", "description", "mode", "calls", "beyond", "needs", *range(9))


@pytest.mark.parametrize(
    ("mode", "expected"), [("graph", 4e-6 + 6e-6 + 4 * 1e-6), ("direct", 10e-6 + 4 * 5e-6), ("eager", 10e-6 + 4 * 25e-6)]
)
def test_an_operation_costs_the_kernels_of_its_kind_and_a_launch_each(mode: Any, expected: float) -> None:
    launches = {"graph": 1e-6, "direct": 5e-6, "compiled": 8e-6, "eager": 25e-6}
    programs = GpuPrograms.model_validate(
        {
            "mode": mode,
            "launches": launches,
            "kernels": {"projections": {"gemm": 1, "small": 3}, "experts": {"layer": 1, "launches": 6}},
        }
    )
    assert programs.seconds("projections", FIXED) == pytest.approx(expected, rel=1e-12)
    assert programs.seconds("experts", FIXED) == pytest.approx(15e-6 + 6 * launches[mode], rel=1e-12)
    assert programs.captured("projections", FIXED) == pytest.approx(4 * (launches[mode] - 1e-6), abs=1e-15)
    assert programs.captured("expert", FIXED) == 0


def test_dense_operations_take_their_fixed_cost_once_per_call_and_nothing_without_tokens() -> None:
    scenario = load("quickstart").scenario
    costs = Costs(scenario.model, scenario.hardware, scenario.runtime)
    gpu = costs.system.gpu
    for operation in ("router", "head"):
        cost, bare = (getattr(table, operation) for table in (costs, costs.bare))
        assert float(cost(5) - bare(5)) == pytest.approx(scenario.runtime.gpu.seconds(operation, gpu.fixed), rel=1e-9)
        assert float(cost(0)) == 0
    assert costs.calls("gpu").once == scenario.runtime.gpu.seconds("experts", gpu.fixed)
    assert Costs(scenario.model, scenario.hardware, FREE).calls("cpu").hand_over == 0


def test_what_a_device_says_itself_goes_before_the_runtime() -> None:
    scenario = load("quickstart", sets=["hardware.devices.gpu.launch=7us", "hardware.devices.cpu.sync=1ms"]).scenario
    costs = Costs(scenario.model, scenario.hardware, scenario.runtime)
    assert (costs.calls("gpu").together, costs.calls("gpu").apart, costs.calls("cpu").hand_over) == (7e-6, 7e-6, 1e-3)
    assert float(costs.router(1) - costs.bare.router(1)) == pytest.approx(7e-6)


def test_kernels_that_the_cpu_was_not_measured_with_are_refused_at_their_place() -> None:
    with pytest.raises(InputError) as caught:
        load("quickstart", sets=["runtime.cpu.kernels=[amx_stock]"])
    (mistake,) = caught.value.mistakes
    assert mistake.file == "--set runtime.cpu.kernels"
    assert "has the CPU kernels amx_stock" in mistake.message
    assert "avx512" in mistake.message


def test_the_chosen_kernels_and_attention_replace_those_of_the_cpu() -> None:
    scenario = load("cox_moe/mixtral-8x7b", sets=["runtime.cpu.attention.bandwidth=2 GB/s"]).scenario
    cpu = scenario.runtime.over(scenario.hardware).devices["cpu"]
    assert cpu.experts.use == ("amx_stock", "avx512")
    assert float(cpu.core_time(0.0, 2e9, "decode")) == pytest.approx(1.0)
    assert cpu.own_bandwidth == scenario.hardware.devices["cpu"].own_bandwidth


def test_a_scenario_names_a_runtime_changes_it_or_writes_it_out(tmp_path: Path) -> None:
    assert load("quickstart").scenario.runtime.name == "reference"
    changed = load("cox_moe/mixtral-8x7b", sets=["runtime=cox-moe", "runtime.gpu.mode=graph"]).scenario.runtime
    assert (changed.name, changed.gpu.mode, changed.cpu.kernels) == ("cox-moe", "graph", ("amx_stock", "avx512", "avx2"))
    inline = {"kind": "runtime", "name": "mine", "cpu": {"hand_over": "1 ms"}}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"extends": "quickstart", "runtime": inline}), "utf-8")
    assert load(path).scenario.runtime == Runtime.model_validate({**inline, "cpu": {"hand_over": 1e-3}})


def test_an_unknown_runtime_is_reported_with_what_is_near_it() -> None:
    with pytest.raises(InputError) as caught:
        load("quickstart", sets=["runtime=referense"])
    assert "unknown runtime 'referense'" in str(caught.value)
    assert "reference" in str(caught.value)


def test_runtimes_are_listed_and_are_not_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "runtimes"]) == 0
    output = capsys.readouterr().out
    assert all(path.stem in output for path in FILES)
    assert "reference" not in {entry.name for entry in catalogue.names("hardware")}


def test_the_result_says_its_runtime_and_can_be_run_again(tmp_path: Path) -> None:
    result = run("quickstart", **SMALL)
    assert result.summary["runtime"] == "reference"
    result.save(tmp_path / "out")
    again = run(tmp_path / "out" / "result.json")
    assert {**again.summary, "wall_s": 0} == {**result.summary, "wall_s": 0}


def test_hand_over_costs_its_time_in_every_layer_that_the_cpu_takes_part_in() -> None:
    sets = {**SMALL, "policy": "fiddler"}
    slow, fast = (run("quickstart", **sets, **{"runtime.cpu.hand_over": f"{us} us"}).summary for us in (1079, 79))
    visits = slow["layer_visits"]
    assert 0.2e-3 * visits < slow["makespan_s"] - fast["makespan_s"] <= 1e-3 * visits * (1 + 1e-9)


def test_own_takes_the_program_of_each_policy() -> None:
    scenario = load("quickstart", sets={**SMALL, "runtime": "own"}, policy="cox_moe")
    results, refused = compare_loaded(scenario, ["on_demand", "fiddler"])
    assert not refused
    assert {result.summary["runtime"] for result in results} <= {path.stem for path in FILES}
    assert all(result.provenance["scenario"]["runtime"]["name"] == result.summary["runtime"] for result in results)


def test_a_class_of_kernels_is_limited_by_cores_or_by_memory() -> None:
    scenario = load("quickstart", sets=["runtime=llama-cpp", "hardware.devices.cpu.cores=2"]).scenario
    two_cores = scenario.runtime.over(scenario.hardware).devices["cpu"].kernels["ggml"]
    kind, memory = scenario.runtime.cpu.classes["ggml"], scenario.hardware.devices["cpu"].own_bandwidth
    assert two_cores.bandwidth == pytest.approx(2 * kind.core_bandwidth)
    assert two_cores.rate == pytest.approx(2 * kind.core_rate)
    # wide is what a socket is: 40 cores are of one, and not of two, which wait for each other's memory
    both = kind.share * kind.together_memory
    for cores, sockets, share in ((31, 1, kind.share), (40, 1, kind.wide_share), (64, 1, kind.wide_share), (40, 2, both)):
        of_cpu = {"cores": cores, "sockets": sockets}
        sets = ["runtime=llama-cpp", *(f"hardware.devices.cpu.{key}={value}" for key, value in of_cpu.items())]
        more_cores = load("quickstart", sets=sets).scenario
        assert more_cores.runtime.over(more_cores.hardware).devices["cpu"].kernels["ggml"].bandwidth == pytest.approx(
            share * memory
        )


@pytest.mark.parametrize("capacity", [0.5, 1.0, 2.0])
def test_a_program_may_pad_by_any_factor_above_zero(capacity: float) -> None:
    assert GpuPrograms.model_validate({"capacity": capacity}).capacity == capacity
    with pytest.raises(ValueError, match="greater than 0"):
        GpuPrograms.model_validate({"capacity": 0})


def test_storage_is_read_at_the_share_that_the_program_reaches() -> None:
    machine = load("quickstart").scenario.hardware
    fast, slow = (machine.path(tier, "hbm") for tier in ("ddr", "nvme"))
    copies = Copies(storage=0.25)
    assert copies.over(fast, "ddr", machine.resources()).rate == fast.rate
    assert copies.over(slow, "ddr", machine.resources(), stored=True).rate == pytest.approx(0.25 * slow.rate)
    scenario = load("quickstart", sets=["runtime.copies.storage=0.25"]).scenario
    costs = Costs(scenario.model, scenario.hardware, scenario.runtime)
    assert costs.path("nvme", "hbm").rate == pytest.approx(0.25 * slow.rate)
    assert costs.path("ddr", "hbm").rate == fast.rate


def test_tiles_of_rows_cost_as_much_half_empty() -> None:
    kernel = Kernel(bandwidth=1e15, rate=1e12, block=32)
    single, full, more = (float(kernel.seconds(tokens, 1e6, 1e9, None)) for tokens in (1, 32, 33))
    assert single == full == pytest.approx(32e-3)
    assert more == pytest.approx(64e-3)
    assert float(kernel.seconds(0, 1e6, 1e9, None)) == 0.0


@pytest.mark.parametrize(
    ("machine", "kernels"),
    [("rtx4090-xeon6454s", {"llamafile_q4", "kt_amx"}), ("rtx5090-epyc9355", {"llamafile_q4"})],
)
def test_kernels_run_where_the_cpu_has_what_they_need_applied_once_or_twice(machine: str, kernels: set[str]) -> None:
    scenario = load("quickstart", sets=["runtime=ktransformers-0.3", f"hardware={machine}"]).scenario
    once = scenario.runtime.over(scenario.hardware)
    assert set(once.devices["cpu"].kernels) == kernels
    assert scenario.runtime.over(once).devices["cpu"].kernels == once.devices["cpu"].kernels


def test_a_program_whose_kernels_no_cpu_has_is_refused() -> None:
    cpu = load("quickstart", sets=["hardware=rtx5090-epyc9355"]).scenario.hardware.devices["cpu"]
    programs = CpuPrograms(classes={"tiles": KernelClass(core_bandwidth=1e9, core_rate=1e9, needs="amx")})
    with pytest.raises(InputError) as caught:
        programs.over(cpu)
    message = "the program's CPU kernels need amx, and the CPU of this machine was measured with avx512 only"
    assert message in str(caught.value)


def test_a_captured_step_has_the_rows_of_its_graph() -> None:
    programs = GpuPrograms(graph_sizes=(1, 2, 4, 8, 16), graph_tokens=8)
    assert programs.rows([0, 1, 3, 5, 8, 9, 100]).tolist() == [0, 1, 4, 8, 8, 9, 100]
    assert GpuPrograms(graph_sizes=(1, 8), mode="eager").rows(5) == 5
    with pytest.raises(ValueError, match="rise"):
        GpuPrograms(graph_sizes=(8, 1))
    scenario = load("quickstart", sets=["runtime=vllm-0.19"]).scenario
    costs = Costs(scenario.model, scenario.hardware, scenario.runtime)
    assert costs.projections("gpu", 250) == costs.projections("gpu", 256) > costs.bare.projections("gpu", 256)
    assert costs.head(250) < costs.head(256), "the head sees the sampled rows alone"


def test_packed_weights_are_unpacked_beside_their_stream_and_16_bit_ones_are_not() -> None:
    kind = KernelClass(core_bandwidth=10e9, core_rate=1e12, core_unpack=20e9, q=float("inf"))
    kernel = kind.kernel(load("quickstart").scenario.hardware.devices["cpu"].model_copy(update={"cores": 4}).bound(1e12))
    packed, whole = (float(kernel.seconds(1, nbytes, 2e9, 1e12)) for nbytes in (0.5e9, 2e9))
    assert packed == pytest.approx(0.5e9 / 40e9 + 1e9 / 80e9)
    assert whole == pytest.approx(2e9 / 40e9)


def test_latents_are_read_as_slowly_as_the_program_reads_them_and_scores_cost_what_they_move() -> None:
    scenario = load("quickstart", sets=["model=deepseek-v2-lite"]).scenario
    model = scenario.model
    flops, nbytes = model.core_flops_decode([4096]), model.core_bytes_decode([4096])
    slow = scenario.runtime.model_copy(
        update={"gpu": scenario.runtime.gpu.model_copy(update={"attention": GpuCore(latent=50e9)})}
    )
    plain, held = (
        Costs(model, scenario.hardware, runtime).core("gpu", flops, nbytes, "decode", "hbm") for runtime in (FREE, slow)
    )
    assert (held >= nbytes / 50e9).all()
    assert (held > plain).all()
    wide = scenario.runtime.model_copy(
        update={"gpu": scenario.runtime.gpu.model_copy(update={"attention": GpuCore(scores=16)})}
    )
    first = model.core_flops_prefill([512]), model.core_bytes_prefill([512])
    without, moved = (
        Costs(model, scenario.hardware, runtime).core("gpu", *first, "prefill", "hbm") for runtime in (scenario.runtime, wide)
    )
    gpu = Costs(model, scenario.hardware, scenario.runtime).system.gpu
    scores = 16 * model.attention.heads * (512 * 513 / 2) / gpu.own_bandwidth / gpu.attention.streaming
    assert moved - without == pytest.approx(np.full(model.layers, scores), rel=1e-6)
    assert model.absorbed().core_flops_prefill([512]).sum() > model.core_flops_prefill([512]).sum()


def test_modules_and_unpacking_of_a_framework_are_paid_on_the_gpu() -> None:
    scenario = load("quickstart").scenario
    gpu = scenario.runtime.gpu
    hooked = scenario.runtime.model_copy(update={"gpu": gpu.model_copy(update={"module": 1e-3, "unpack": 4.0})})
    plain, more = (Costs(scenario.model, scenario.hardware, runtime) for runtime in (scenario.runtime, hooked))
    assert float(more.router(3) - plain.router(3)) == pytest.approx(1e-3 * scenario.model.experts)
    assert float(more.router(0)) == 0.0
    assert float(more.gpu(2) - plain.gpu(2)) == 0.0, "16-bit weights are not packed"
    packed = scenario.model.with_precision(weights="int4", experts="int4")
    plain, more = (Costs(packed, scenario.hardware, runtime) for runtime in (scenario.runtime, hooked))
    moved = 4.0 * packed.expert_flops / 2
    rate = plain.system.gpu.own_bandwidth * plain.system.gpu.gemm.streaming
    assert float(more.gpu(2) - plain.gpu(2)) == pytest.approx(moved / rate)
    assert float(more.gpu(0)) == 0.0


def test_kernels_that_scale_with_cores_need_their_number() -> None:
    with pytest.raises(InputError) as caught:
        load("quickstart", sets=["runtime=llama-cpp", "hardware.devices.cpu.cores=null"])
    assert "does not say its 'cores'" in str(caught.value)


def test_copies_of_a_program_are_slower_and_staged_ones_draw_on_the_host_s_memory() -> None:
    scenario = load("quickstart").scenario
    pinned = Costs(scenario.model, scenario.hardware, scenario.runtime).path("ddr", "hbm")
    copies = {"share": 0.5, "staged": True}
    staged = Costs(scenario.model, scenario.hardware, scenario.runtime.model_copy(update={"copies": Copies(**copies)})).path(
        "ddr", "hbm"
    )
    assert staged.rate == pytest.approx(0.5 * pinned.rate)
    assert dict(staged.usage)["ddr:read"] == dict(pinned.usage)["ddr:read"] + 1
    assert dict(staged.usage)["ddr:write"] == 1
    assert Costs(scenario.model, scenario.hardware, scenario.runtime).path("hbm", "ddr") == scenario.hardware.path("hbm", "ddr")


@pytest.mark.parametrize("adjacent", [False, True])
def test_neighbouring_experts_cross_in_one_copy_and_pay_one_set_up_where_the_program_joins_them(adjacent: bool) -> None:
    policy = {"kind": "llama_cpp", "whole_tensors": True, "cpu_layers": 48}
    sets = {"workload.requests": 1, "workload.prompt": 64, "workload.output": 1, "runtime": "llama-cpp"}
    result = run("quickstart", policy=policy, **sets, **{"runtime.copies.adjacent": adjacent})
    path = Costs(*(getattr(load("quickstart").scenario, part) for part in ("model", "hardware"))).path("ddr", "hbm")
    copies = 1 if adjacent else 128
    lane = result.frame("lanes").set_index("lane").loc["pcie:forward"]
    transfer = lane["moved_B"] / (path.rate * load("quickstart", sets=["runtime=llama-cpp"]).scenario.runtime.copies.share)
    assert lane["busy_s"] - transfer == pytest.approx(48 * copies * path.setup, rel=1e-3)


def test_both_engines_time_joined_copies_alike() -> None:
    sets = {"runtime": "llama-cpp", "workload.requests": 1, "workload.prompt": 40, "workload.output": 2}
    policy = {"kind": "llama_cpp", "cpu_layers": 48}
    kernel, reference = (
        run("quickstart", policy=policy, **sets, simulation={"engine": engine}).summary for engine in ("kernel", "reference")
    )
    assert (kernel["makespan_s"], kernel["bytes"]) == (reference["makespan_s"], reference["bytes"])


@pytest.mark.parametrize(
    ("machine", "kernels"),
    [
        ("quadro-rtx6000-xeon6126", {"bf16_emulated"}),
        ("rtx5090-epyc9355", {"bf16_emulated", "bf16_stock"}),
        ("h100-server", {"bf16_emulated", "bf16_stock", "bf16_amx"}),
    ],
)
def test_a_framework_emulates_bf16_only_where_the_cpu_lacks_it(machine: str, kernels: set[str]) -> None:
    scenario = load("quickstart", sets=["runtime=fiddler", f"hardware={machine}"]).scenario
    cpu = scenario.runtime.over(scenario.hardware).devices["cpu"]
    assert set(cpu.kernels) == kernels
    emulated = 16 * scenario.model.expert_flops / (2.43e9 * cpu.cores)
    ratio = emulated / float(cpu.expert_time(16, scenario.model.expert_bytes, scenario.model.expert_flops))
    assert ratio == pytest.approx(1.0) if len(kernels) == 1 else ratio > 5.0


def test_a_second_socket_adds_little_to_a_program_that_places_no_weights() -> None:
    times = []
    for machine in ("rtx5090-epyc9355", "rtx5090-epyc9355-dual"):
        scenario = load("quickstart", sets=["runtime=llama-cpp", f"hardware={machine}"]).scenario
        times.append(float(Costs(scenario.model, scenario.hardware, scenario.runtime).cpu(1, "ddr")))
    assert 1.0 < times[0] / times[1] < 1.2


def test_the_program_s_share_of_the_gpu_replaces_what_the_gpu_was_measured_to() -> None:
    scenario = load("quickstart", sets=["runtime.gpu.efficiency=0.2"]).scenario
    slow, gpu = scenario.runtime.over(scenario.hardware).gpu, scenario.hardware.gpu
    assert slow.gemm.efficiency == 0.2
    assert all(packed.experts.efficiency == 0.2 for packed in slow.formats.values())
    assert slow.gemm.streaming == gpu.gemm.streaming
    assert scenario.runtime.over(scenario.runtime.over(scenario.hardware)).gpu == slow


def test_prompts_are_cut_as_the_program_cuts_them_unless_the_workload_says() -> None:
    small = {"workload.requests": 1, "workload.prompt": 512, "workload.output": 1}
    whole, cut, finer = (
        run("quickstart", **small, **more).summary
        for more in ({}, {"runtime": "ktransformers-0.2"}, {"runtime": "ktransformers-0.2", "workload.chunk": 64})
    )
    assert cut["layer_visits"] == 2 * whole["layer_visits"]
    assert finer["layer_visits"] == 8 * whole["layer_visits"]


def test_memory_that_the_program_keeps_is_not_for_experts() -> None:
    small = {**SMALL, "policy": "static_popularity"}
    rates = [run("quickstart", **small, **{"runtime.reserve": size}).summary["hit_rate"] for size in ("1 MB", "6 GB")]
    assert rates[1] < rates[0]


@pytest.mark.parametrize(
    ("machine", "vllm", "sglang"),
    [
        ("rtx4090-desktop", 8192, 2048),
        ("l40s-server", 8192, 4096),
        ("a100-80gb-server", 8192, 8192),
        ("h100-server", 16384, 8192),
        ("h200-server", 16384, 8192),
        ("b200-server", 16384, 16384),
    ],
)
def test_prompts_are_cut_as_the_program_cuts_them_on_such_a_gpu(machine: str, vllm: int, sglang: int) -> None:
    hardware = load("quickstart", sets=[f"hardware={machine}"]).scenario.hardware
    for name, tokens in (("vllm-0.19", vllm), ("sglang", sglang), ("reference", 0), ("trt-llm", 8192)):
        assert load("quickstart", sets=[f"runtime={name}"]).scenario.runtime.chunk_on(hardware) == tokens
    assert load("quickstart", sets=["runtime=vllm-0.19", "runtime.chunk=0"]).scenario.runtime.chunk_on(hardware) == 0


def test_a_budget_cuts_a_long_prompt_and_one_that_holds_it_is_the_run_without() -> None:
    def steps(prompt: int, **sets: Any) -> list[int]:
        long = {"workload.requests": 1, "workload.prompt": prompt, "workload.output": 2, "runtime": "sglang", **sets}
        return [int(tokens) for tokens in run("quickstart", **long).frame("steps")["tokens"]]

    assert steps(5000) == [2048, 2048, 904, 1]
    assert steps(5000, **{"workload.chunk": 3000}) == [3000, 2000, 1]
    assert steps(5000, **{"runtime.chunk": 0}) == [5000, 1]
    whole, held = (run("quickstart", **SMALL, runtime="vllm-0.19", **more) for more in ({"runtime.chunk": 0}, {}))
    assert {**whole.summary, "wall_s": 0} == {**held.summary, "wall_s": 0}
