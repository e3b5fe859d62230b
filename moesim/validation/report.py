"""Owns how cases that were run are reported: plain text, JSON, exit status.

Knows results of cases only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from moesim.units import format_number, format_share
from moesim.validation.case import CaseResult, Row

__all__ = ["exit_status", "to_json", "to_text"]

_WIDTH = 110
_HEAD = ("", "published", "simulated", "error", "tolerance", "")


def to_json(results: Sequence[CaseResult]) -> dict[str, Any]:
    """The public form: `{"cases": [...]}`, and beside it `skipped`: `[{"id", "reason"}]` for cases whose data are not here."""
    skipped = [result for result in results if result.verdict == "skipped"]
    document: dict[str, Any] = {"cases": [result.to_json() for result in results if result.verdict != "skipped"]}
    if skipped:
        document["skipped"] = [{"id": result.case.id, "reason": result.findings.skipped} for result in skipped]
    return document


def exit_status(results: Sequence[CaseResult]) -> int:
    """1 if a number is outside its tolerance without a derivation, else 0."""
    return int(any(result.verdict == "fail" for result in results))


def to_text(results: Sequence[CaseResult]) -> str:
    """A table per case, with its arithmetic and exhibits, and the verdicts at the end."""
    parts = [_case(result) for result in results]
    if len(results) > 1:
        longest = max(len(result.case.id) for result in results)
        parts.append("\n".join(f"{result.case.id:<{longest}}  {result.verdict}" for result in results))
    return "\n\n".join(parts)


def _case(result: CaseResult) -> str:
    case = result.case
    lines = [f"{case.id} ({case.kind}): {result.verdict}", *_folded(case.summary), *_folded(f"Source: {case.source}"), ""]
    lines += _table(result.findings.rows)
    if result.note:
        lines.append("")
        for line in result.note.splitlines():
            lines += _folded(line)
    for exhibit in result.findings.exhibits:
        if exhibit.text:
            lines += ["", *(f"  {line}".rstrip() for line in exhibit.text.splitlines())]
    return "\n".join(lines)


def _folded(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _table(rows: Sequence[Row]) -> list[str]:
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = []
    for first, *values in cells:
        right = (f"{text:>{width}}" for text, width in zip(values, widths[1:], strict=True))
        lines.append("  ".join(["", f"{first:<{widths[0]}}", *right]).rstrip())
    return lines


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    mark = "fitted" if row.fitted else "" if row.within else "outside"
    return (
        row.name,
        format_number(row.published, 5),
        format_number(row.simulated, 5),
        _share(row.error, "+"),
        _share(row.tolerance),
        mark,
    )


def _share(value: float, sign: str = "") -> str:
    return format_share(value, 2, sign=sign) if math.isfinite(value) else "none"
