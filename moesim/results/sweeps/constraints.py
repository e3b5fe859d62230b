"""What a setting of a sweep has to keep: limits on numbers of its runs, and which of them it misses.

Knows rows of a table; not how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.results.metrics import METRICS, metric_words
from moesim.results.statistics import mean
from moesim.results.sweeps.description import Limit
from moesim.units import format_number, format_seconds, format_share

__all__ = ["constraint_words", "excess", "missed"]


def missed(constraints: Sequence[Limit], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The constraints, in words, that the replications `rows` of a setting miss in their mean; unknown numbers miss, too."""
    words = []
    for constraint in constraints:
        values = [row.get(constraint.metric) for row in rows if row["status"] == "done"]
        known = [float(value) for value in values if isinstance(value, (int, float))]
        if not known or len(known) < len(values) or not _keeps(constraint, mean(known)):
            words.append(constraint_words(constraint))
    return tuple(words)


def _keeps(constraint: Limit, value: float) -> bool:
    low, high = constraint.at_least, constraint.at_most
    return (low is None or value >= low) and (high is None or value <= high)


def excess(constraint: Limit, rows: Sequence[Mapping[str, Any]]) -> float:
    """How far the replications `rows` of a setting pass a limit in their mean, in shares of it; 0 and below if they keep it,
    1 where the number is not known."""
    values = [row.get(constraint.metric) for row in rows if row["status"] == "done"]
    known = [float(value) for value in values if isinstance(value, (int, float))]
    if not known or len(known) < len(values):
        return 1.0
    edges = (constraint.at_least, 1.0), (constraint.at_most, -1.0)
    return max(sign * (edge - mean(known)) / (abs(edge) or 1.0) for edge, sign in edges if edge is not None)


def constraint_words(constraint: Limit) -> str:
    """`p99 time to first token at most 2 s`."""
    metric = constraint.metric
    name, unit = metric_words(metric)
    unit = "%" if metric in METRICS and METRICS[metric].share else unit
    edges = (constraint.at_least, "at least"), (constraint.at_most, "at most")
    limits = [f"{word} {_value(edge, unit)}" for edge, word in edges if edge is not None]
    return f"{name} {' and '.join(limits)}"


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return format_share(value, trim=True)
    return format_seconds(value) if unit == "s" else f"{format_number(value, 4)} {unit}".rstrip()
