"""What a setting of a sweep has to keep: limits on numbers of its runs, and which of them it misses.

Knows rows of a table; not how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.results.statistics import mean

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
    """`ttft_s.p99 at most 2`."""
    limits = [f"{word} {constraint[key]:g}" for key, word in (("at_least", "at least"), ("at_most", "at most"))
              if constraint[key] is not None]  # fmt: skip
    return f"{constraint['metric']} {' and '.join(limits)}"
