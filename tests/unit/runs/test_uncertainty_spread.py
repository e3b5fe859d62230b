"""`spread: [low, high]` beside an annotated value: what may be written, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.errors import Mistake
from moesim.scenario import annotated, json_schema
from moesim.scenario.tree import from_plain
from moesim.units import split


def strip(value: object, spread: object) -> tuple[object, list[Mistake]]:
    mistakes: list[Mistake] = []
    root = annotated.strip(from_plain({"rate": {"value": value, "spread": spread, "basis": "measured"}}), mistakes)
    return annotated.spreads(root).get("rate"), mistakes


def test_a_spread_stays_with_its_value() -> None:
    assert strip("26.5 GB/s", ["24.8 GB/s", "28.3 GB/s"]) == ((24.8, 26.5, 28.3, "GB/s"), [])
    assert strip(1.5, [1, 2]) == ((1, 1.5, 2, ""), [])
    assert strip("75 %", ["70 %", "80%"]) == ((70, 75, 80, "%"), [])


def test_the_value_itself_is_as_without() -> None:
    root = annotated.strip(from_plain({"rate": {"value": "1 us", "spread": ["1 us", "2 us"]}}), [])
    assert root.plain() == {"rate": "1 us"}
    assert annotated.spreads(root)["rate"].as_written(1.25) == "1.25 us"


@pytest.mark.parametrize(
    ("value", "spread", "wrong"),
    [
        ("26 GB/s", "5 %", "the lowest and the highest value"),
        ("26 GB/s", ["20 GB/s"], "the lowest and the highest value"),
        ("26 GB/s", [20, "30 GB/s"], "'20' has no unit; write it in that of the value, '26 GB/s'"),
        ("26 GB/s", ["20 GB/s", "30 GiB/s"], "'30 GiB/s' is not in the unit of the value, '26 GB/s'"),
        ("26 GB/s", ["fast", "30 GB/s"], "'fast' is not a finite number with a unit"),
        ("26 GB/s", ["27 GB/s", "30 GB/s"], "the value 26 GB/s lies outside its own spread"),
        ("26 GB/s", ["28 GB/s", "24 GB/s"], "the value 26 GB/s lies outside its own spread"),
        ("eager", ["1", "2"], "'eager' is not a finite number with a unit, so it can have no spread"),
        (".inf", [1, 2], "is not a finite number"),
        (True, [0, 1], "is not a finite number"),
    ],
)
def test_mistakes(value: object, spread: object, wrong: str) -> None:
    stripped, mistakes = strip(value, spread)
    assert stripped is None
    assert [mistake.path for mistake in mistakes] == ["rate.spread"]
    assert wrong in mistakes[0].message


def test_a_mistake_has_its_place(tmp_path: Path) -> None:
    from moesim.scenario import check

    text = "extends: quickstart\nhardware:\n  links:\n    pcie:\n      rate: {value: 26 GB/s, spread: [24 GB/s, 28]}\n"
    (tmp_path / "s.yaml").write_text(text, "utf-8")
    (error,) = check([tmp_path / "s.yaml"])["files"][0]["errors"]
    assert (error["line"], error["column"], error["path"]) == (5, 48, "hardware.links.pcie.rate.spread")


def test_split() -> None:
    assert split("1_000 ns") == (1000, "ns")
    assert split("2e3us") == (2000, "us")
    assert split("GB/s") is None
    assert split(float("nan")) is None


def test_editors_know_spreads_of_amounts_only() -> None:
    definitions = json_schema()["definitions"]
    rate = definitions["Link"]["properties"]["rate"]["anyOf"]
    assert rate[1]["properties"]["spread"]["items"] == rate[0]
    at = definitions["Memory"]["properties"]["at"]["anyOf"]
    assert "spread" not in at[1]["properties"]
