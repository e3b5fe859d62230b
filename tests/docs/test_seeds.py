"""docs/seeds.md: each claim of the seed papers names something that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reporting import for_all

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


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """What a claim may name, by its kind."""
    shipped = {kind[:-1]: {entry.name for entry in catalogue.names(kind)} for kind in ("scenarios", "experiments")}
    return {"case": set(CASES), **shipped}


@for_all(ROWS)
def test_a_claim_is_covered_by_what_ships_or_by_a_sentence(row: tuple[str, ...], known: dict[str, set[str]]) -> None:
    section, claim, covered, outcome = row
    assert section
    assert claim
    assert len(outcome) > 20
    kind, _, name = covered.partition(" ")
    assert covered == "sentence" or name.strip("`") in known[kind]
