"""The comparisons that ship, made small: the field runs on them, and comes out in the order that arithmetic gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.results.compare import compare
from moesim.runs.run import compare_loaded
from moesim.scenario import load

FOLDER = Path(__file__).resolve().parents[2] / "scenarios" / "compare"
SMALL = {"workload.requests": 8, "workload.prompt": 32, "workload.output": 3}
PAIRS = {
    "offline-qwen3-30b": ("static_popularity", "zero_infinity"),
    "offline-mixtral-8x7b": ("ktransformers", "static_popularity"),
    "offline-deepseek-v2-lite": ("fiddler", "zero_inference"),
    "offline-near-data": ("cxl_ndp", "rmai"),
    "offline-dimm-near-data": ("ktransformers", "static_popularity"),
}
"""Scenario -> (faster, slower): whoever keeps experts or reads them where they lie leads whoever moves all of them."""


@pytest.mark.parametrize("name", PAIRS)
def test_two_policies_come_out_as_they_must(name: str) -> None:
    results, refused = compare_loaded(load(FOLDER / f"{name}.yaml", sets=SMALL), list(PAIRS[name]))
    assert not refused
    ranked = compare(results)["results"]
    assert tuple(row["policy"] for row in ranked) == PAIRS[name]
    assert all(0 < row["share_of_bound"] <= 1 for row in ranked)


def test_three_kinds_of_device_decode_sooner_than_any_two() -> None:
    names = ["trimoe", "ktransformers", "monde", "static_popularity"]
    results, refused = compare_loaded(load(FOLDER / "offline-dimm-near-data.yaml", sets=SMALL), names)
    assert not refused
    first, *slower = (result.summary["tpot_s"]["mean"] for result in results)
    assert first < min(slower)


def test_every_shipped_comparison_is_tried_and_says_what_to_expect() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PAIRS)
    expectations = [load(FOLDER / f"{name}.yaml").scenario.expect for name in PAIRS]
    assert all(expectations)
    assert len(set(expectations)) == len(expectations)


def test_a_policy_that_lacks_a_device_is_refused_with_the_reason() -> None:
    results, refused = compare_loaded(load(FOLDER / "offline-qwen3-30b.yaml", sets=SMALL), ["on_demand", "monde", "rmai"])
    assert [result.summary["policy"] for result in results] == ["on_demand"]
    assert "near-data unit" in refused["monde"]
    assert "remote" in refused["rmai"]
