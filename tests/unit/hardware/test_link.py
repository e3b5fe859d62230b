"""Links, the seconds of copies over them, and what a lane of one is called."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hardware import Link, System
from moesim.hardware.lane_words import lane_words
from moesim.hardware.paths import Path, distances


def link(first: str, second: str, **more: Any) -> dict[str, Any]:
    return {"ends": [first, second], "rate": 10e9, **more}


def test_a_direction_is_named_by_the_end_that_bytes_leave() -> None:
    wire = Link.model_validate(link("host", "gpu"))
    assert (wire.direction("host"), wire.direction("gpu")) == ("forward", "reverse")
    assert (wire.opposite("host"), wire.opposite("gpu")) == ("gpu", "host")
    assert (wire.backward, Link.model_validate(link("a", "b", reverse=8e9)).backward) == (10e9, 8e9)


def test_a_copy_pays_its_set_up_once_a_piece_and_takes_its_floor_at_least() -> None:
    path = Path("ddr", "hbm", 1e9, 1e-3, None, (), (), None, floor=5e-3)
    assert path.seconds([0.0, 1.0, 4e6, 6e6]).tolist() == pytest.approx([0.0, 5e-3, 5e-3, 7e-3])
    assert path.seconds(6e6, pieces=3).tolist() == pytest.approx(9e-3)


def test_distances_count_links_and_leave_out_what_is_not_joined() -> None:
    links = {name: Link.model_validate(link(*name)) for name in ("ab", "bc", "cd", "ac", "xy")}
    assert distances(links, "a") == {"a": 0, "b": 1, "c": 1, "d": 2}


@pytest.mark.parametrize(("node", "floor"), [("gpu", 9e-6), (None, 0.0)])
def test_the_floor_of_a_way_is_the_highest_of_its_links_and_only_copies_have_one(node: str | None, floor: float) -> None:
    system = machine()
    path = system.path("far", "hbm") if node else system.reach("cpu", "far")
    assert path.floor == floor
    assert path.chunk == 1e6, "the least of the chunks on the way" if node else "of the one link"
    assert path.setup == pytest.approx(3e-6 + 2e-6 if node else 2e-6)


def machine() -> System:
    """A GPU behind PCIe, a pool behind a switch, and a near-data unit; links are drawn either way round."""
    memory = {"capacity": 1e11, "read": 1e11}
    return System.model_validate({
        "devices": {
            "gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": 1e14},
            "cpu": {"kind": "cpu", "at": "host", "kernels": {"avx": {"rate": 1e12}}},
            "ndp_a": {"kind": "ndp", "inside": "far", "compute": 1e12},
            "ndp_b": {"kind": "ndp", "inside": "ddr", "compute": 1e12},
        },
        "tiers": {
            "hbm": {"kind": "hbm", "at": "gpu", **memory}, "ddr": {"kind": "ddr", "at": "host", **memory},
            "far": {"kind": "cxl", "at": "pool", **memory},
        },
        "links": {
            "pcie": link("gpu", "host", setup=3e-6, floor=9e-6, chunk=4e6, serial=True),
            "cxl_a_link": link("host", "pool", setup=2e-6, floor=1e-6, chunk=1e6),
            "cxl0_link": link("pool", "host"),
        },
    })  # fmt: skip


def test_lanes_are_called_after_what_crosses_them_and_which_way() -> None:
    assert lane_words(machine()) == {
        "gpu": "GPU compute",
        "cpu": "CPU compute",
        "ndp_a": "near-data compute (ndp_a)",
        "ndp_b": "near-data compute (ndp_b)",
        "pcie:forward": "PCIe download",
        "pcie:reverse": "PCIe upload",
        "cxl_a_link:forward": "CXL a write",
        "cxl_a_link:reverse": "CXL a read",
        "cxl0_link:forward": "CXL 0 read",
        "cxl0_link:reverse": "CXL 0 write",
    }
