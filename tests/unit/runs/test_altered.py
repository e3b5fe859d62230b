"""A scenario with other values in its machine: judged anew, the first one untouched; and routing that is borrowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.runs.altered import altered, place_of, root_of
from moesim.runs.borrowed import borrowed_note, chosen, lenders
from moesim.scenario import load_data
from moesim.scenario.scenario import LoadedScenario
from moesim.streams import Streams
from tests.served_models import MODEL


def scenario(**routing: Any) -> LoadedScenario:
    workload = {"kind": "offline", "requests": 1, "prompt": 4, "output": 2, "routing": routing or {"kind": "uniform"}}
    return load_data(
        {"name": "small", "hardware": "rtx4090-desktop", "model": MODEL, "policy": "gpu_only", "workload": workload}
    )


def test_values_are_changed_as_written_and_the_scenario_stays() -> None:
    loaded = scenario()
    parts, mistakes = altered(loaded, {"hardware.tiers.hbm.capacity": "10 GB", "hardware.links.pcie.rate": "5 GB/s"})
    assert mistakes == []
    assert parts["hardware"].tiers["hbm"].capacity == 10e9
    assert parts["hardware"].links["pcie"].rate == 5e9
    assert parts["runtime"] == loaded.scenario.runtime
    assert loaded.scenario.hardware.tiers["hbm"].capacity == 24e9  # type: ignore[union-attr]
    assert altered(loaded, {})[0]["hardware"] == loaded.scenario.hardware


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("hardware.tiers.hbm.capacity", "0 B", "a size must be above 0"),
        ("hardware.tiers.hbm.capacity", "10 GB/s", "'GB/s' is not a unit of size"),
    ],
)
def test_values_that_no_machine_can_have_are_reported_where_the_value_was_written(path: str, value: str, message: str) -> None:
    loaded = scenario()
    _, (mistake,) = altered(loaded, {path: value})
    assert message in mistake.message
    assert mistake.path == path
    assert (mistake.file, mistake.line, mistake.column) == place_of(loaded, path)
    assert mistake.file.endswith(".yaml")
    assert mistake.line > 1


def test_the_tree_has_the_names_written_out() -> None:
    node = root_of(scenario()).at(("hardware", "tiers", "hbm", "capacity"))
    assert node is not None
    assert node.value == "24 GB"


def test_a_model_without_routing_of_its_own_borrows_from_several_presets() -> None:
    loaded = scenario(kind="sticky")
    names = lenders(loaded)
    assert len(names) > 1
    routings: list[Any] = [lender.scenario.workload for lender in names.values()]
    assert [workload.routing.preset for workload in routings] == list(names)
    assert all(lender.job_and_table is None and lender.scenario.model == loaded.scenario.model for lender in names.values())
    assert loaded.scenario.workload.routing.preset is None  # type: ignore[union-attr]


@pytest.mark.parametrize("routing", [{"kind": "uniform"}, {"kind": "sticky", "preset": "mixtral-8x7b"}])
def test_routing_that_is_stated_is_not_borrowed(routing: dict[str, Any]) -> None:
    assert lenders(scenario(**routing)) == {}


def test_draws_take_all_presets_alike_and_the_first_of_many_are_those_of_fewer() -> None:
    lent = chosen(4, 400, Streams(3))
    assert chosen(4, 10, Streams(3)).tolist() == lent[:10].tolist()
    counts = np.bincount(lent, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 70  # 100 each, give or take 3 deviations of 8.7
    assert set(chosen(1, 5, Streams(3)).tolist()) == {0}


def test_a_study_names_whom_it_borrows_from() -> None:
    assert borrowed_note(["a", "b"]) == "no routing was fitted to this model: each draw borrows one of a, b"
    assert borrowed_note([]) == ""
