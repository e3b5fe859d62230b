"""What makes an outcome vary: the share of its variance that each of several inputs is due to, drawn or sampled.

Knows columns of numbers, and the settings of a sampled design; not what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moesim.arrays import FloatArray

__all__ = ["LINEAR", "driven", "drivers", "enough", "ranks", "together"]

Outcomes = Iterable[tuple[str, Mapping[str, Any], float]]
LINEAR = 0.7
"""Share of the variance below which sums of single effects do not describe the outcome."""
_DIGITS = 6
"""Of a share: what the last digits of linear algebra leave the same on every processor."""


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


def driven(axes: Sequence[Mapping[str, Any]], outcomes: Outcomes) -> list[dict[str, Any]]:
    """For each policy of a sampled design, which axes its outcome varies with; `outcomes`: (policy, settings, metric).

    Standardised *rank* regression: values and outcomes enter by their rank, so that equal ratios, saturation and any other
    rising or falling curve count as a line. Of an axis without numbers, each value stands for the mean rank of what came out
    with it. `direction` is Spearman's rank correlation of values and outcomes. Source: Saltelli et al., section 1.2.5; R. Iman
    and W. Conover, Technometrics 21 (1979). Valid: where `explained` is near 1, and no axis has a peak inside.
    """
    groups: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for policy, settings, value in outcomes:
        groups.setdefault(policy, []).append((settings, value))
    return [_of_policy(policy, group, axes) for policy, group in groups.items()]


def _of_policy(
    policy: str, group: Sequence[tuple[Mapping[str, Any], float]], axes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    outcome = ranks([value for _, value in group])
    columns, inputs = [], 0
    for axis in axes:
        values = [settings[axis["column"]] for settings, _ in group]
        numbers = axis["scale"] != "categories"
        columns.append(ranks(values) if numbers else _mean_ranks(values, outcome))
        inputs += 1 if numbers else max(len(set(values)) - 1, 1)
    answer: dict[str, Any] = {"policy": policy, "settings": len(group), "explained": None, "note": "", "axes": []}
    needed = enough(inputs)
    if len(group) < needed:
        return {**answer, "note": f"{len(group)} settings are too few to tell {len(axes)} axes apart; take {needed} or more"}
    shares, explained = drivers(np.stack(columns, axis=1), outcome)
    if not shares.any():
        return {**answer, "explained": 0.0, "note": "the metric does not vary with any of the axes"}
    axis_shares = [
        {"axis": axis["name"], "column": axis["column"], "share": round(float(share), _DIGITS),
         "direction": _direction(column, outcome) if axis["scale"] != "categories" else None}
        for axis, column, share in zip(axes, columns, shares, strict=True)
    ]  # fmt: skip
    axis_shares.sort(key=lambda axis: -axis["share"])  # stable: equals stay in the order of the axes
    return {**answer, "explained": round(explained, _DIGITS), "note": together(explained), "axes": axis_shares}


def _mean_ranks(values: Sequence[Any], outcome: FloatArray) -> FloatArray:
    groups: dict[Any, list[float]] = {}
    for value, rank in zip(values, outcome.tolist(), strict=True):
        groups.setdefault(value, []).append(rank)
    return np.array([sum(groups[value]) / len(groups[value]) for value in values])


def _direction(column: FloatArray, outcome: FloatArray) -> float | None:
    """Spearman's correlation, -1 to 1; None for an axis of which one value was drawn."""
    a, b = column - column.mean(), outcome - outcome.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / scale, _DIGITS) if scale > 0 else None
