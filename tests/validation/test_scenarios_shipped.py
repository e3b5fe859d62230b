"""The scenarios that ship: all can be checked and explained, small ones run and come out as they say, to hand arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reporting import for_all

from moesim.explain.explain import explain
from moesim.results.result import Result
from moesim.runs.run import compare_loaded, run
from moesim.scenario import LoadedScenario, check, load

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
ALL = sorted(file for file in SCENARIOS.rglob("*.yaml") if "experiments" not in file.parts)
OWN = ["quickstart", "cox_moe/qwen3-30b", "cox_moe/mixtral-8x7b", "cox_moe/deepseek-v2-lite", "moe_cxl/mixtral-8x7b"]
OWN += [
    "moe_cxl/qwen3-235b",
    "plugin/my-policy",
    "moe_lightning/mixtral-8x7b-t4",
    "moe_gen/mixtral-8x7b-a5000",
    "lia/opt-30b-cxl",
]
OWN += [
    f"moe_cxl/{name}" for name in ("switch-base-128", "custom-32-top-4", "long-context", "device-failure", "placement-shares")
]
BLIND: dict[str, Any] = {"workload.profile": {"kind": "uniform"}}
"""Spares the draws of a profile where only sizes matter."""


def ranking(results: list[Result]) -> list[str]:
    best = sorted(results, key=lambda result: -result.summary["throughput_tok_s"])
    return [result.summary["policy"] for result in best]


def of(policy: str, results: list[Result]) -> Result:
    return next(result for result in results if result.summary["policy"] == policy)


def compared(name: str, policies: list[str], **overrides: Any) -> list[Result]:
    return compare_loaded(load(SCENARIOS / f"{name}.yaml", sets=overrides), policies)[0]


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.relative_to(SCENARIOS).with_suffix("").as_posix())
def test_scenarios_have_no_mistake_but_a_record_that_is_not_there(file: Path) -> None:
    errors = check([str(file)])["files"][0]["errors"]
    records = (["routing.path"], ["arrivals.path"], ["arrivals.clients", "arrivals.lengths"])
    assert [error["path"].removeprefix("workload.") for error in errors] in ([], *records)


@for_all(OWN)
def test_scenarios_say_what_they_are_and_what_to_expect(name: str) -> None:
    scenario = load(SCENARIOS / f"{name}.yaml").scenario
    assert scenario.name == name
    assert min(len(scenario.summary), len(scenario.source)) > 20
    assert len(scenario.expect) > 60


@pytest.mark.parametrize("name", ["quickstart", "moe_cxl/mixtral-8x7b", "moe_cxl/qwen3-235b", "plugin/my-policy"])
def test_scenarios_are_explained_before_they_run(name: str) -> None:
    whole = explain(load(SCENARIOS / f"{name}.yaml", sets=BLIND))
    left = [float(row.value) for row in whole.section("What fits where").rows if row.name.endswith("left over")]
    assert len(left) >= 2
    assert min(left) >= 0


def test_the_larger_model_needs_its_cxl_memory() -> None:
    whole = load(SCENARIOS / "moe_cxl/qwen3-235b.yaml").scenario
    room = sum(whole.hardware.capacity(tier) for tier in ("hbm", "ddr"))
    assert whole.model.all_expert_bytes + whole.model.non_expert_bytes > room


@pytest.fixture(scope="module")
def quick() -> LoadedScenario:
    """The quickstart with a quarter of its output."""
    return load(SCENARIOS / "quickstart.yaml", sets={"workload.output": 16})


@pytest.fixture(scope="module")
def quick_results(quick: LoadedScenario) -> list[Result]:
    return compare_loaded(quick, ["on_demand", "static_popularity", "lru", "cox_moe"])[0]


def test_the_quickstart_ranks_as_it_says(quick_results: list[Result]) -> None:
    assert ranking(quick_results) == ["cox_moe", "lru", "static_popularity", "on_demand"]


def test_the_quickstart_is_bound_by_pcie_to_hand_arithmetic(quick_results: list[Result]) -> None:
    """On demand, every byte crosses PCIe at 26.5 GB/s and every copy costs 17 us more; the rest is the GPU between copies."""
    result = of("on_demand", quick_results)
    moved = result.summary["bytes"]["pcie:forward"]
    copies = moved / (3 * 2048 * 768 * 2)
    assert copies == pytest.approx(round(copies))
    floor = moved / 26.5e9 + copies * 17e-6
    assert floor <= result.summary["makespan_s"] < 1.05 * floor


def test_uploads_stay_below_the_ceiling_that_explain_gives(quick: LoadedScenario, quick_results: list[Result]) -> None:
    row = explain(quick).section("Ceilings of decode throughput").row("uploads, nothing in GPU memory")
    simulated = 4 / of("on_demand", quick_results).summary["tpot_s"]["mean"]
    assert 0.85 * float(row.value) < simulated < 1.02 * float(row.value)


def test_a_policy_beside_the_scenario_beats_what_it_is_made_of() -> None:
    shorter = {"workload.output": 8, **BLIND}
    results = compared("plugin/my-policy", ["my_policy:MyPolicy", "static_popularity", "cox_moe"], **shorter)
    assert ranking(results) == ["cox_moe", "my_policy:MyPolicy", "static_popularity"]
    mine = of("my_policy:MyPolicy", results).summary
    assert mine["expert_tokens"]["cpu"] > 0
    assert mine["share_of_bound"] <= 1


def test_a_plugin_takes_its_parameters_from_the_scenario() -> None:
    never = run(SCENARIOS / "plugin/my-policy.yaml", **{"policy.margin": 1e-9, "workload.output": 4, **BLIND})
    assert never.summary["expert_tokens"].get("cpu", 0) == 0


def test_cxl_memory_costs_uploads_nothing_while_it_outruns_pcie() -> None:
    """The fastest device (52 GB/s) feeds the GPU as DRAM does; one of 18 GB/s instead takes 24.8 / 18 times as long."""
    name, smaller = "moe_cxl/mixtral-8x7b", {"workload.requests": 2, "workload.prompt": 32, "workload.output": 4, **BLIND}
    large = {"hardware.tiers.ddr.capacity": "512 GB"}
    tiers = {f"hardware.tiers.cxl_{letter}.capacity": "1 GB" for letter in "abd"}
    slow = {"hardware.tiers.ddr.capacity": "1 GB", "hardware.tiers.cxl_c.capacity": "256 GB", **tiers}
    times = [compared(name, ["on_demand"], **smaller, **change)[0].summary["makespan_s"] for change in (large, {}, slow)]
    assert times[1] == pytest.approx(times[0], rel=1e-3)
    assert times[2] / times[0] == pytest.approx(24.8 / 18, rel=0.02)


def test_large_batches_rank_co_execution_over_caching_over_streaming() -> None:
    """Shortened: the order of the whole scenario at an eighth of its batch and a tenth of its lengths."""
    shorter = {"workload.requests": 64, "workload.prompt": 64, "workload.output": 8, **BLIND}
    results = compared("cox_moe/mixtral-8x7b", ["on_demand", "static_popularity", "cox_moe", "cxl_expert_gpu_only"], **shorter)
    assert ranking(results) == ["cox_moe", "static_popularity", "on_demand", "cxl_expert_gpu_only"]
