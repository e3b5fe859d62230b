"""No energy without the power of every part, no cost without every price; text, pages and searches say what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim import cli
from moesim.engine.books.energy_and_cost import PRICE_OF_ENERGY
from moesim.errors import InputError
from moesim.experiment.optimum import optimize
from moesim.experiment.plan import plan
from moesim.experiment.sweep import run_sweep
from moesim.report import figures
from moesim.report.page import write_page
from moesim.results.table import run_table
from moesim.runs.run import loaded
from moesim.scenario import catalogue

SMALL: dict[str, Any] = {"workload.requests": 2, "workload.prompt": 16, "workload.output": 4}
POWERS: dict[str, Any] = {
    "hardware.devices.gpu.power_idle": "20 W",
    "hardware.devices.cpu.power_idle": "30 W",
    "hardware.tiers.nvme.energy": "1 nJ/B",
    "hardware.links.nvme_link.energy": "48 pJ/B",
}
LACKING = ["tiers.nvme.energy", "links.nvme_link.energy"]
"""What the quickstart's machine does not say of its powers."""
BASE = {"extends": "quickstart", "workload": {"requests": 2, "prompt": 16, "output": 4}}


def experiment(**changes: Any) -> dict[str, Any]:
    axes = {"hardware.links.pcie.rate": ["16 GB/s", "32 GB/s"]}
    return {"name": "e", "scenario": BASE, "policies": ["lru", "cox_moe"], "axes": axes, **changes}


def powered() -> dict[str, Any]:
    """The scenario on a machine whose powers are all known."""
    machine: dict[str, Any] = {"profile": "rtx4090-desktop"}
    for path, value in POWERS.items():
        _, group, part, key = path.split(".")
        machine.setdefault(group, {}).setdefault(part, {})[key] = value
    return {**BASE, "hardware": machine}


def test_energy_is_idle_and_active_power_and_what_bytes_take() -> None:
    result = moesim.run("quickstart", policy="cox_moe", **SMALL, **POWERS)
    summary, machine = result.summary, loaded("quickstart", **SMALL, **POWERS).scenario.hardware
    busy = {name: summary["utilisation"].get(name, 0.0) * summary["makespan_s"] for name in machine.devices}
    watts = (20 + 30) * summary["makespan_s"] + (450 - 20) * busy["gpu"] + (170 - 30) * busy["cpu"]
    rates = {name: part.energy for name, part in (*machine.tiers.items(), *machine.links.items())}
    sides = ("read", "write", "forward", "reverse")
    moved = {name: value for name, value in summary["bytes"].items() if name.partition(":")[2] in sides}
    joules = watts + sum(value * rates[name.partition(":")[0]] for name, value in moved.items())
    assert busy["cpu"] > 0
    assert summary["energy_J"] == pytest.approx(joules, rel=1e-9)
    assert summary["energy_known"] == 1.0
    assert "J per output token" in run_table(result)


@pytest.mark.parametrize("path", [f"hardware.{path}" for path in LACKING])
def test_one_power_that_is_not_known_leaves_no_energy(path: str) -> None:
    rest = {key: value for key, value in POWERS.items() if key != path}
    result = moesim.run("quickstart", policy="lru", **SMALL, **rest)
    assert result.summary["energy_J"] is None
    assert result.summary["energy_known"] == pytest.approx(6 / 7)  # of two devices, three tiers and two links
    assert result.details["power_unknown"] == [path.removeprefix("hardware.")]
    assert f"energy          not known without {path.removeprefix('hardware.')}" in run_table(result)


def test_a_power_of_zero_is_known() -> None:
    zero = {**POWERS, "hardware.tiers.nvme.energy": "0 J/B", "hardware.devices.gpu.power_idle": "0 W"}
    assert moesim.run("quickstart", policy="lru", **SMALL, **zero).summary["energy_known"] == 1.0


