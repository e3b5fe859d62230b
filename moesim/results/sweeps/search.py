"""Where a curve over one axis is highest, and where one curve passes another: the place, and how sure it is.

Knows numbers only: values of the axis, and for each of them what came out in every replication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from moesim.results.statistics import Interval, Verdict, mean, paired_difference, t_interval

__all__ = ["Crossover", "Peak", "find_crossovers", "find_peak"]

Samples = Mapping[float, Sequence[float]]
"""Value of the axis -> outcome of each replication, equally many each and paired by position; more is better."""


class Peak(NamedTuple):
    """Where a curve is highest."""

    value: float
    """The value with the highest mean; the lowest of equals."""
    best: Interval
    """Of the mean there, over the replications."""
    kind: Literal["interior", "edge", "plateau", "flat"]
    """`flat`: no value differs from the best by more than chance; `plateau`: some do not; else whether it is at an end."""
    tied: tuple[float, ...]
    """The best value and those statistically indistinguishable from it, rising."""
    at_edge: bool
    """Whether one of `tied` is the first or the last of the axis."""
    low: float
    """The peak lies between `low` and `high`: the tested values next to the outermost of `tied`, or the ends of the axis."""
    high: float


class Crossover(NamedTuple):
    """Where a curve passes another."""

    value: float
    """Where the straight lines through the means cross."""
    low: float
    """The last tested value at which the one is surely ahead ..."""
    high: float
    """... and the first at which the other one is."""
    before: Literal["a", "b"]
    """Who is ahead below `low`."""


def find_peak(samples: Samples, level: float = 0.95) -> Peak:
    """The peak of a curve that has one.

    Values tie when their paired difference to the best is no more than chance (see `statistics.paired_difference`). Source: the
    comparison with the best of A. Law, Simulation Modeling and Analysis, section 10.3, pair by pair. Valid: between tested
    values the curve is assumed to rise to its peak and to fall behind it; nothing was tested between them.
    """
    levels = sorted(samples)
    means = {value: mean(samples[value]) for value in levels}
    best = max(levels, key=lambda value: (means[value], -value))
    ties = [v for v in levels if v == best or paired_difference(samples[best], samples[v], level).verdict == "tie"]
    first, last = levels.index(ties[0]), levels.index(ties[-1])
    at_edge = first == 0 or last == len(levels) - 1
    kind: Literal["interior", "edge", "plateau", "flat"] = "interior"
    if len(ties) > 1:
        kind = "flat" if len(ties) == len(levels) else "plateau"
    elif at_edge:
        kind = "edge"
    low, high = levels[max(first - 1, 0)], levels[min(last + 1, len(levels) - 1)]
    return Peak(best, t_interval(samples[best], level), kind, tuple(ties), at_edge, low, high)


def find_crossovers(a: Samples, b: Samples, level: float = 0.95) -> list[Crossover]:
    """Each change of the curve that is surely ahead, along the values that both have.

    Between two neighbours that are both sure of another leader, or with ties between them, lies one crossover. Its place is
    where the means' difference is zero, taken as straight between tested values.
    """
    levels = sorted(set(a) & set(b))
    verdicts: dict[float, Verdict] = {value: paired_difference(a[value], b[value], level).verdict for value in levels}
    sure = [value for value in levels if verdicts[value] != "tie"]
    crossings = []
    for low, high in pairwise(sure):
        if verdicts[low] != verdicts[high]:
            place = _zero([(value, mean(a[value]) - mean(b[value])) for value in levels if low <= value <= high])
            crossings.append(Crossover(place, low, high, "a" if verdicts[low] == "faster" else "b"))
    return crossings


def _zero(points: Sequence[tuple[float, float]]) -> float:
    """Where the line through (x, y) points first changes its sign."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if (y0 > 0) != (y1 > 0):
            return x0 + (x1 - x0) * y0 / (y0 - y1)
    return points[0][0]
