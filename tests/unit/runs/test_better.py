"""What a better part would bring: which values change together, what the gain is of, and what is said of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim import cli
from moesim.errors import InputError
from moesim.runs.better import better, changes
from moesim.runs.run import run_loaded
from moesim.scenario import load, load_data

SMALL = ["workload.requests=2", "workload.prompt=16", "workload.output=3"]
ONLINE = {
    "kind": "online", "requests": 6, "prompt": 32, "output": 4, "arrivals": {"kind": "poisson", "rate": "2/s"},
    "routing": {"kind": "uniform"}, "profile": {"kind": "uniform"},
}  # fmt: skip


def quickstart(**more: Any):
    return load("quickstart", sets=SMALL, policy="on_demand", **more)


def test_a_part_changes_in_all_values_of_one_respect() -> None:
    parts = {change.name: change.values for change in changes(quickstart(), 2.0)}
    assert parts["pcie rate"] == {"hardware.links.pcie.rate": "53.0 GB/s", "hardware.links.pcie.both": "94.4 GB/s"}
    assert parts["hbm capacity"] == {"hardware.tiers.hbm.capacity": "48.0 GB"}
    assert set(parts["ddr bandwidth"]) == {"hardware.tiers.ddr.read", "hardware.tiers.ddr.total"}
    assert parts["gpu speed"]["hardware.devices.gpu.compute"] == "330.4 TFLOPS"
    assert parts["cpu speed"]["hardware.devices.cpu.cores"] == 32
    assert not {path for values in parts.values() for path in values if path.endswith(("setup", "launch", "latency"))}


def test_a_faster_memory_and_not_a_faster_cpu_brings_kernels_that_wait_for_it_their_weights() -> None:
    parts = {change.name: change.values for change in changes(load("quickstart", sets=["hardware=rtx6000ada-xeon8452y"]), 2.0)}
    kernel = "hardware.devices.cpu.kernels.amx_tuned"
    assert parts["cpu speed"][f"{kernel}.rate"] == "45.2 TFLOPS"
    assert not {f"{kernel}.bandwidth", f"{kernel}.memory"} & {path for values in parts.values() for path in values}


def test_devices_that_are_read_as_one_get_better_together() -> None:
    machine = load("quickstart", sets=["hardware=h200-cxl"])
    parts = {change.name: set(change.values) for change in changes(machine, 2.0)}
    members = [f"cxl{number}" for number in range(4)]
    assert {f"hardware.tiers.{member}.capacity" for member in members} == parts["cxl capacity"]
    assert {f"hardware.links.{member}_link.rate" for member in members} <= parts["links to cxl rate"]
    assert not [name for name in parts if name.startswith(("cxl0", "cxl3"))]


def test_a_gain_is_that_of_the_machine_with_the_better_part() -> None:
    study = better(quickstart(), 2.0)
    base, twice = (
        run_loaded(load("quickstart", sets=[*SMALL, *more], policy="on_demand")).summary["throughput_tok_s"]
        for more in ([], ["hardware.links.pcie.rate=53 GB/s", "hardware.links.pcie.both=94.4 GB/s"])
    )
    outcomes = {outcome.change.name: outcome for outcome in study.outcomes}
    assert outcomes["pcie rate"].throughput_tok_s == pytest.approx(twice, rel=1e-12)
    assert outcomes["pcie rate"].gain == pytest.approx(twice / base - 1, rel=1e-9)
    assert outcomes["pcie rate"].gain > 0.3  # uploads hold this run back
    assert outcomes["nvme capacity"].gain == 0
    gains = [outcome.gain for outcome in study.outcomes]
    assert gains == sorted(gains, reverse=True)


def test_requests_that_arrive_by_themselves_gain_in_time() -> None:
    scenario = load_data(
        {"hardware": "rtx4090-desktop", "model": "olmoe-1b-7b", "workload": ONLINE, "policy": "static_popularity"}
    )
    study = better(scenario, 2.0)
    assert study.metric == "e2e_s"
    best = study.outcomes[0]
    before = moesim.run(scenario.data).summary["e2e_s"]["mean"]
    assert best.e2e_s == pytest.approx(before / (1 + best.gain), rel=1e-9)


def test_a_machine_that_cannot_run_says_why() -> None:
    study = better(quickstart(), 0.1)
    assert any(reason.startswith("hbm capacity: ") for reason in study.refused)
    assert "not run: hbm capacity" in study.table({})
    assert all(outcome.gain <= 1e-9 for outcome in study.outcomes)


@pytest.mark.parametrize("factor", [1.0, 0.0, -2.0, float("inf"), float("nan")])
def test_a_factor_that_makes_nothing_better_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match=r"--better: .* does not make a part better or worse"):
        better(quickstart(), factor)


def test_the_command_prints_keeps_and_draws_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"
    words = ["run", "quickstart", "--policy", "on_demand", *(word for text in SMALL for word in ("--set", text))]
    assert cli.main([*words, "--better", "2", "--out", str(place), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["better"]
    with (place / "better.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == [part["part"] for part in document["parts"]]
    assert (document["factor"], document["metric"]) == (2.0, "throughput_tok_s")
    assert moesim.report(place)[0].read_text("utf-8").count("One part 2 times as good") == 2
    assert cli.main([*words, "--better", "2", "--out", str(place)]) == 0
    printed = capsys.readouterr().out
    assert "one part 2 x as good" in printed
    assert "2 x as good by itself changes less than 0.5 %: " in printed
