"""What can be said from several numbers: percentiles, the interval of a mean, the paired difference of two policies.

Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from moesim.arrays import FloatArray

__all__ = [
    "SHARES",
    "TIE",
    "Difference",
    "Interval",
    "Verdict",
    "as_share",
    "batch_means",
    "describe",
    "mean",
    "paired_difference",
    "percentile",
    "ratio_interval",
    "regressed_interval",
    "t_interval",
    "windows_needed",
]

Verdict = Literal["faster", "slower", "tie"]
TIE = 1e-3
"""Two single runs whose values differ by no more than this share of the larger count as a tie."""
SHARES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
"""Name of a percentile -> the share of values below it."""


def mean(values: FloatArray | Sequence[float]) -> float:
    """Arithmetic mean of one value or more from an exactly rounded sum, so that it is the same on every processor."""
    return math.fsum(values) / len(values)


def percentile(ordered: FloatArray | Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the *sorted* values lie, interpolated linearly.

    The position is share * (n - 1), counted from 0, and between two neighbours the value runs straight from one to the
    other: definition 7 of Hyndman and Fan (The American Statistician 50, 1996), numpy's default. One value is its own
    percentile; p99 of fewer than about 100 values lies close to the largest.
    """
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    # a + (b - a) * t can leave [a, b] by a last digit; the clamp keeps percentiles within what was seen
    value = ordered[below] + (ordered[above] - ordered[below]) * (position - below)
    return min(max(value, ordered[below]), ordered[above])


def describe(values: FloatArray | Sequence[float]) -> dict[str, float | None]:
    """`{mean, p50, p90, p99}` of the values [n] that are numbers. Each None when there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    ordered = np.sort(numbers[~np.isnan(numbers)])
    if not len(ordered):
        return {"mean": None, **dict.fromkeys(SHARES)}
    return {"mean": mean(ordered), **{name: float(percentile(ordered, share)) for name, share in SHARES.items()}}


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are None when one value tells nothing of the spread."""

    mean: float
    low: float | None
    high: float | None
    samples: int

    @property
    def half_width(self) -> float | None:
        """Half of what lies between the ends; None for a single value."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent replications.

    mean +- t(n - 1, (1 + level) / 2) * s / sqrt(n), with s^2 the sum of squared deviations over n - 1.
    Source: A. Law, Simulation Modeling and Analysis, section 4.5. Valid: replications with their own random numbers,
    roughly normal; not the steps of one run, which depend on each other.
    """
    if not values:
        raise ValueError("the mean of no values has no interval")
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not at {level}")
    count, middle = len(values), mean(values)
    if count == 1:
        return Interval(middle, None, None, 1)
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, (1 + level) / 2)) * deviation / math.sqrt(count)
    return Interval(middle, middle - half, middle + half, count)


def batch_means(values: FloatArray | Sequence[float], batches: int = 20) -> tuple[Interval, float] | None:
    """The interval of the mean of one run's `values`, in their order, from `batches` of equal size, and their correlation.

    What one run yields depends on what it yielded before, but means of long batches hardly do: they are taken as independent.
    They may be where the correlation of each batch with the next lies within 2 / sqrt(batches) of zero. What does not fill a
    batch is left out at the beginning. None for fewer than two values a batch. Source: A. Law, Simulation Modeling and
    Analysis, section 9.5.3. Valid: a run whose load does not change over time.
    """
    size = len(values) // batches
    if size < 2:
        return None
    parts = np.asarray(values, dtype=np.float64)[len(values) - size * batches :].reshape(batches, size)
    means = [mean(part) for part in parts]
    away = np.array(means) - mean(means)
    square = float(away @ away)
    return t_interval(means), float(away[1:] @ away[:-1]) / square if square else 0.0


class Difference(NamedTuple):
    """Mean of a - b over pairs, its interval, and what follows for a: faster, slower, or a tie."""

    interval: Interval
    verdict: Verdict


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Compares two policies over replications that share their random numbers: `a[i]` and `b[i]` saw the same workload.

    The verdict is a tie when the interval of the mean difference holds zero. A single pair has no interval: there the
    two tie when they differ by no more than `TIE` of the larger.
    Source: A. Law, Simulation Modeling and Analysis, section 10.2.1 (paired-t). Valid: values where more is better.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs are needed: {len(a)} values against {len(b)}")
    interval = t_interval([left - right for left, right in zip(a, b, strict=True)], level)
    if interval.low is None or interval.high is None:
        tie = abs(interval.mean) <= TIE * max(abs(a[0]), abs(b[0]))
    else:
        tie = interval.low <= 0 <= interval.high
    return Difference(interval, "tie" if tie else "faster" if interval.mean > 0 else "slower")


