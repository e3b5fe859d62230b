"""A part replaces the part, a GPU brings its memory and its price, a single value changes what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
import yaml_files
from reporting import for_all

from moesim.errors import InputError
from moesim.experiment.plan import plan
from moesim.hardware.cpu import Cpu
from moesim.hardware.system import System
from moesim.scenario import LoadedScenario, load, load_data
from moesim.scenario.checking import check
from moesim.scenario.parts import renamed

ROOT = Path(__file__).resolve().parents[3]
MACHINE = "rtxpro6000-workstation"  # 96 GB at 8,500 USD
WORKLOAD = {"kind": "offline", "requests": 1, "prompt": 8, "output": 2, "routing": {"kind": "uniform"}}


def scenario(hardware: Any, sets: Any = (), **more: Any) -> LoadedScenario:
    data = {"name": "s", "hardware": hardware, "model": "qwen3-30b-a3b", "workload": WORKLOAD, **more}
    return load_data(data, sets=sets)


def machine(hardware: Any, sets: Any = ()) -> System:
    return scenario(hardware, sets).scenario.hardware


def shipped(name: str) -> System:
    return machine(name)


def refusal(hardware: Any, sets: Any = ()) -> str:
    with pytest.raises(InputError) as error:
        scenario(hardware, sets)
    return str(error.value)


def is_rtx_5090(built: System) -> None:
    """The data sheet: 32 GB at 1,792 GB/s, 1,999 USD."""
    tier = built.tiers["hbm"]
    assert (tier.capacity, tier.read, tier.at) == (32e9, 1792e9, "gpu")
    assert (built.gpu.price, built.gpu.compute) == (1999.0, 209.5e12)


# The same by every way


GPU = {"profile": "rtx-5090"}
WAYS: dict[str, tuple[Any, Any]] = {
    "beside the machine": ({"profile": MACHINE, "devices": {"gpu": GPU}}, ()),
    "--set of the profile": (MACHINE, ["hardware.devices.gpu.profile=rtx-5090"]),
    "--set of the part": (MACHINE, ["hardware.devices.gpu={profile: rtx-5090}"]),
    "--set of the machine": ("h100-xeon8452y", {"hardware": {"profile": MACHINE, "devices": {"gpu": GPU}}}),
    "from Python": (MACHINE, {"hardware.devices.gpu": GPU}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_brings_its_memory_and_price_by_every_way(way: str) -> None:
    built = machine(*WAYS[way])
    is_rtx_5090(built)
    assert built.name == f"{MACHINE} (gpu: rtx-5090)"
    changed = shipped(MACHINE)
    assert built.tiers["ddr"] == changed.tiers["ddr"]
    assert built.links == changed.links
    assert built.price == pytest.approx(changed.price - 8500 + 1999)


def test_a_scenario_replaces_parts_of_the_one_that_it_extends(tmp_path: Path) -> None:
    below = {"hardware": {"profile": MACHINE, "devices": {"gpu": {"launch": "99 us"}}, "tiers": {"hbm": {"capacity": "7 GB"}}}}
    (tmp_path / "below.yaml").write_text(yaml.safe_dump({**below, "model": "qwen3-30b-a3b", "workload": WORKLOAD}))
    above = {"extends": "below", "hardware": {"devices": {"gpu": GPU}}}
    (tmp_path / "above.yaml").write_text(yaml.safe_dump(above))
    built = load(tmp_path / "above.yaml").scenario.hardware
    is_rtx_5090(built)
    assert (built.gpu.launch, built.gpu.fixed.layer) == (None, pytest.approx(14.3e-6))
    assert load(tmp_path / "below.yaml").scenario.hardware.gpu.launch == pytest.approx(99e-6)
    assert built.name == f"{MACHINE} (gpu: rtx-5090)"


def test_a_part_replaces_one_that_is_written_out_below(tmp_path: Path) -> None:
    inline = scenario("rtx4090-desktop").data["hardware"]
    (tmp_path / "below.yaml").write_text(yaml.safe_dump({"hardware": inline, "model": "qwen3-30b-a3b", "workload": WORKLOAD}))
    (tmp_path / "above.yaml").write_text(
        "extends: below\nhardware: {devices: {gpu: {profile: rtx-5090}, cpu: {profile: epyc-9355}}}\n"
    )
    built = load(tmp_path / "above.yaml").scenario.hardware
    is_rtx_5090(built)
    assert built.name == "rtx4090-desktop (gpu: rtx-5090, cpu: epyc-9355)"
    assert kernels(built) == kernels(shipped("rtx5090-epyc9355"))


@pytest.mark.parametrize("order", [1, -1])
def test_axes_replace_parts_whatever_their_order(order: int) -> None:
    axes = {"hardware.tiers.hbm.usable": [0.5], "hardware.devices.gpu.profile": ["rtx-5090", "h200-sxm"]}
    base = {"hardware": MACHINE, "model": "qwen3-30b-a3b", "workload": WORKLOAD}
    tasks = plan({"scenario": base, "axes": dict(list(axes.items())[::order])}).tasks.values()
    machines = {task.scenario.hardware.name: task.scenario.hardware for task in tasks}
    assert set(machines) == {f"{MACHINE} (gpu: {name})" for name in ("rtx-5090", "h200-sxm")}
    is_rtx_5090(machines[f"{MACHINE} (gpu: rtx-5090)"])
    assert {shipped_machine.tiers["hbm"].usable for shipped_machine in machines.values()} == {0.5}
    assert machines[f"{MACHINE} (gpu: h200-sxm)"].tiers["hbm"].capacity == 141e9


def test_axes_of_whole_parts_and_of_machines() -> None:
    base = {"hardware": MACHINE, "model": "qwen3-30b-a3b", "workload": WORKLOAD}
    whole = plan({"scenario": base, "axes": {"hardware.devices.gpu": [{"profile": "rtx-5090"}]}})
    is_rtx_5090(next(iter(whole.tasks.values())).scenario.hardware)
    machines = plan(
        {"scenario": base, "axes": {"hardware": ["rtx4090-desktop", {"profile": MACHINE, "devices": {"gpu": GPU}}]}}
    )
    names = {task.scenario.hardware.name for task in machines.tasks.values()}
    assert names == {"rtx4090-desktop", f"{MACHINE} (gpu: rtx-5090)"}


def test_a_result_names_the_parts_and_repeats_with_them() -> None:
    first = scenario(MACHINE, ["hardware.devices.gpu.profile=rtx-5090"])
    again = load_data(first.data, sets=["hardware.devices.gpu.profile=rtx-4090"])
    assert load_data(first.data).scenario.hardware == first.scenario.hardware
    assert again.scenario.hardware.name == f"{MACHINE} (gpu: rtx-4090)"
    assert again.scenario.hardware.tiers["hbm"].capacity == 24e9


# Other parts


def kernels(built: System) -> Mapping[str, Any]:
    cpu = built.devices["cpu"]
    assert isinstance(cpu, Cpu)
    return cpu.kernels


def test_a_cpu_keeps_no_kernel_of_the_one_before() -> None:
    built = machine({"profile": "rtx4090-desktop", "devices": {"cpu": {"profile": "xeon-8452y"}}})
    assert kernels(built) == kernels(shipped("a100-xeon8452y"))
    cpu = built.devices["cpu"]
    assert (cpu.at, cpu.memory) == ("host", "ddr")  # type: ignore[attr-defined]
    assert built.name == "rtx4090-desktop (cpu: xeon-8452y)"


def test_a_cpu_written_out_keeps_no_kernel_either() -> None:
    mine = {"kind": "cpu", "kernels": {"mine": {"rate": "1 TFLOPS"}}}
    built = machine({"profile": "rtx4090-desktop", "devices": {"cpu": mine}})
    assert list(kernels(built)) == ["mine"]
    assert built.devices["cpu"].price is None
    assert built.name == "rtx4090-desktop (cpu: inline)"


def test_what_the_machine_said_of_the_old_cpu_goes_with_it() -> None:
    """The machine restricts its Xeon to two of its kernels; the new CPU has none of that name."""
    assert machine("a100-xeon8460h-cxl").devices["cpu"].experts.use == ("amx_tuned", "avx512")  # type: ignore[attr-defined]
    built = machine({"profile": "a100-xeon8460h-cxl", "devices": {"cpu": {"profile": "epyc-9355"}}})
    assert built.devices["cpu"].experts == shipped("rtx5090-epyc9355").devices["cpu"].experts  # type: ignore[attr-defined]


def test_tiers_and_links_are_replaced_where_they_stand() -> None:
    sets = [
        "hardware.tiers.nvme.profile=nvme-gen5",
        "hardware.links.pcie.profile=pcie5-x16",
        "hardware.tiers.ddr.profile=hbm2e-xeon-max",
    ]
    built = machine("rtx4090-desktop", sets)
    nvme, ddr, pcie = built.tiers["nvme"], built.tiers["ddr"], built.links["pcie"]
    assert (nvme.stage, nvme.at) == ("ddr", "ssd")  # type: ignore[union-attr]
    assert (ddr.kind, ddr.at) == ("hbm", "host")  # type: ignore[union-attr]
    assert pcie == shipped("h100-xeon8452y").links["pcie"].model_copy(update={"ends": pcie.ends})
    assert built.name == "rtx4090-desktop (nvme: nvme-gen5, ddr: hbm2e-xeon-max, pcie: pcie5-x16)"


def test_a_machine_keeps_nothing_of_the_machine_before() -> None:
    changed = {"profile": MACHINE, "devices": {"gpu": {"launch": "99 us"}}}
    assert machine(changed, ["hardware.profile=rtx4090-desktop"]) == shipped("rtx4090-desktop")


def test_single_values_stay_changes() -> None:
    before = shipped("rtx4090-desktop")
    built = machine(
        {"profile": "rtx4090-desktop", "devices": {"gpu": {"launch": "9 us"}}, "tiers": {"hbm": {"capacity": "20 GB"}}}
    )
    assert built.name == "rtx4090-desktop"
    assert (built.gpu.launch, built.tiers["hbm"].capacity) == (pytest.approx(9e-6), 20e9)
    assert built.gpu.model_copy(update={"launch": before.gpu.launch}) == before.gpu
    assert machine("rtx4090-desktop", ["hardware.devices.gpu.profile=rtx-4090"]).name == "rtx4090-desktop"  # the same part


def test_the_layer_that_replaces_a_gpu_may_change_its_memory() -> None:
    both = {"profile": MACHINE, "devices": {"gpu": GPU}, "tiers": {"hbm": {"capacity": "24 GB"}}}
    tier = machine(both).tiers["hbm"]
    assert (tier.capacity, tier.read) == (24e9, 1792e9)
    changed = {"profile": MACHINE, "devices": {"gpu": GPU}, "tiers": {"hbm": {"profile": "gddr6x-rtx-4090"}}}
    assert machine(changed).tiers["hbm"].capacity == 24e9
    later = machine(MACHINE, ["hardware.devices.gpu.profile=rtx-5090", "hardware.tiers.hbm.capacity=24 GB"])
    assert (later.tiers["hbm"].capacity, later.tiers["hbm"].read) == (24e9, 1792e9)


def test_a_gpu_in_a_machine_of_ones_own_needs_no_tier() -> None:
    devices = {"gpu": {"profile": "rtx-5090", "at": "gpu", "memory": "vram"}}
    tiers = {"ddr": {"profile": "ddr5-dual-channel", "at": "host"}}
    built = machine({"devices": devices, "tiers": tiers, "links": {"pcie": {"profile": "pcie5-x16", "ends": ["host", "gpu"]}}})
    assert built.tiers["vram"].capacity == 32e9
    assert built.tier_names == ("ddr", "vram")


@for_all(sorted(path.stem for path in (ROOT / "hardware_profiles/systems").glob("*.yaml")))
def test_shipped_machines_have_the_memory_that_their_gpu_brings(name: str) -> None:
    text = yaml_files.read(ROOT / f"hardware_profiles/systems/{name}.yaml")
    for device in text.get("devices", {}).values():
        if (
            "memory" in device
            and device.get("profile")
            and (ROOT / f"hardware_profiles/gpus/{device['profile']}.yaml").is_file()
        ):
            gpu = yaml_files.read(ROOT / f"hardware_profiles/gpus/{device['profile']}.yaml")
            assert text["tiers"][device["memory"]]["profile"] == gpu["memory"]["profile"]


# Refusals


def test_a_gpu_that_says_no_memory_is_refused_and_not_given_the_old_one() -> None:
    message = refusal({"profile": MACHINE, "devices": {"gpu": {"kind": "gpu", "compute": "100 TFLOPS"}}})
    assert message == (
        "hardware.tiers.hbm: nothing says which memory the GPU 'gpu' has; write it in its profile (memory: {profile: NAME}), "
        "or in the machine (tiers: {hbm: {profile: NAME}})"
    )
    own = {"kind": "hbm", "capacity": "10 GB", "read": "500 GB/s"}
    built = machine({"profile": MACHINE, "devices": {"gpu": {"kind": "gpu", "compute": "100 TFLOPS", "memory": own}}})
    assert (built.tiers["hbm"].capacity, built.tiers["hbm"].at, built.gpu.price) == (10e9, "gpu", None)


@pytest.mark.parametrize(
    "early", ["hardware.tiers.hbm.capacity=20 GB", "hardware.devices.gpu.launch=9us", "hardware.devices.gpu.gemm.q=2"]
)
def test_a_change_that_a_later_one_undoes_is_refused(early: str) -> None:
    path, part = early.partition("=")[0], "hardware.devices.gpu.profile"
    undone = f"this change is undone by the later one of '{part}' (--set); write it after that one"
    assert refusal(MACHINE, [early, f"{part}=rtx-5090"]) == f"--set {path}: {undone}"


def inside(group: str, name: str, profile: Any) -> Any:
    return {"profile": MACHINE, group: {name: {"profile": profile}}}


WRONG_PLACE = {
    "a part as machine": ("rtx-4090", "'rtx-4090' is a device (kind gpu), and a machine is needed here; "),
    "a memory as machine": ("gddr7-rtx-5090", "'gddr7-rtx-5090' is a memory (kind hbm), and a machine is needed here; "),
    "a machine as device": (inside("devices", "gpu", MACHINE), "is a machine (kind system), and a device is"),
    "a memory as device": (inside("devices", "gpu", "hbm-h200"), "is a memory (kind hbm), and a device is"),
    "a device as tier": (inside("tiers", "hbm", "rtx-5090"), "is a device (kind gpu), and a memory is"),
    "a memory as link": (inside("links", "pcie", "hbm-h200"), "is a memory (kind hbm), and a link is"),
    "two whole parts": (inside("devices", "gpu", ["rtx-4090", "rtx-5090"]), "describes a whole part, as 'rtx-4090' does"),
    "an unknown part": (inside("devices", "gpu", "rtx-509"), "unknown hardware profile 'rtx-509'. Did you mean"),
}


@pytest.mark.parametrize("case", WRONG_PLACE)
def test_a_profile_in_the_wrong_place_is_reported_once(case: str) -> None:
    hardware, words = WRONG_PLACE[case]
    message = refusal(hardware)
    assert words in message
    assert "\n" not in message


def test_a_gpu_profile_is_checked_with_the_memory_that_it_brings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("kind: gpu\ncompute: 100 TFLOPS\nmemory: {kind: hbm, capacity: 32 GB, reed: 1 TB/s}\n")
    (report,) = check([file])["files"]
    (error,) = report["errors"]
    assert (error["line"], error["path"]) == (3, "memory.reed")
    file.write_text("kind: gpu\ncompute: 100 TFLOPS\nmemory: {profile: gddr7-rtx-5090}\n")
    assert check([file])["files"][0]["errors"] == []


def test_names_of_machines_keep_one_entry_for_each_part() -> None:
    assert renamed("box", {}) == "box"
    assert renamed("box (gpu: a)", {"gpu": "b", "cpu": "c"}) == "box (gpu: b, cpu: c)"
    assert renamed("box (old)", {"gpu": "b"}) == "box (old) (gpu: b)"
