"""Where a run settles: how many passes to leave out as warm-up, and the throughput of the others.

Knows series of numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cut", "Steady", "mser", "steady"]

BATCH = 5
"""Observations that are averaged before they are looked at: the 5 of MSER-5."""


class Cut(NamedTuple):
    """How many observations to leave out at the beginning."""

    first: int
    """The first observation that counts."""
    settled: bool
    """False where the best cut lies at the half of the series: it is too short, or has no steady state."""


class Steady(NamedTuple):
    """A run behind its warm-up."""

    warm_up_steps: int | None
    """Decode passes left out; None where there are no decode passes."""
    steps: int
    """Decode passes of the run."""
    steady_tok_s: float | None
    """Tokens of the passes that count over their time."""
    settled: bool | None
    """What MSER-5 says of the series; None where it was not asked, or there is nothing to ask."""


def mser(values: Sequence[float] | NDArray[np.float64], batch: int = BATCH) -> Cut:
    """The cut that makes the mean of the rest most certain, among cuts of up to half of the series.

    With Z_1 ... Z_m the means of `batch` observations each, d minimises sum_{i > d} (Z_i - mean_d)^2 / (m - d)^2; the smallest
    of equals. Source: K. P. White, M. J. Cobb and S. C. Spratt, A comparison of five steady-state truncation heuristics for
    simulation, WSC 2000 (MSER-5). Valid: one change from a beginning to a steady state; a trend that goes on is not
    `settled`. Known to err on short series (Wang and Glynn, WSC 2016), so look at the cut.
    """
    series = np.asarray(values, dtype=np.float64)
    count = len(series) // batch
    if count < 2:
        return Cut(0, False)
    means = series[: count * batch].reshape(count, batch).mean(axis=1)
    best, least = 0, np.inf
    for first in range(count // 2 + 1):
        rest = means[first:]
        spread = float(((rest - rest.mean()) ** 2).sum()) / len(rest) ** 2
        if spread < least * (1 - 1e-9):
            best, least = first, spread
    return Cut(best * batch, best < count // 2)


def steady(times: NDArray[Any], tokens: NDArray[Any], warm_up: int | str = "auto") -> Steady:
    """Throughput of passes that took `times` [N] s for `tokens` [N], without the first `warm_up` (`auto`: by MSER-5; `none`).

    MSER-5 looks at the seconds per token of each pass. A cut that would leave nothing leaves the last pass.
    """
    count = len(times)
    if not count or not float(np.sum(times)) > 0:
        return Steady(None, count, None, None)
    cut = Cut(0, True)
    if warm_up == "auto":
        cut = mser(np.asarray(times, dtype=np.float64) / np.maximum(np.asarray(tokens, dtype=np.float64), 1.0))
    elif isinstance(warm_up, int):
        cut = Cut(min(warm_up, count - 1), True)
    rest = slice(cut.first, None)
    rate = float(np.sum(tokens[rest])) / float(np.sum(times[rest]))
    return Steady(cut.first, count, rate, cut.settled if warm_up == "auto" else None)
