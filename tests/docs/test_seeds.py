"""docs/seeds.md: each claim of the seed papers names something that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moesim.scenario import catalogue
from moesim.validation.registry import CASES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "seeds.md").read_text("utf-8")
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in PAGE.splitlines() if re.match(r"\| \d", line)]


def test_both_papers_are_gone_through_in_the_order_of_their_sections() -> None:
    for paper, least in (("CXL-Expert", 15), ("MoE-CXL", 20)):
        part = PAGE.split(f"## {paper}\n")[1].split("\n## ")[0]
        sections = [float(number) for number in re.findall(r"^\| (\d(?:\.\d)?) \|", part, re.MULTILINE)]
        assert len(sections) >= least
        assert sections == sorted(sections)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:40])
def test_a_claim_is_covered_by_what_ships_or_by_a_sentence(row: tuple[str, ...]) -> None:
    section, claim, covered, outcome = row
    assert section
    assert claim
    assert len(outcome) > 20
    kind, _, name = covered.partition(" ")
    known = {
        "case": set(CASES),
        "scenario": {entry.name for entry in catalogue.names("scenarios")},
        "experiment": {entry.name for entry in catalogue.names("experiments")},
    }
    assert covered == "sentence" or name.strip("`") in known[kind]
