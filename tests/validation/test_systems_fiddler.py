"""Fiddler's measured speeds: each is met, or derived by hand from the constants of its own code."""

from __future__ import annotations

from functools import cache

from moesim.validation import CaseResult, registry
from moesim.validation.reproduce import run_case


@cache
def result(name: str) -> CaseResult:
    return run_case(registry.find([name])[0])


def test_what_is_missed_is_derived() -> None:
    assert result("fiddler-env1").verdict == "explained"
    assert any(row.within and not row.fitted for row in result("fiddler-env1").findings.rows)


def test_fiddler_is_fitted_on_two_points_of_eighteen() -> None:
    assert [row.fitted for row in result("fiddler-env1").findings.rows].count(True) == 2
    assert len(result("fiddler-env1").findings.rows) == 18
