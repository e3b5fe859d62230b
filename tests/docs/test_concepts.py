"""docs/concepts.md explains every field and every table of a result, with the units that their names carry."""

from __future__ import annotations

import re
from typing import Any

import doc_pages
import pytest
from reporting import for_all

import moesim
from moesim.contract import Pipeline
from moesim.plugins import BUILT_IN
from moesim.results.columns import TABLES
from moesim.results.result import FIELDS

PAGE = doc_pages.read("docs/concepts.md")
UNITS = {
    "_tok_s": "tok/s",
    "_s": "s",
    "_J": "J",
    "_tokens": "tokens",
    "bytes": "B",
    "hit_rate": "share",
    "share_of_bound": "share",
}
"""End of a field's name -> its unit; the first that fits counts."""


def _rows(head: str) -> dict[str, list[str]]:
    table = PAGE.split(f"| {head} |")[1].split("\n\n")[0]
    cells = [re.split(r"\s*\|\s*", line.strip())[1:-1] for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.fixture(scope="module")
def lossy() -> dict[str, Any]:
    """A run that has something to say in every field."""
    small = {"workload.requests": 2, "workload.prompt": 8, "workload.output": 4}
    idle = {f"hardware.devices.{name}.power_idle": "20 W" for name in ("gpu", "cpu")}
    ssd = {"hardware.tiers.nvme.energy": "1 nJ/B", "hardware.links.nvme_link.energy": "48 pJ/B"}
    summary: dict[str, Any] = moesim.run("quickstart", policy="promoe", **small, **idle, **ssd).summary
    return summary


def test_every_field_in_its_order() -> None:
    assert tuple(_rows("field")) == FIELDS


@for_all(FIELDS)
def test_units_are_those_of_the_names(field: str) -> None:
    unit = next((unit for end, unit in UNITS.items() if field.endswith(end)), None)
    if unit is not None and field != "expert_tokens":  # which counts pairs
        assert _rows("field")[field][0].strip() == unit


def test_parts_of_a_field_are_named(lossy: dict[str, Any]) -> None:
    for field in ("ttft_s", "tpot_s", "e2e_s", "bottleneck", "quality", "prefetch"):
        parts = set(re.findall(r"`(\w+)`", _rows("field")[field][1]))
        assert parts == set(lossy[field]), field


def test_null_is_mentioned_where_it_is_possible(lossy: dict[str, Any]) -> None:
    nullable = {field for field, row in _rows("field").items() if "null" in row[-1]}
    phases = {"prefill_tok_s", "decode_tok_s", "decode_hit_rate"}
    serving = {"queue_s", "itl_s", "slo", "preemptions"}
    assert nullable == {
        "energy_J",
        "cost_usd_per_Mtok",
        "machine_usd",
        "prefetch",
        "bound_tok_s",
        "proven_gap",
        *phases,
        *serving,
    }
    assert all(lossy[field] is not None for field in nullable - serving - {"proven_gap"})


def test_every_table_in_its_order() -> None:
    assert tuple(_rows("table")) == TABLES


def test_pipelines_routings_and_bounds_are_all_named() -> None:
    words = set(re.findall(r"`([\w]+)`", PAGE))
    assert words >= {kind.__name__.lower() for kind in Pipeline.__args__}  # type: ignore[attr-defined]
    assert words >= {*BUILT_IN["routing"], *BUILT_IN["workload"]}
    clairvoyant = {name for name in BUILT_IN["policies"] if moesim.plugins.find("policies", name).clairvoyant}
    assert words >= clairvoyant - {"belady_global"}
