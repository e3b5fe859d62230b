"""The catalogue of devices is whole: what was promised is there, it loads, it obeys physics, and what follows is up to date."""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml_files
from reporting import for_all

from moesim.hardware import Gpu, Memory, System
from moesim.scenario.checking import check
from moesim.units import parse

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "hardware_profiles"
EVERY = sorted(FOLDER.rglob("*.yaml"))
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "runtimes")
PUBLISHED = ROOT.parent / "shared" / "validation" / "published.yaml"

WANTED = {
    "gpus": "t4 l4 a10 rtx-3090 rtx-4090 rtx-5090 rtx-a6000 rtx-a5000 quadro-rtx-6000 rtx-6000-ada rtx-pro-6000-server l40s "
    "a40 a100-40gb-pcie a100-80gb-pcie a100-40gb-sxm a100-80gb-sxm h100-80gb-pcie h100-80gb-sxm h200-sxm b200-sxm mi300x "
    "gh200-96gb",
    "cpus": "xeon-8452y xeon-8460h xeon-8480 xeon-6454s xeon-6454s-dual xeon-8592 xeon-6980p xeon-6980p-mrdimm xeon-max-9480 "
    "epyc-7453 epyc-9355 epyc-9654 xeon-6126 xeon-6126-dual xeon-6438y xeon-8380 xeon-cloud-24c grace-72c desktop-avx512",
    "links": "pcie3-x8 pcie3-x16 pcie4-x8 pcie4-x16 pcie5-x8 pcie5-x16 pcie6-x8 pcie6-x16 nvlink-c2c-gh200 cxl-x8 cxl-x16 "
    "cxl-switch-x16 rdma-100g rdma-400g nvme-gen3-x4 nvme-x4 nvme-gen5-x4",
    "memory": "cxl-a cxl-b cxl-c cxl-d cxl-cz120-128gb cxl-cz120-256gb cxl-cmm-d-128gb cxl-cmm-d-256gb cxl-cmm-d-512gb "
    "cxl-pool-cmm-b nvme-gen3 nvme-gen4 nvme-gen5",
}
MACHINES = {
    "flexgen-opt30b": ["t4-flexgen"],
    "moe-lightning-s1": ["t4-cloud24"],
    "moe-gen-mixtral-8x7b": ["a5000-epyc7453"],
    "lia-cxl-weights": ["a100-xeon8460h-cxl"],
    "ktransformers-dsv3-q4": ["rtx4090-xeon6454s", "rtx4090-xeon6454s-dual"],
    "fiddler-env1": ["quadro-rtx6000-xeon6126"],
    "mixtral-rtxpro6000-end-to-end": ["rtxpro6000-workstation"],
    "cox-moe-table3": ["rtx6000ada-xeon8452y"],
    "cox-moe-ranges": ["rtx6000ada-xeon8452y", "a100-xeon8452y", "h100-xeon8452y"],
    "dynande-order": ["dynande-ndp"],
    "cxl-expert-table": ["cxl-expert-abstract"],
    "cxl-expert-quantisation": ["cxl-expert-abstract"],
    "moe-cxl-claims": ["moe-cxl-a100"],
}
"""Published case -> the machines it ran on."""


@cache
def refresh() -> Any:
    spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def tree(name: str) -> Any:
    """A file with its own profiles filled in and annotations taken off."""
    (path,) = [path for path in FILES if path.stem == name]
    return filled(yaml_files.read(path))


def filled(node: Any) -> Any:
    if isinstance(node, list):
        return [filled(part) for part in node]
    if not isinstance(node, dict):
        return node
    if "value" in node:
        return node["value"]
    own = {key: filled(below) for key, below in node.items() if key != "profile"}
    return over(tree(node["profile"]), own) if "profile" in node else own


def over(below: Any, own: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(own, dict)):
        return own
    return below | {key: over(below.get(key), value) for key, value in own.items()}


def machine(name: str) -> System:
    return System.model_validate(tree(name), context={"units": "required"})


@cache
def annotated(path: Path) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    return list(refresh().leaves(refresh().read(path)))


# What is there


@for_all([f"{folder}/{name}.yaml" for folder, names in WANTED.items() for name in names.split()])
def test_every_promised_device_has_a_profile(place):
    assert (FOLDER / place).is_file()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="published measurements are not beside the checkout")
def test_every_published_case_has_its_machine():
    published = yaml_files.read(PUBLISHED)
    cases = [case["id"] for part in ("systems", "ratios", "seeds") for case in published[part]]
    assert set(cases) <= set(MACHINES)
    assert [name for names in MACHINES.values() for name in names if not (FOLDER / "systems" / f"{name}.yaml").is_file()] == []


