"""The points of a sweep by setting and policy: what the answer compares.

Knows a table of points and its axes; not what the axes mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moesim.results.marks import is_bound
from moesim.results.statistics import Interval, mean, paired_difference
from moesim.results.sweeps.constraints import missed
from moesim.results.sweeps.description import Description

__all__ = ["Cell", "bound_policies", "cells", "ends", "paired", "tied"]


@dataclass(frozen=True)
class Cell:
    """All replications of one setting with one policy."""

    settings: tuple[tuple[str, Any], ...]
    """(column, value), in the order of the columns."""
    policy: str
    samples: Mapping[tuple[int, int], float]
    """(seed, replicate) -> the metric, signed so that more is better."""
    bound: bool = False
    """Of a policy that no system can follow."""
    missed: tuple[str, ...] = ()
    """Constraints of the experiment that it does not keep, in words."""

    @property
    def mean(self) -> float:
        """Of the metric over the replications, signed so that more is better."""
        return mean(list(self.samples.values()))

    def beside(self, reference: Cell) -> tuple[list[float], list[float]]:
        """Own values and the other's, where both saw the same requests and routing."""
        common = [key for key in self.samples if key in reference.samples]
        return [self.samples[key] for key in common], [reference.samples[key] for key in common]


def cells(experiment: Description, rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The points with a value of the metric, by setting and policy, in the order of the design."""
    names = experiment.settings
    sign = experiment.sign
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    bounds, limits = bound_policies(rows), experiment.constraints
    for row in rows:
        if row["status"] == "done" and isinstance(row.get(experiment.metric), (int, float)):
            groups.setdefault((tuple((name, row[name]) for name in names), row["policy"]), []).append(row)
    return [
        Cell(
            settings,
            policy,
            {(row["seed"], row["replicate"]): sign * float(row[experiment.metric]) for row in group},
            policy in bounds,
            missed(limits, group),
        )
        for (settings, policy), group in groups.items()
    ]


def bound_policies(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Policies that no system can follow, which stand apart; none of them where there are no others to stand apart from."""
    bounds = {str(row["policy"]) for row in rows if is_bound(row)}
    return bounds if any(row["status"] == "done" and row["policy"] not in bounds for row in rows) else set()


def paired(curve: Mapping[float, Cell]) -> dict[float, list[float]]:
    """Value -> outcomes of the replications that all values have, paired by position."""
    common = [key for key in next(iter(curve.values())).samples if all(key in cell.samples for cell in curve.values())]
    return {value: [cell.samples[key] for key in common] for value, cell in curve.items()} if common else {}


def tied(a: Cell, b: Cell, level: float) -> bool:
    """Whether two cells with common replications are statistically indistinguishable in them."""
    left, right = a.beside(b)
    return bool(left) and paired_difference(left, right, level).verdict == "tie"


def ends(interval: Interval, sign: float) -> tuple[float, float | None, float | None]:
    """Mean, low and high of an interval of the signed metric, with the metric's own sign."""
    middle, low, high, _ = interval
    if low is None or high is None:
        return sign * middle, None, None
    return sign * middle, min(sign * low, sign * high), max(sign * low, sign * high)