def test_no_shipped_machine_has_an_energy_from_a_part_of_its_powers() -> None:
    whole = 0
    for entry in catalogue.names("hardware"):
        if entry.path is not None and entry.path.parent.name == "systems":
            machine = loaded("quickstart", policy="on_demand", hardware=entry.name).scenario.hardware
            assert (machine.energy_known == 1.0) == (not machine.power_unknown)
            assert 0 < machine.energy_known <= 1 or entry.name == "cxl-expert-abstract", entry.name
            whole += machine.energy_known == 1.0
    assert whole >= 20


def test_cost_counts_electricity_where_the_energy_is_known_and_says_where_not() -> None:
    known, unknown = (moesim.run("quickstart", policy="lru", **SMALL, **powers) for powers in (POWERS, {}))
    more = known.summary["energy_J"] * PRICE_OF_ENERGY / known.summary["output_tokens"] * 1e6
    assert known.summary["cost_usd_per_Mtok"] == pytest.approx(unknown.summary["cost_usd_per_Mtok"] + more, rel=1e-9)
    assert "output tokens, without electricity" in run_table(unknown)
    assert "without electricity" not in run_table(known)


def test_a_machine_with_a_part_of_its_prices_has_no_cost() -> None:
    result = moesim.run("quickstart", policy="lru", hardware="a10-xeon6438y-cxl", **SMALL)
    assert result.summary["cost_usd_per_Mtok"] is None
    assert "cost            not known without devices.gpu.price" in run_table(result)
    priced = moesim.run(
        "quickstart", policy="lru", hardware="a10-xeon6438y-cxl", **SMALL, **{"hardware.devices.gpu.price": "0 USD"}
    )
    assert priced.summary["cost_usd_per_Mtok"] > 0


@pytest.mark.parametrize("search", [plan, lambda source: optimize(source, jobs=1), lambda source: run_sweep(source, jobs=1)])
def test_an_experiment_about_energy_is_refused_with_what_its_machine_lacks(search: Any) -> None:
    with pytest.raises(InputError) as caught:
        search(experiment(metric="energy_J"))
    (mistake,) = caught.value.mistakes
    assert mistake.path == "metric"
    assert mistake.message.startswith(f"'energy_J' of rtx4090-desktop is not known without {', '.join(LACKING)};")


def test_an_experiment_about_energy_runs_where_every_power_is_known() -> None:
    answer = optimize(experiment(scenario=powered(), metric="energy_J"), rounds=0, jobs=1).answer
    assert answer.best.mean > 0
    assert answer.not_weighed == ()
    assert all(point.energy_J_per_tok is not None for point in answer.pareto)


def test_an_experiment_about_cost_names_the_machine_without_prices() -> None:
    axes = {"hardware": ["rtx4090-desktop", "a10-xeon6438y-cxl"]}
    with pytest.raises(InputError, match=r"of a10-xeon6438y-cxl is not known without devices\.gpu\.price"):
        plan(experiment(axes=axes, metric="cost_usd_per_Mtok"))


def test_check_finds_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(json.dumps(experiment(metric="energy_J")), "utf-8")
    assert cli.main(["check", str(path)]) == 1
    assert "metric: 'energy_J' of rtx4090-desktop is not known" in capsys.readouterr().out


def test_a_front_is_not_decided_by_a_measure_that_some_settings_lack() -> None:
    axes = {"hardware": ["rtx4090-desktop", powered()["hardware"]]}
    result = run_sweep(experiment(axes=axes, policies=["lru"]), jobs=1)
    assert result is not None
    assert result.answer.not_weighed == ("energy_J",)
    assert all(point.energy_J_per_tok is None for point in result.answer.pareto)


def test_figures_and_pages_show_no_energy_where_none_is_known(tmp_path: Path) -> None:
    runs = [moesim.run("quickstart", policy=name, **SMALL) for name in ("lru", "cox_moe")]
    assert len(figures.pareto(runs).axes) == 1
    text = write_page(runs[0].save(tmp_path / "run")).read_text("utf-8")
    assert "Energy is not known without tiers.nvme.energy" in text
    assert "J</dd>" not in text
    mixed = figures.pareto([runs[0], moesim.run("quickstart", policy="cox_moe", **SMALL, **POWERS)])
    assert mixed.axes[1].get_xlabel() == "energy (J per token); unknown for 1 of 2"
