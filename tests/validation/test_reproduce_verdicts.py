"""Cases: what passes, what excuses a miss, how results are shown and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.validation import Case, CaseResult, Explanation, Findings, Row, exit_status, registry, to_json, to_text
from moesim.validation import reproduce as reproduce_cases
from moesim.validation.case import Exhibit, judge
from moesim.validation.reproduce import run_case

GOOD, BAD = Row("good", 100.0, 104.0, 0.05), Row("bad", 100.0, 106.0, 0.05)


def case(findings: Findings) -> Case:
    return Case(id="a-case", kind="simulated", summary="what it is", source="a paper", runner=lambda: findings)


def result(*rows: Row, explanations: tuple[Explanation, ...] = ()) -> CaseResult:
    return run_case(case(Findings(rows, explanations, ("1 + 1 = 2",))))


def test_error_is_relative_to_what_was_published() -> None:
    assert GOOD.error == pytest.approx(0.04)
    assert Row("fewer", 200.0, 150.0, 0.3).error == pytest.approx(-0.25)
    assert Row("none", 0.0, 0.5, 0.1).error == 0.5


def test_tolerance_belongs_to_the_band() -> None:
    assert Row("edge", 100.0, 105.0, 0.05).within
    assert not BAD.within
    assert not Row("not a number", 100.0, float("nan"), 10.0).within


def test_rows_within_pass_and_one_outside_fails() -> None:
    assert result(GOOD).verdict == "pass"
    assert result(GOOD, BAD).verdict == "fail"


def test_a_case_that_shows_nothing_fails() -> None:
    assert judge(Findings(())) == "fail"


@pytest.mark.parametrize(("derived", "verdict"), [(106.0, "explained"), (105.0, "explained"), (104.5, "fail"), (100.0, "fail")])
def test_only_a_derivation_of_the_simulated_number_explains(derived: float, verdict: str) -> None:
    assert result(GOOD, BAD, explanations=(Explanation("bad", derived, "because"),)).verdict == verdict


def test_an_explanation_covers_its_own_row_only() -> None:
    assert result(GOOD, BAD, explanations=(Explanation("good", 106.0, "because"),)).verdict == "fail"


def test_exit_status_is_one_for_a_failure_only() -> None:
    explained = result(BAD, explanations=(Explanation("bad", 106.0, "because"),))
    assert [exit_status([result(GOOD)]), exit_status([explained]), exit_status([result(GOOD), result(BAD)])] == [0, 0, 1]


def test_json_has_the_public_form() -> None:
    document = to_json([result(Row("x", 2.0, 3.0, 0.1, fitted=True), explanations=(Explanation("x", 3.0, "so"),))])
    row: dict[str, Any] = {"name": "x", "published": 2.0, "simulated": 3.0, "error": 0.5, "tolerance": 0.1, "fitted": True}
    head = {"id": "a-case", "kind": "simulated", "verdict": "explained", "source": "a paper"}
    assert document == {"cases": [{**head, "rows": [row], "note": "so\n1 + 1 = 2"}]}


def test_json_never_holds_what_json_lacks() -> None:
    row = to_json([result(Row("x", 1.0, float("inf"), 0.1))])["cases"][0]["rows"][0]
    assert (row["simulated"], row["error"]) == (None, None)


def test_text_names_the_row_that_is_outside() -> None:
    lines = to_text([result(GOOD, BAD), result(GOOD)]).splitlines()
    assert [line.endswith("outside") for line in lines if line.strip().startswith(("good", "bad"))] == [False, True, False]
    assert lines[-2:] == ["a-case  fail", "a-case  pass"]


def test_unknown_cases_are_all_reported_before_anything_runs() -> None:
    with pytest.raises(InputError) as caught:
        reproduce_cases(["cxl-expert-tabel", "nothing-like-it"])
    first, second = caught.value.mistakes
    assert "Did you mean 'cxl-expert-table'?" in first.message
    assert "unknown case 'nothing-like-it'" in second.message


def test_each_case_of_the_table_answers_to_its_id() -> None:
    assert [entry.id for entry in registry.find()] == registry.ids()
    assert [entry["name"] for entry in registry.entries()] == registry.ids()
    assert all(entry["summary"] and entry["source"] for entry in registry.entries())


def test_a_case_is_run_once_however_often_it_is_named() -> None:
    assert [entry.id for entry in registry.find(["cxl-expert-table", "cxl-expert-table"])] == ["cxl-expert-table"]


def test_files_go_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = Findings((GOOD,), exhibits=(Exhibit("numbers", "a table", "a,b\n1,2\n"),))
    monkeypatch.setattr(registry, "find", lambda names: [case(findings)])
    results = reproduce_cases(["a-case"], out=tmp_path / "new")
    assert json.loads((tmp_path / "new/cases.json").read_text("utf-8")) == to_json(results)
    assert (tmp_path / "new/a-case-numbers.csv").read_text("utf-8") == "a,b\n1,2\n"
    pictures = ["a-case-errors.png", "a-case-errors.svg"]
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [*pictures, "a-case-numbers.csv", "cases.json", "cases.txt", "validation.md"]
