"""What bounds a run, in words and by phase; what its machine costs, part by part."""

from __future__ import annotations

from typing import Any

import pytest

import moesim
from moesim import cli
from moesim.explain.rows import shown
from moesim.hardware.bill import bill, machine_price
from moesim.hardware.lane_words import lane_words
from moesim.results.table import run_table
from moesim.scenario import load

SMALL = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 3}


@pytest.fixture(scope="module")
def result() -> Any:
    return moesim.run("quickstart", policy="cox_moe", **SMALL)


def test_phases_share_out_the_critical_path(result: Any) -> None:
    steps, holder = result.columns["steps"], result.summary["bottleneck"]
    assert set(steps["phase"]) == {"prefill", "decode"}
    assert holder["words"] == "CPU compute"
    times = {phase: steps["step_time_s"][steps["phase"] == phase].sum() for phase in ("prefill", "decode")}
    on_lane = sum(holder[phase]["share"] * times[phase] for phase in times if holder[phase]["lane"] == holder["lane"])
    assert on_lane == pytest.approx(holder["share"] * result.summary["makespan_s"], rel=1e-9)


def test_waiting_for_requests_belongs_to_no_phase() -> None:
    arrivals = {"kind": "constant", "rate": "0.02/s"}
    data = {
        "name": "waits", "hardware": "rtx4090-desktop", "model": "qwen3-30b-a3b", "policy": "lru",
        "workload": {"kind": "online", "requests": 2, "prompt": 8, "output": 2, "arrivals": arrivals,
                     "routing": {"kind": "uniform"}},
    }  # fmt: skip
    summary = moesim.run(data).summary
    assert (summary["bottleneck"]["lane"], summary["bottleneck"]["words"]) == ("arrivals", "waiting for requests")
    assert (summary["bottleneck"]["decode"] or {}).get("lane") != "arrivals"


def test_the_screen_names_it(result: Any) -> None:
    text = run_table(result)
    assert "bottleneck      CPU compute (cpu), " in text
    assert "bottleneck: CPU compute, " in next(line for line in text.splitlines() if line.startswith("decode "))
    assert "machine         3,061 USD: rtx-4090 1,599, " in text


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("rtx4090-desktop", {"gpu": "GPU compute", "pcie:reverse": "PCIe download", "nvme_link:forward": "NVMe read"}),
        ("h200-cxl", {"cpu": "CPU compute", "cxl3_link:forward": "CXL 3 write", "cxl3_link:reverse": "CXL 3 read"}),
        ("dynande-ndp", {"pcie:forward": "PCIe upload"}),
    ],
)
def test_lanes_have_words(machine: str, words: dict[str, str]) -> None:
    system = load("quickstart", sets={"hardware": machine}).scenario.hardware
    assert words.items() <= lane_words(system).items()


def test_a_bill_adds_up_and_follows_the_parts() -> None:
    own = load("quickstart").scenario.hardware
    faster = load("quickstart", sets={"hardware.devices.gpu": {"profile": "rtx-5090"}}).scenario.hardware
    for system in (own, faster):
        assert sum(line.usd or 0.0 for line in bill(system)) == pytest.approx(system.price)
    names = {line.part: line.name for line in bill(faster)}
    assert names == {
        "devices.gpu": "rtx-5090", "devices.cpu": "desktop-avx512", "tiers.ddr": "ddr5-dual-channel", "tiers.nvme": "nvme-gen4",
    }  # fmt: skip
    assert faster.capacity(faster.gpu_tier) > own.capacity(own.gpu_tier)


def test_a_machine_with_a_part_without_a_price_has_none() -> None:
    system = load("quickstart").scenario.hardware
    cpu = system.devices["cpu"].model_copy(update={"price": None})
    bare = system.model_copy(update={"devices": {**system.devices, "cpu": cpu}})
    assert machine_price(bare) is None
    assert machine_price(system) == pytest.approx(3061)


def test_one_of_something_is_singular() -> None:
    assert [shown(1.0, "sequences"), shown(2.0, "sequences")] == ["1 sequence", "2 sequences"]


def test_machines_and_their_parts_are_listed_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "machines"]) == 0
    machines = capsys.readouterr().out
    assert cli.main(["list", "parts"]) == 0
    parts = capsys.readouterr().out
    assert "rtx4090-desktop " in machines
    assert "rtx-4090 " not in machines
    assert "rtx4090-desktop " not in parts
    assert "\n\ngpu\n" in parts


def test_explain_shows_the_sections_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "quickstart", "--section", "FITS"]) == 0
    text = capsys.readouterr().out
    assert "What fits where\n---" in text
    assert "The model\n---" not in text
    assert " of 6,144 experts" in text
    assert cli.main(["explain", "quickstart", "--section", "price"]) == 2
    assert "--section: no section has 'price' in its title; there are: The model; " in capsys.readouterr().err
