"""docs/reproducing.md has every case, experiment and scenario; its numbers are those of docs/validation.md and of the files.

docs/validation.md is what the program writes, which its own test holds it to.
"""

from __future__ import annotations

import re
from functools import lru_cache

import doc_pages
import pytest
from reporting import for_all

from moesim.experiment.plan import read
from moesim.scenario import catalogue
from moesim.validation import registry

PAGE = doc_pages.read("docs/reproducing.md")
VALIDATION = doc_pages.read("docs/validation.md")
SECONDS = re.compile(r"(\d+) (s|min)")


def _case_rows() -> dict[str, list[list[str]]]:
    """Case -> its rows on the page: (about, number, published, simulated, tolerance, verdict)."""
    tables: dict[str, list[list[str]]] = {}
    case = ""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 8 or cells[0].startswith("---") or cells[0] == "what":
            continue
        named = re.fullmatch(r"`moesim reproduce ([\w-]+)`", cells[1])
        case = named.group(1) if named else case
        tables.setdefault(case, []).append(cells[2:])
    return tables


ROWS = _case_rows()


@lru_cache(maxsize=64)
def _validated(case: str) -> tuple[str, dict[str, list[str]]]:
    """Verdict and rows (published, simulated, error, tolerance) of a case, as validation.md has them."""
    parts = re.split(r"^## ", VALIDATION, flags=re.MULTILINE)
    text = next((part for part in parts if part.startswith(f"{case}\n")), "")
    if not text:
        pytest.skip("not on docs/validation.md yet, which that page's own test tells")
    verdict = re.search(r"\*\*(\w+)\*\*", text)
    assert verdict is not None
    cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| "))
    return verdict.group(1), {row[0]: row[1:] for row in cells if len(row) == 6}


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def test_every_case_has_a_row_and_only_cases_to_come_are_not_there_yet() -> None:
    assert set(ROWS) >= set(registry.ids())
    assert set(ROWS) - set(registry.ids()) == doc_pages.pending()
    assert not doc_pages.pending() & set(registry.ids()), "fill in the numbers: moesim reproduce says them"


@for_all([case for case in ROWS if case not in doc_pages.pending()])
def test_the_numbers_are_those_of_the_case(case: str) -> None:
    verdict, rows = _validated(case)
    assert ROWS[case][0][-1] == verdict
    assert [row[-1] for row in ROWS[case][1:]] == [""] * (len(ROWS[case]) - 1)
    for _, name, published, simulated, tolerance, _ in ROWS[case]:
        assert name in rows, f"{case} has no row '{name}'"
        assert (published, tolerance) == (rows[name][0], rows[name][3]), name
        assert _number(simulated) == pytest.approx(_number(rows[name][1]), rel=0.01, abs=1e-12), name


@for_all([case for case in ROWS if case not in doc_pages.pending()])
def test_it_says_about_how_long_each_case_takes(case: str) -> None:
    assert SECONDS.fullmatch(ROWS[case][0][0])


@for_all(lambda: [entry.name for entry in catalogue.names("experiments")])
def test_every_experiment_is_listed_with_the_result_that_its_file_expects(name: str) -> None:
    root, _, _ = read(name)
    expect = root.child("expect")
    assert expect is not None
    words = str(expect.value).split()
    if len(words) < 5:
        pytest.skip("the file does not say yet what to expect")
    described = re.search(rf"^\* (?:[^`]*: )?`moesim sweep {name}` \(([^)]*)\): (.*)$", PAGE, re.MULTILINE)
    right = f"say in docs/reproducing.md, with the time it takes: * `moesim sweep {name}` (N s): {' '.join(words)}"
    assert described is not None, right
    assert SECONDS.fullmatch(described.group(1)), right
    assert described.group(2).split() == words, right


def test_every_scenario_of_a_paper_is_run_or_varied() -> None:
    names = {entry.name for entry in catalogue.names("scenarios")} - {"quickstart", "plugin/my-policy"}
    used = {words[2] for words in doc_pages.shown(PAGE) if len(words) > 2 and words[1] in ("run", "compare", "explain")}
    for entry in catalogue.names("experiments"):
        scenario = read(entry.name)[0].child("scenario")
        base = scenario.child("extends") if scenario is not None and isinstance(scenario.value, dict) else scenario
        used |= {str(base.value)} if base is not None else set()
    assert names - used == {"real/deepseek-v2-lite-foreign", "real/gpt-oss-20b-trace"}  # as their like, says the page
    assert all(f"`{name}`" in PAGE for name in names - used)
