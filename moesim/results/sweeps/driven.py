"""Which axes of a sampled design the metric of each policy varies with.

Knows settings and outcomes; the shares are found by `drivers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moesim.arrays import FloatArray
from moesim.results.drivers import drivers, enough, ranks, together
from moesim.results.sweeps.answer import Driver, ShareOfAxis
from moesim.results.sweeps.description import DescribedAxis

__all__ = ["driven"]

Outcomes = Iterable[tuple[str, Mapping[str, Any], float]]
_DIGITS = 6
"""Of a share: what the last digits of linear algebra leave the same on every processor."""


def driven(axes: Sequence[DescribedAxis], outcomes: Outcomes) -> tuple[Driver, ...]:
    """For each policy of a sampled design, which axes its outcome varies with; `outcomes`: (policy, settings, metric).

    Standardised *rank* regression: values and outcomes enter by their rank, so that equal ratios, saturation and any other
    rising or falling curve count as a line. Of an axis without numbers, each value stands for the mean rank of what came out
    with it. `direction` is Spearman's rank correlation of values and outcomes. Source: Saltelli et al., section 1.2.5; R. Iman
    and W. Conover, Technometrics 21 (1979). Valid: where `explained` is near 1, and no axis has a peak inside.
    """
    groups: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for policy, settings, value in outcomes:
        groups.setdefault(policy, []).append((settings, value))
    return tuple(_of_policy(policy, group, axes) for policy, group in groups.items())


def _of_policy(policy: str, group: Sequence[tuple[Mapping[str, Any], float]], axes: Sequence[DescribedAxis]) -> Driver:
    outcome = ranks([value for _, value in group])
    columns, inputs = [], 0
    for axis in axes:
        values = [settings[axis.column] for settings, _ in group]
        numbers = axis.numeric
        columns.append(ranks(values) if numbers else _mean_ranks(values, outcome))
        inputs += 1 if numbers else max(len(set(values)) - 1, 1)
    needed = enough(inputs)
    if len(group) < needed:
        note = f"{len(group)} settings are too few to tell {len(axes)} axes apart; take {needed} or more"
        return Driver(policy, len(group), None, note, ())
    shares, explained = drivers(np.stack(columns, axis=1), outcome)
    if not shares.any():
        return Driver(policy, len(group), 0.0, "the metric does not vary with any of the axes", ())
    parts = [_share_of(axis, column, float(share), outcome) for axis, column, share in zip(axes, columns, shares, strict=True)]
    parts.sort(key=lambda part: -part.share)  # stable: equals stay in the order of the axes
    return Driver(policy, len(group), round(explained, _DIGITS), together(explained), tuple(parts))


def _share_of(axis: DescribedAxis, column: FloatArray, share: float, outcome: FloatArray) -> ShareOfAxis:
    direction = _direction(column, outcome) if axis.numeric else None
    return ShareOfAxis(axis.name, axis.column, round(share, _DIGITS), direction)


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
