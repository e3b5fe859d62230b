"""Owns what was found of one claim of MoE-CXL under one set of conditions: numbers, sign, mechanism, and their table.

Knows no scenario.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.validation.case import Exhibit, Explanation, Row

__all__ = ["Finding", "table"]

_TOLERANCE = 0.1
_POINTS = 0.02


@dataclass(frozen=True)
class Finding:
    """One claim under one set of conditions."""

    name: str
    published: float
    simulated: float
    derived: float
    """By hand."""
    none: float
    """What the number would be if MoE-CXL changed nothing."""
    mechanism: str
    level: Literal["", "least", "exact"] = ""
    """Whether not a change is claimed but a level, to be reached at least or exactly."""
    fitted: bool = False

    @property
    def sign(self) -> str:
        """Whether the effect goes the way of the claim, or the level is reached; two points do not differ."""
        if self.level:
            short = self.published - self.simulated
            return "reached" if (abs(short) if self.level == "exact" else short) <= _POINTS else "missed"
        effect = (self.simulated - self.none) * np.sign(self.published - self.none)
        return "as claimed" if effect > _POINTS else "none" if effect > -_POINTS else "opposite"

    @property
    def row(self) -> Row:
        """For the table of the case."""
        return Row(self.name, self.published, self.simulated, _TOLERANCE, self.fitted)

    @property
    def explanation(self) -> Explanation:
        """For a row that misses."""
        return Explanation(self.name, self.derived, f"{self.name}: {self.derived:.4g} by hand; {self.mechanism}.")


def table(findings: Sequence[Finding]) -> Exhibit:
    """All findings with sign and mechanism."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["claim and conditions", "published", "simulated", "by hand", "sign", "mechanism"])
    widest = max(len(finding.name) for finding in findings) + 2
    lines = [f"{'claim and conditions':<{widest}}{'published':>10}{'simulated':>10}{'by hand':>10}  sign"]
    for finding in findings:
        numbers = finding.published, finding.simulated, finding.derived
        writer.writerow([finding.name, *(f"{number:.6g}" for number in numbers), finding.sign, finding.mechanism])
        lines.append(f"{finding.name:<{widest}}" + "".join(f"{number:>10.3g}" for number in numbers) + f"  {finding.sign}")
    return Exhibit("claims", "\n".join(lines), text.getvalue())
