"""What a setting of a sweep has to keep: limits on numbers of its runs, and which of them it misses.

Knows rows of a table; not how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.results.metrics import METRICS, metric_words
from moesim.results.statistics import mean
from moesim.units import format_number, format_seconds, format_share

__all__ = ["constraint_words", "missed"]


def missed(constraints: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The constraints, in words, that the replications `rows` of a setting miss in their mean; a number not known misses, too.

    A constraint has `metric`, the column that it is about, and `at_least` or `at_most` or both.
    """
    words = []
    for constraint in constraints:
        values = [row.get(constraint["metric"]) for row in rows if row["status"] == "done"]
        known = [float(value) for value in values if isinstance(value, (int, float))]
        if not known or len(known) < len(values) or not _keeps(constraint, mean(known)):
            words.append(constraint_words(constraint))
    return tuple(words)


def _keeps(constraint: Mapping[str, Any], value: float) -> bool:
    low, high = constraint["at_least"], constraint["at_most"]
    return (low is None or value >= low) and (high is None or value <= high)


def constraint_words(constraint: Mapping[str, Any]) -> str:
    """`p99 time to first token at most 2 s`."""
    metric = constraint["metric"]
    name, unit = metric_words(metric)
    unit = "%" if metric in METRICS and METRICS[metric].share else unit
    limits = [f"{word} {_value(constraint[key], unit)}" for key, word in (("at_least", "at least"), ("at_most", "at most"))
              if constraint[key] is not None]  # fmt: skip
    return f"{name} {' and '.join(limits)}"


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return format_share(value, trim=True)
    return format_seconds(value) if unit == "s" else f"{format_number(value, 4)} {unit}".rstrip()
