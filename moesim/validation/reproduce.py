"""Runs published cases and writes what belongs to them.

Knows cases by their fields only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from moesim.validation import registry
from moesim.validation.case import Case, CaseResult, Exhibit, judge
from moesim.validation.report import to_json, to_text

__all__ = ["reproduce", "run_case"]


def reproduce(
    ids: Iterable[str] = (), progress: Callable[[int, int], None] | None = None, out: str | Path | None = None
) -> list[CaseResult]:
    """Runs the cases `ids` (all without any) and, with `out`, writes reports, tables and figures there.

    `progress(done, total)` counts cases. Raises InputError for unknown ids before anything runs.
    """
    cases = registry.find(ids)
    results: list[CaseResult] = []
    for case in cases:
        results.append(run_case(case))
        if progress is not None:
            progress(len(results), len(cases))
    if out is not None:
        _write(results, Path(out))
    return results


def run_case(case: Case) -> CaseResult:
    """One case, judged."""
    findings = case.runner()
    return CaseResult(case, judge(findings), findings)


def _write(results: list[CaseResult], out: Path) -> None:
    """`cases.json` and `cases.txt`, and per exhibit `<case>-<exhibit>.csv`, `.svg` and `.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cases.json").write_text(json.dumps(to_json(results), indent=2, allow_nan=False) + "\n", "utf-8")
    (out / "cases.txt").write_text(to_text(results) + "\n", "utf-8")
    for result in results:
        for exhibit in result.findings.exhibits:
            _write_exhibit(exhibit, out / f"{result.case.id}-{exhibit.name}")


def _write_exhibit(exhibit: Exhibit, stem: Path) -> None:
    if exhibit.csv:
        stem.with_name(stem.name + ".csv").write_text(exhibit.csv, "utf-8")
    if exhibit.figure is not None:
        from moesim.report.figures import save

        figure = exhibit.figure()
        for ending in (".svg", ".png"):
            save(figure, stem.with_name(stem.name + ending))
