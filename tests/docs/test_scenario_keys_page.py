"""docs/scenario-keys.md is what the specs say, with a word on every key, and knows every key that the shipped files use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml_files
from doc_pages import ROOT, texts
from reporting import for_all
from scenario_keys_page import PAGE, Section, main, page, sections

from moesim.experiment.spec import KINDS
from moesim.plugins import BUILT_IN, find
from moesim.scenario import load
from moesim.scenario.schema import PARTS
from moesim.spec import descriptions

AGAIN = "write it again: python tools/scenario_keys_page.py"
ORIGIN = {"value", "basis", "source", "note", "date", "spread"}
PROFILE = {"profile", "summary", "source", "basis", "note", "date"}


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text("utf-8") == page(), AGAIN
    assert main(["--check"]) == 0
    assert "up to date" in capsys.readouterr().err


def test_it_is_written_where_one_says(tmp_path: Path) -> None:
    assert main([str(tmp_path / "keys.md")]) == 0
    assert (tmp_path / "keys.md").read_text("utf-8") == page()


@cache
def every() -> list[Section]:
    return [section for chapter in sections().values() for section in chapter]


@for_all(every)
def test_every_key_and_every_part_is_described(section: Section) -> None:
    assert section.schema.get("description"), section.title
    silent = [key for key, field in section.keys.items() if not field.get("description")]
    assert not silent, f"{section.title}: say in a docstring what {silent} means"


@for_all(BUILT_IN["policies"])
def test_every_parameter_of_a_policy_is_described(name: str) -> None:
    policy = find("policies", name)
    assert not set(policy.model_fields) - {"kind", *descriptions(policy)}


def test_headings_differ_and_links_lead_to_one() -> None:
    text = page()
    titles = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)
    assert all((ROOT / "docs" / name).is_file() for name in re.findall(r"\]\(([\w-]+\.md)\)", text))


def test_what_is_shown_can_be_laid_over_a_scenario(tmp_path: Path) -> None:
    (shown,) = texts(page(), "yaml")
    (tmp_path / "mine.yaml").write_text(f"extends: quickstart\n{shown}", "utf-8")
    loaded = load(tmp_path / "mine.yaml")
    assert loaded.scenario.hardware.tiers["hbm"].capacity == 24e9
    assert loaded.provenance["hardware.tiers.hbm.capacity"].basis == "assumed"


def test_every_kind_has_a_section() -> None:
    kinds = {kind for section in every() for kind in section.kinds}
    assert kinds >= {*BUILT_IN["hardware"], *BUILT_IN["workload"], *BUILT_IN["routing"], *KINDS}


def _keys() -> dict[str, set[str]]:
    """Pattern of a place -> the keys that the page has there."""
    known: dict[str, set[str]] = {}
    for section in every():
        for place in section.places:
            path = place.path or section.chapter
            known.setdefault(path, {"kind"} if section.kinds else set()).update(section.keys)
    known["Scenario"] |= {*PARTS, "extends"}
    known["model"] |= {"config"}
    return known


def _unknown(value: Any, path: str, known: dict[str, set[str]], free: set[str]) -> Iterator[str]:
    """Keys of a file that the page does not have; `free`: places below which names are one's own."""
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item, f"{path}.*", known, free)
    if not isinstance(value, dict) or ("value" in value and set(value) <= ORIGIN):
        return
    for key, inner in value.items():
        below = "*" if path in free else key
        if (
            path in known
            and path not in free
            and key not in known[path] | (PROFILE if path.startswith(("hardware", "runtime")) else set())
        ):
            yield f"{path}: {key}"
        yield from _unknown(inner, f"{path}.{below}" if path not in ("Scenario", "Experiment") else below, known, free)


def _files() -> list[Path]:
    return sorted([*(ROOT / "scenarios").rglob("*.yaml"), *(ROOT / "hardware_profiles").rglob("*.yaml")])


PLACES = {"gpus": "devices.*", "cpus": "devices.*", "ndp": "devices.*", "memory": "tiers.*", "links": "links.*"}
"""Folder of profiles -> where in a machine they stand."""


def test_shipped_files_use_no_key_that_the_page_does_not_have() -> None:
    known = _keys()
    free = {path.removesuffix(".*") for path in known if path.endswith(".*")} - {"faults"}
    used = 0
    for file in _files():
        data = yaml_files.read(file)
        folder = file.parent.name
        start = "Experiment" if folder == "experiments" else "Scenario"
        if "hardware_profiles" in file.parts:
            start = ".".join(["hardware", PLACES[folder]]) if folder in PLACES else "hardware"
        if folder == "runtimes":
            start = "runtime"
        assert not list(_unknown(data, start, known, free)), file
        used += 1
    assert used > 150


def test_an_unknown_key_would_be_found() -> None:
    known = _keys()
    free = {path.removesuffix(".*") for path in known if path.endswith(".*")} - {"faults"}
    data = {"hardware": {"tiers": {"hbm": {"capcity": "1 GB", "capacity": {"value": "1 GB"}}}}, "workload": {"promt": 1}}
    assert list(_unknown(data, "Scenario", known, free)) == ["hardware.tiers.*: capcity", "workload: promt"]
