"""What makes an outcome vary: the share of its variance that each of several inputs is due to, drawn or sampled.

Knows columns of numbers; not what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.arrays import FloatArray

__all__ = ["LINEAR", "drivers", "enough", "ranks", "together"]

LINEAR = 0.7
"""Share of the variance below which sums of single effects do not describe the outcome."""


def enough(count: int) -> int:
    """Draws below which the shares of `count` parameters are not stated: ten, and two more for each parameter.

    With n draws a parameter without any effect still gets a share of about (1 - explained) / (n - count - 1).
    """
    return 10 + 2 * count


def together(explained: float) -> str:
    """What to say of single effects that do not add up to the outcome; nothing where they do."""
    if explained >= LINEAR:
        return ""
    return f"single parameters explain {100 * explained:.0f} % only: they act together, or not along a line"


def drivers(samples: FloatArray, outcome: FloatArray) -> tuple[FloatArray, float]:
    """[P] share of the variance of `outcome` [N] due to each column of `samples` [N, P], and the share of all together.

    Squared standardised regression coefficients, scaled to add up to what they explain together (columns drawn independently
    are still somewhat correlated in few draws): for an outcome that is a weighted sum of independent inputs, the share of the
    variance that would vanish if one were known. Source: Saltelli et al., Global Sensitivity Analysis (2008), section 1.2.5.
    Valid: where the share of all together is near 1.
    """
    spread, deviation = samples.std(axis=0), outcome - outcome.mean()
    scale = float(outcome.std())
    if samples.shape[1] == 0 or scale <= 1e-12 * abs(float(outcome.mean())):
        return np.zeros(samples.shape[1]), 0.0
    standard = (samples - samples.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    coefficients = np.linalg.lstsq(standard, deviation / scale, rcond=None)[0]
    left = deviation / scale - standard @ coefficients
    squares, explained = coefficients**2, float(1.0 - np.mean(left**2))
    return np.asarray(squares * explained / max(float(squares.sum()), 1e-300)), explained


def ranks(values: Sequence[float]) -> FloatArray:
    """The place of each value among all, from 1; equal ones share the mean of their places."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)
