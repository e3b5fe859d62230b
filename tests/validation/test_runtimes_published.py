"""Serving programs beside what was measured of them: verdicts, and constants that only their fit points may have set."""

from __future__ import annotations

import pytest

from moesim.validation import registry, reproduce


@pytest.mark.parametrize("case", ["runtime-llama-cpp", "runtime-vllm"])
def test_tested_rows_are_within_the_tolerances_asked_for(case: str) -> None:
    (result,) = reproduce([case])
    assert result.verdict == "pass"
    tested = [abs(row.error) for row in result.findings.rows if not row.fitted]
    assert sorted(tested)[len(tested) // 2] < 0.08


def test_what_is_fitted_comes_out_at_its_fit_point() -> None:
    (result,) = reproduce(["runtime-llama-cpp"])
    assert max(abs(row.error) for row in result.findings.rows if row.fitted) < 0.02


def test_every_program_has_a_case_that_says_what_it_was_fitted_on() -> None:
    cases = [case for case in registry.find() if case.id.startswith("runtime-")]
    assert {case.kind for case in cases} == {"system"}
    assert all(case.fitted for case in cases)
