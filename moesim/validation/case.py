"""Owns what a published case is: numbers with tolerances, a runner that simulates them, and the verdict on both.

Knows no paper and no scenario.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AGREES", "Case", "CaseResult", "Exhibit", "Explanation", "Findings", "Kind", "Row", "Verdict", "judge"]

Kind = Literal["component", "system", "ratio", "simulated"]
"""`component`: one resource alone; `system`: measured end to end; `ratio`: only a ratio is trustworthy; `simulated`: the source
is itself a simulation or a closed form."""
Verdict = Literal["pass", "fail", "explained", "skipped"]

AGREES = 0.01
"""A derivation explains a simulated number when it arrives at it within this relative difference."""


@dataclass(frozen=True)
class Row:
    """One published number beside the simulated one, both in the unit that `name` says."""

    name: str
    published: float
    simulated: float
    tolerance: float
    """Relative to the published number."""
    fitted: bool = False
    """Whether a constant was fitted on this very number: then it is not a test."""

    @property
    def error(self) -> float:
        """Relative to the published number; the plain difference where that is 0."""
        difference = self.simulated - self.published
        return difference / abs(self.published) if self.published else difference

    @property
    def within(self) -> bool:
        """Whether the error is inside the tolerance; never for what is not a number."""
        return abs(self.error) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The public form of a row; what is not finite becomes null."""
        values = {"published": self.published, "simulated": self.simulated, "error": self.error, "tolerance": self.tolerance}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"name": self.name, **finite, "fitted": self.fitted}


@dataclass(frozen=True)
class Explanation:
    """Why a row misses: a number derived from the source's own inputs by closed form, apart from the simulator."""

    row: str
    """Name of the row."""
    derived: float
    text: str
    """How it was derived, the numbers filled in."""

    def covers(self, row: Row) -> bool:
        """Whether the source's inputs lead where the simulation led, hence not to the published number."""
        scale = max(abs(row.simulated), abs(self.derived))
        return self.row == row.name and abs(self.derived - row.simulated) <= AGREES * scale


@dataclass(frozen=True)
class Exhibit:
    """A table or a picture that belongs to a case."""

    name: str
    """Of its files, without an ending."""
    text: str = ""
    csv: str = ""
    figure: Callable[[], Figure] | None = None
    """Draws it; called only when it is wanted."""


@dataclass(frozen=True)
class Findings:
    """What a runner brings back."""

    rows: tuple[Row, ...]
    explanations: tuple[Explanation, ...] = ()
    arithmetic: tuple[str, ...] = ()
    """Lines computed from the inputs, to be read beside the rows."""
    exhibits: tuple[Exhibit, ...] = ()
    skipped: str = ""
    """Why nothing was simulated: data that are not here. Then there are no rows, and the case neither passes nor fails."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Published numbers as data, and how they are simulated."""

    id: str
    kind: Kind
    summary: str
    source: str
    runner: Callable[[], Findings]
    fitted: str = "nothing"
    """Which constants were fitted, on which of the published points."""


@dataclass(frozen=True)
class CaseResult:
    """A case that was run."""

    case: Case
    verdict: Verdict
    findings: Findings

    @property
    def note(self) -> str:
        """Why it was skipped, the derivations and the arithmetic, a line each."""
        skipped = [f"Skipped: {self.findings.skipped}."] if self.findings.skipped else []
        return "\n".join([*skipped, *(item.text for item in self.findings.explanations), *self.findings.arithmetic])

    def to_json(self) -> dict[str, Any]:
        """One entry of the public list of cases."""
        head = {"id": self.case.id, "kind": self.case.kind, "verdict": self.verdict, "source": self.case.source}
        return {**head, "rows": [row.to_json() for row in self.findings.rows], "note": self.note}


def judge(findings: Findings) -> Verdict:
    """`pass` if every row is within its tolerance, `explained` if a derivation covers each that is not, else `fail`.

    A text alone excuses nothing: see `Explanation.covers`. A case without rows fails, for it shows nothing, unless it says that
    what it needs is not here: `skipped`.
    """
    if findings.skipped and not findings.rows:
        return "skipped"
    missing = [row for row in findings.rows if not row.within]
    if not findings.rows or not all(any(item.covers(row) for item in findings.explanations) for row in missing):
        return "fail"
    return "explained" if missing else "pass"
