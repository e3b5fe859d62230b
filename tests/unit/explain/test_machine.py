"""What a machine comes to beside the desktop of the other tests: devices behind one switch, a GPU alone, times from a table."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.explain.machine import break_even, cxl, engines, rooflines, times, uploads
from moesim.explain.rows import Section
from moesim.hardware import System
from tests.policy_problems import GB, problem, system


def values(section: Section) -> dict[str, Any]:
    return {row.name: row.value for row in section.rows}


def behind_a_switch(link: float) -> System:
    """Two CXL devices of 15 GB/s whose switch has one link of so many B/s to the host."""
    gpu = {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 200e12}
    device = {"kind": "cxl", "capacity": GB, "read": 15e9}
    return System(
        devices={"gpu": gpu, "cpu": {"kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"amx": {"rate": 20e12}}}},
        tiers={
            "hbm": {"kind": "hbm", "at": "gpu", "capacity": GB, "read": 2e12},
            "ddr": {"kind": "ddr", "at": "host", "capacity": GB, "read": 250e9},
            "a": {**device, "at": "a"},
            "b": {**device, "at": "b"},
        },
        links={
            "pcie": {"ends": ["host", "gpu"], "rate": 25e9},
            "switch": {"ends": ["host", "switch"], "rate": link},
            "to_a": {"ends": ["switch", "a"], "rate": 64e9},
            "to_b": {"ends": ["switch", "b"], "rate": 64e9},
        },
    )


@pytest.mark.parametrize(("link", "together", "fast"), [(64e9, 30e9, "yes"), (20e9, 20e9, "no")])
def test_devices_that_share_a_link_feed_the_gpu_no_faster_than_it(link: float, together: float, fast: str) -> None:
    section = cxl(problem(behind_a_switch(link)).costs)
    assert values(section) == {
        "a alone": 15e9,
        "b alone": 15e9,
        "all devices together": pytest.approx(together, rel=1e-12),
        "transparent to GPU streaming": fast,
    }
    assert section.note.startswith("Alone, a, b cannot fill the GPU's link")


def test_a_gpu_alone_has_nothing_to_break_even_with() -> None:
    costs = problem(system(cpu=False)).costs
    assert [(engine.device, engine.tier) for engine in engines(costs)] == [("gpu", "hbm")]
    assert (break_even(costs).rows, break_even(costs).note) == ((), "No device computes experts beside the GPU.")


def test_units_in_memory_compute_where_they_are_and_the_cpu_everywhere_in_the_host() -> None:
    costs = problem(system(cxl={"near": (GB, 22e9)}, ndp=True)).costs
    assert [(engine.device, engine.tier) for engine in engines(costs)] == [
        ("gpu", "hbm"), ("cpu", "ddr"), ("cpu", "near"), ("ndp_near", "near"),
    ]  # fmt: skip
    assert {name.partition(":")[0] for name in values(break_even(costs))} == {
        "cpu from ddr", "cpu from near", "ndp_near from near",
    }  # fmt: skip


def test_a_device_with_a_time_per_token_has_a_rate_alone() -> None:
    """1 ms a token, whatever it reads."""
    machine = system()
    raw = machine.model_dump(mode="json")
    raw["devices"]["cpu"]["experts"] = {"kind": "per_token", "time": 1e-3}
    costs = problem(System.model_validate(raw)).costs
    rows = {name: value for name, value in values(rooflines(costs)).items() if name.startswith("cpu")}
    assert rows == {"cpu, weights in ddr: rate": pytest.approx(costs.model.expert_flops / 1e-3, rel=1e-9)}
    (law,) = {row.formula for row in times(costs).rows if row.name.startswith("cpu")}
    assert law == "c t"


def test_an_upload_names_the_narrowest_part_of_its_way() -> None:
    costs = problem(system(cxl={"near": (GB, 22e9)}, far={"ssd": GB})).costs
    limits = {row.name: row.formula.rpartition(" by ")[2] for row in uploads(costs).rows}
    assert limits == {"from ddr": "pcie:forward", "from near": "near:read", "from ssd": "ssd:read"}