@pytest.mark.parametrize("folder", ["gpus", "cpus", "memory", "links", "ndp", "systems"])
def test_every_file_is_resolved_and_loaded_by_the_real_reader(folder):
    report = check(sorted((FOLDER / folder).glob("*.yaml")))
    assert [file for file in report["files"] if file["errors"]] == []


def test_no_part_is_left_without_a_machine_or_a_name_of_its_own_kind():
    kinds = {"gpus": {"gpu"}, "cpus": {"cpu"}, "links": {"link"}, "ndp": {"ndp"}, "systems": {"system"}}
    for path in FILES:
        expected = kinds.get(path.parent.name, {"hbm", "ddr", "cxl", "nvme", "remote"})
        assert refresh().read(path)["kind"] in expected, path.stem


# What is said about it


def test_carried_shares_and_the_page_are_up_to_date(capsys):
    assert refresh().main(check=True) == 0, capsys.readouterr().out


def test_every_gpu_is_measured_or_named_by_the_rule():
    here = {path.stem for path in (FOLDER / "gpus").glob("*.yaml")}
    assert here - set(refresh().RULE) == {*refresh().MEASURED, "rtx-pro-6000-eager", "rtx-pro-6000-vllm"}
    assert {parent for parent, _ in refresh().RULE.values()} <= set(refresh().MEASURED)


def test_what_was_carried_over_names_the_rule_and_its_basis():
    for name, (parent, basis) in refresh().RULE.items():
        marked = [leaf for _, leaf in annotated(FOLDER / "gpus" / f"{name}.yaml") if leaf["source"].startswith(refresh().MARK)]
        assert marked, name
        assert {leaf["basis"] for leaf in marked} == {basis}, name
        assert all(leaf["source"].endswith(parent) for leaf in marked), name


def test_the_counts_on_the_page_are_those_of_the_files():
    totals = dict.fromkeys(refresh().BASES, 0)
    for path in EVERY:
        for _, leaf in annotated(path):
            totals[leaf["basis"]] += 1
    page = (ROOT / "docs" / "hardware.md").read_text("utf-8")
    (row,) = re.findall(r"^\| all \| (.*) \|$", page, re.M)
    assert [int(cell) for cell in row.split(" | ")][:5] == [len(EVERY), *totals.values()]


def test_prices_have_a_date():
    prices = [(path.stem, leaf) for path in FILES for way, leaf in annotated(path) if way[-1] == "price"]
    assert len(prices) > 40
    assert [name for name, leaf in prices if not re.match(r"20\d\d", leaf.get("date", ""))] == []


def test_a_value_from_memory_is_not_called_measured_without_saying_so():
    for path in FILES:
        for way, leaf in annotated(path):
            if "data sheet" in leaf["source"]:
                assert leaf["basis"] in ("datasheet", "derived"), f"{path.stem}: {way}"


# Physics


def test_ddr_reads_stay_below_channels_times_rate():
    count = 0
    for path in (FOLDER / "memory").glob("*.yaml"):
        named = re.match(r"(?:ddr\d|mrdimm)-(\d+)-x(\d+)", path.stem)
        if named:
            count += 1
            peak = float(named[1]) * float(named[2]) * 8e6
            assert 0.6 * peak < parse(tree(path.stem)["read"], "bandwidth") <= peak, path.stem
    assert count >= 10


LANE = {"3": 0.985e9, "4": 1.969e9, "5": 3.938e9, "6": 7.563e9}
"""B/s of one lane after line coding."""


def test_pcie_links_stay_below_lanes_times_rate():
    count = 0
    for path in (FOLDER / "links").glob("*.yaml"):
        named = re.match(r"(?:pcie|nvme-gen)(\d)-x(\d+)", path.stem)
        if named:
            count += 1
            peak = LANE[named[1]] * float(named[2]) * 1.001
            link = tree(path.stem)
            rates = [parse(link[key], "bandwidth") for key in ("rate", "reverse") if key in link]
            assert max(rates) <= peak, path.stem
            assert max(rates) <= parse(link.get("both", f"{2 * max(rates)} B/s"), "bandwidth") <= 2 * peak, path.stem
    assert count >= 15


@pytest.mark.parametrize(("name", "peak"), [("nvlink-c2c-gh200", 450e9), ("rdma-100g", 12.5e9), ("rdma-400g", 50e9)])
def test_other_links_stay_below_their_peak(name, peak):
    assert 0.7 * peak < parse(tree(name)["rate"], "bandwidth") <= peak