def as_share(interval: Interval, whole: float) -> Interval | None:
    """A difference and its interval as shares of `whole`, the mean of what it differs from; None where that is not above zero.

    The same interval in another unit: it holds zero where the difference does, so a share can never say other than the verdict.
    """
    if whole <= 0:
        return None
    low, high = (None if end is None else end / whole for end in (interval.low, interval.high))
    return Interval(interval.mean / whole, low, high, interval.samples)


def ratio_interval(sums: Sequence[float], counts: Sequence[float], level: float = 0.95) -> Interval | None:
    """Mean of what W windows of a run hold, `sums` [W] over `counts` [W], and its interval; None where nothing was counted.

    The ratio r = sum(y) / sum(n) has variance W / (W - 1) sum((y - r n)^2) / sum(n)^2, with Student's t of W - 1 degrees.
    Source: W. Cochran, Sampling Techniques, 3rd edition, section 6.3; windows evenly spread, as R. Wunderlich et al., SMARTS,
    ISCA 2003, sample programs. Valid: where the load changes slowly the interval is too wide rather than too narrow; not for
    windows that fall in step with a period of the load.
    """
    total = math.fsum(counts)
    if not total:
        return None
    ratio, windows = math.fsum(sums) / total, len(sums)
    if windows < 2:
        return Interval(ratio, None, None, windows)
    from scipy.special import stdtrit

    squares = math.fsum((y - ratio * n) ** 2 for y, n in zip(sums, counts, strict=True))
    half = float(stdtrit(windows - 1, (1 + level) / 2)) * math.sqrt(squares * windows / (windows - 1)) / total
    return Interval(ratio, ratio - half, ratio + half, windows)


def regressed_interval(
    sums: FloatArray, counts: FloatArray, model: tuple[FloatArray, FloatArray], whole: float, level: float = 0.95
) -> Interval | None:
    """As `ratio_interval`, corrected by what a model says of the same windows and of the whole run.

    `model`: [W] sums and counts of the model; `whole`: its mean over the whole run. With r and q the means of windows and model
    in the sample, the estimate is r + b (whole - q), b the slope of least squares between the deviations of windows from r and
    from q, and what is left of them its variance, with Student's t of W - 2 degrees. The worse the model, the nearer b is to
    zero and the estimate to r. Source: W. Cochran, Sampling Techniques, 3rd edition, sections 7.1 to 7.7. Valid: some ten
    windows and more; a model that is off alike everywhere does no harm.
    """
    windows, varies = len(sums), False
    if windows > 2 and sum(counts) and sum(model[1]):
        ratio, known = (float(np.sum(part) / np.sum(of)) for part, of in ((sums, counts), model))
        deviation = (sums - ratio * counts) * windows / np.sum(counts)
        expected = (model[0] - known * model[1]) * windows / np.sum(model[1])
        square = float(expected @ expected)
        varies = square > 1e-18 * windows * known**2
    if not varies:
        return ratio_interval(sums.tolist(), counts.tolist(), level)
    from scipy.special import stdtrit

    slope = float(expected @ deviation) / square
    left = deviation - slope * expected
    spread = float(left @ left) / (windows - 2) * (1 / windows + (whole - known) ** 2 / square)
    middle, half = ratio + slope * (whole - known), float(stdtrit(windows - 2, (1 + level) / 2)) * math.sqrt(spread)
    return Interval(middle, middle - half, middle + half, windows)


def windows_needed(intervals: Iterable[Interval], error: float) -> int:
    """Windows with which every interval has a half-width of `error` times its mean, if their spread stays. Source: SMARTS."""
    sure = [interval for interval in intervals if interval.half_width and interval.mean]
    return max(
        (math.ceil(interval.samples * ((interval.half_width or 0.0) / (error * interval.mean)) ** 2) for interval in sure),
        default=0,
    )
