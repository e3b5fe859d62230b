"""Runs published cases and writes what belongs to them.

Knows cases by their fields only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.progress import Progress
from moesim.validation import registry
from moesim.validation.case import Case, CaseResult, Exhibit, judge
from moesim.validation.document import page
from moesim.validation.report import to_json, to_text
from moesim.writing import folder_target, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["reproduce", "run_case"]


def reproduce(ids: Iterable[str] = (), progress: Progress | None = None, out: str | Path | None = None) -> list[CaseResult]:
    """Runs the cases `ids` (all without any) and, with `out`, writes reports, tables and figures there.

    `progress(done, total)` counts cases. Raises InputError for unknown ids before anything runs.
    """
    cases = registry.find(ids)
    place = folder_target(out) if out is not None else None
    results: list[CaseResult] = []
    try:
        for case in cases:
            results.append(run_case(case))
            if progress is not None:
                progress(len(results), len(cases))
    finally:  # interrupted, it keeps what is done
        if place is not None and results:
            _write(results, place)
    return results


def run_case(case: Case) -> CaseResult:
    """One case, judged."""
    findings = case.runner()
    return CaseResult(case, judge(findings), findings)


def _write(results: list[CaseResult], out: Path) -> None:
    """`cases.json`, `cases.txt` and `validation.md`, and per exhibit `<case>-<exhibit>.csv`, `.svg` and `.png`.

    Every case that has rows gets a picture.
    """
    write(out / "cases.json", json.dumps(to_json(results), indent=2, allow_nan=False) + "\n")
    write(out / "cases.txt", to_text(results) + "\n")
    write(out / "validation.md", page(results))
    for result in results:
        for exhibit in (*result.findings.exhibits, *_errors(result)):
            _write_exhibit(exhibit, out / f"{result.case.id}-{exhibit.name}")


def _errors(result: CaseResult) -> tuple[Exhibit, ...]:
    """The picture of a case that brings none of its own."""
    rows = [(row.name, row.error, row.tolerance, row.fitted) for row in result.findings.rows]
    if not rows or any(exhibit.figure is not None for exhibit in result.findings.exhibits):
        return ()

    def draw() -> Figure:
        from moesim.report.curves import errors

        return errors(rows, title=f"{result.case.id}: {result.verdict}")

    return (Exhibit("errors", figure=draw),)


def _write_exhibit(exhibit: Exhibit, stem: Path) -> None:
    if exhibit.csv:
        write(stem.with_name(stem.name + ".csv"), exhibit.csv)
    if exhibit.figure is not None:
        from moesim.report.figures import save

        figure = exhibit.figure()
        for ending in (".svg", ".png"):
            save(figure, stem.with_name(stem.name + ending))