def test_no_memory_reads_or_writes_faster_than_in_all():
    for path in (FOLDER / "memory").glob("*.yaml"):
        memory = tree(path.stem)
        total = parse(memory.get("total", "1e9 GB/s"), "bandwidth")
        assert all(parse(memory[key], "bandwidth") <= total for key in ("read", "write") if key in memory), path.stem


def test_shares_of_gpus_are_at_most_one():
    for path in (FOLDER / "gpus").glob("*.yaml"):
        for way, leaf in annotated(path):
            if way[-1] in ("streaming", "efficiency"):
                assert 0 < leaf["value"] <= 1, f"{path.stem}: {way}"


def test_cpu_kernels_stream_no_faster_than_the_memory_they_are_meant_for():
    for path in (FOLDER / "systems").glob("*.yaml"):
        system = machine(path.stem)
        for name in system.cpu_names:
            device = system.devices[name]
            streams = [kernel.bandwidth for kernel in device.kernels.values() if kernel.bandwidth]
            assert max(streams, default=0.0) <= device.own_bandwidth, path.stem


# The carry-over rule against what was measured on GPUs that it serves

MIXTRAL = 3 * 4096 * 14336 * 2.0


def gpu(name: str, memory: str) -> Gpu:
    device = Gpu.model_validate(tree(name) | {"at": "gpu", "memory": "hbm"}, context={"units": "required"})
    return device.bound(Memory.model_validate(tree(memory) | {"at": "gpu"}, context={"units": "required"}).read)


@pytest.mark.parametrize(("batch", "milliseconds"), [(32, 12.2), (64, 12.3), (128, 12.5), (256, 13.0)])
def test_an_l4_runs_mixtral_as_the_shares_of_the_l40s_say(batch, milliseconds):
    # MoE-Lightning artifact, figure 9: all 8 experts, batch / 4 tokens each. Nothing here was fitted on an L4.
    seconds = 8 * gpu("l4", "gddr6-l4").expert_time(batch / 4, MIXTRAL, MIXTRAL)
    assert float(seconds) * 1e3 == pytest.approx(milliseconds, rel=0.10)


def test_an_a5000_reaches_what_moe_gen_measured():
    # MoE-Gen: about 72 TFLOPS for Mixtral experts once 1,024 tokens saturate the GPU.
    seconds = float(gpu("rtx-a5000", "gddr6-rtx-a5000").expert_time(1024, MIXTRAL, MIXTRAL))
    assert 1024 * MIXTRAL / seconds == pytest.approx(72e12, rel=0.10)


# Paths through the machines of published cases


def test_copies_to_an_a10_are_as_fast_from_cxl_as_from_either_socket():
    # stevescargall.com: 25.15 local (the fitted point), 25.13 remote, 23.6 to 25.14 GB/s from the expander.
    system = machine("a10-xeon6438y-cxl")
    assert [system.path(tier, "hbm").rate for tier in ("ddr", "remote", "cxl")] == [25.15e9] * 3


def test_two_samsung_devices_feed_the_a100_of_lia_but_not_its_cpu():
    system = machine("a100-xeon8460h-cxl")
    assert system.path("cxl", "hbm").rate == system.path("ddr", "hbm").rate == 24.8e9
    assert system.reach("cpu", "cxl").rate == 34e9 < 0.2 * system.reach("cpu", "ddr").rate


@pytest.mark.parametrize(
    ("name", "tier", "rate"),
    [
        ("gh200", "ddr", 346e9),
        ("h100-pooled-cxl", "cxl", 55e9),
        ("h100-rdma", "remote", 48.5e9),
        ("quadro-rtx6000-xeon6126", "ddr", 5e9),
        ("a40-xeon8380", "ddr", 19.5e9),
        ("t4-flexgen", "ddr", 13.84e9),
        ("dynande-ndp", "ndm", 32e9),
    ],
)
def test_the_slowest_part_of_the_way_sets_the_rate(name, tier, rate):
    assert machine(name).path(tier, "hbm").rate == rate


def test_a_second_socket_of_6454s_adds_seventy_percent():
    single, two = machine("rtx4090-xeon6454s").devices["cpu"], machine("rtx4090-xeon6454s-dual").devices["cpu"]
    assert float(single.expert_time(1, MIXTRAL, MIXTRAL) / two.expert_time(1, MIXTRAL, MIXTRAL)) == pytest.approx(1.7, rel=0.01)


def test_a_fiddler_expert_takes_seven_milliseconds():
    device = machine("quadro-rtx6000-xeon6126").devices["cpu"]
    assert float(device.expert_time(1, MIXTRAL, MIXTRAL)) == pytest.approx(7e-3, rel=0.05)
