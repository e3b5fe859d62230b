"""Owns docs/validation.md: every case with what was published, what was simulated, what was fitted and where it is from.

Knows results of cases only. `tools/validation_page.py` writes the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.units import format_number, format_share
from moesim.validation.case import CaseResult, Row
from moesim.validation.programs import table as programs_table

__all__ = ["page", "section"]

_HEAD = """# Validation

Written by `python tools/validation_page.py`, which runs what `moesim reproduce` runs; do not edit.
`moesim reproduce ID` shows one case, `--out DIR` adds its figures and tables and this page, `--json` is for programs; it
exits with 1 if a case fails.

A row marked *fitted* is a number that a constant was fitted on, or taken from: it is not a test, and the errors of the first
table leave it out. Verdicts:

* **pass**: every row is within its tolerance.
* **explained**: a row is not, and a number derived by hand from the source's own inputs arrives where the simulation did
  (within 1 %), so the published number does not follow from them; the derivation stands under the table.
* **fail**: a row is not, and nothing explains it.
* **skipped**: the case compares with recorded data that are not shipped and not here. They are looked for in the folder that
  the environment variable `MOESIM_DATA` names, else in `shared/data` beside the checkout.

Kinds: *component*, one resource alone or a closed form that must hold near rounding; *system*, measured end to end; *ratio*,
only the ratio is trustworthy; *simulated*, the source is a simulation or a closed form itself.
"""
_PROGRAMS = """## Serving programs

Speeds of whole programs, each with the constants that were fitted and the rows that tested them; rows that miss are in the
figures. A pair is two rows of one measure whose published numbers differ by more than 5 %.
"""
_ESCAPES = str.maketrans({"|": "\\|", "<": "&lt;", "*": "\\*"})


def page(results: Sequence[CaseResult]) -> str:
    """The page: a table of cases, then a section for each."""
    table = ["| case | kind | verdict | tests | median error | worst error | fitted |", "|---|---|---|--:|--:|--:|---|"]
    table += [_line(result) for result in results]
    parts = [_HEAD, "## Cases\n\n" + "\n".join(table) + "\n"]
    if programs := programs_table(results):
        parts.append(f"{_PROGRAMS}\n{programs}")
    return "\n".join([*parts, *(section(result) for result in results)])


def _line(result: CaseResult) -> str:
    tested = [abs(row.error) for row in result.findings.rows if not row.fitted]
    errors = (float(np.median(tested)), max(tested)) if tested else ()
    numbers = [format_share(error, 2, trim=True) for error in errors] or ["", ""]
    case = result.case
    cells = (f"[{case.id}](#{case.id})", case.kind, result.verdict, str(len(tested)), *numbers, _plain(case.fitted))
    return f"| {' | '.join(cells)} |"


def section(result: CaseResult) -> str:
    """One case: its rows, its notes and its source."""
    case = result.case
    lines = [
        f"## {case.id}",
        "",
        f"{case.summary} **{result.verdict}**.",
        "",
        f"Source: {case.source}. Fitted: {case.fitted}.",
        "",
    ]
    if result.findings.rows:
        lines += ["| | published | simulated | error | tolerance | |", "|---|--:|--:|--:|--:|---|"]
        lines += [_row(row) for row in result.findings.rows]
        lines.append("")
    lines += [f"* {_plain(line.strip())}" for line in result.note.splitlines()]
    return "\n".join(lines).rstrip() + "\n"


def _row(row: Row) -> str:
    mark = "fitted" if row.fitted else "" if row.within else "outside"
    cells = (
        _plain(row.name),
        format_number(row.published, 4),
        format_number(row.simulated, 4),
        format_share(row.error, 2, sign="+", trim=True),
        format_share(row.tolerance, 2, trim=True),
        mark,
    )
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return text.translate(_ESCAPES)
