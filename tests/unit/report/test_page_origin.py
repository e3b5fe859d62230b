"""The end of a page: how many values have which origin, the scenario in full, and the command that repeats it."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.report.page_origin import origin_parts

SCENARIO: dict[str, Any] = {
    "name": "small", "summary": "a <small> one", "source": "", "seed": 3,
    "hardware": {"name": "desktop", "devices": {"gpu": {"kind": "gpu", "peak": "80 TFLOPS", "curve": [1, 2]}},
                 "tiers": {"ddr": {"capacity": "64 GB", "rate": "40 GB/s"}}},
    "runtime": {"launch": "5 us"}, "compare": ["lru", "lfu"],
}  # fmt: skip
ORIGINS = [
    {"basis": "measured", "source": "own run", "note": "",
     "paths": ["hardware.devices.gpu.peak", "hardware.devices.gpu.curve.0"]},
    {"basis": "guess", "source": "", "note": "by eye", "paths": ["runtime.launch"]},
    {"basis": "datasheet", "source": "vendor", "note": "page 3", "paths": ["hardware.tiers.ddr.capacity"]},
]  # fmt: skip


def parts(provenance: dict[str, Any]) -> dict[str, str]:
    """Name of a section -> what stands in it."""
    return {part.name: part.content for part in origin_parts(provenance, "moesim run it", "What was run")}


def test_there_are_three_sections_under_their_headings() -> None:
    headings = [(part.name, part.heading) for part in origin_parts({}, "", "What was run")]
    assert headings == [("origins", "Measured and assumed"), ("scenario", "What was run"), ("provenance", "Provenance")]


def test_values_are_counted_by_their_basis_the_surest_first() -> None:
    page = parts({"scenario": SCENARIO, "origins": ORIGINS})["origins"]
    counts = "2 measured, 1 from a data sheet, 1 without a stated source, 1 guess"
    assert f"Of the 5 values of the machine: {counts}." in page
    for cells in (
        ("devices.gpu.peak", "80 TFLOPS", "measured", "own run"),
        ("devices.gpu.curve", "[1, 2]", "measured", "own run"),
        ("tiers.ddr.capacity", "64 GB", "from a data sheet", "vendor; page 3"),
        ("runtime.launch", "5 us", "guess", "by eye"),
    ):
        assert "".join(f'<td class="s">{cell}</td>' for cell in cells) in page
    assert "40 GB/s" not in page  # nothing is known of it


@pytest.mark.parametrize(
    ("provenance", "text"),
    [
        ({"scenario": SCENARIO}, "<p>The values of this machine have origins that were not kept here.</p>"),
        ({"scenario": SCENARIO, "origins": []}, "<p>The values of this machine do not say where they come from.</p>"),
        ({"scenario": {"seed": 1}, "origins": []}, ""),
        ({}, ""),
        ({"scenario": "text"}, ""),
    ],
)
def test_without_origins_the_page_says_why(provenance: dict[str, Any], text: str) -> None:
    assert parts(provenance)["origins"] == text


def test_the_scenario_stands_part_by_part_with_its_texts_first() -> None:
    page = parts({"scenario": SCENARIO})["scenario"]
    assert page.startswith("<p><strong>summary: </strong>a &lt;small&gt; one</p><p><strong>name: </strong>small</p>")
    assert "source" not in page  # it says nothing
    assert "<p><strong>seed: </strong>3</p>" in page
    assert "<summary>hardware: desktop</summary>" in page
    assert "<summary>compare</summary><pre>[\n  &quot;lru&quot;,\n  &quot;lfu&quot;\n]</pre>" in page
    assert parts({})["scenario"] == ""


WHOLE: dict[str, Any] = {
    "content_hash": "sha256:1", "seed": 3, "replicate": 1, "command": ["moesim", "run", "a b"],
    "versions": {"moesim": "1", "scipy": None}, "platform": "Linux x86_64", "git_commit": "abc+changes",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "item", "value"),
    [
        ({}, "scenario", "sha256:1"),
        ({"experiment": {}}, "experiment", "sha256:1"),
        ({}, "seed, replicate", "3, 1"),
        ({}, "command", "moesim run &#x27;a b&#x27;"),
        ({"command": None}, "command", "none: called from Python"),
        ({}, "versions", "moesim 1"),
        ({}, "platform", "Linux x86_64"),
        ({}, "commit", "abc, with changes"),
        ({"git_commit": None}, "commit", "not run from a checkout"),
    ],
)
def test_provenance_is_a_table(changes: dict[str, Any], item: str, value: str) -> None:
    assert f'<td class="s">{item}</td><td class="s">{value}</td>' in parts({**WHOLE, **changes})["provenance"]


def test_a_page_without_a_hash_has_the_command_alone() -> None:
    assert parts({"seed": 3})["provenance"] == "<p>Reproduce with: <code>moesim run it</code></p>"
    without = {name: value for name, value in WHOLE.items() if name not in ("seed", "command")}
    page = parts(without)["provenance"]
    assert "seed" not in page
    assert ">command<" not in page
    assert page.endswith("<p>Reproduce with: <code>moesim run it</code></p>")
