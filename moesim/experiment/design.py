"""How the values of several axes are combined: every one with every other, or points that fill the space.

Knows axes; not what they vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from moesim.experiment.axes import Dimension, Setting
from moesim.experiment.spec import Design, Grid, LatinHypercube

__all__ = ["combinations"]


def combinations(design: Design, axes: Sequence[Dimension]) -> Iterator[tuple[Setting, dict[str, Any]]]:
    """Each setting of all axes, by path, and as tables show it; the last axis changes fastest."""
    if isinstance(design, Grid):
        for steps in product(*(range(axis.size) for axis in axes)):
            yield _joined([axis.step(index) for axis, index in zip(axes, steps, strict=True)])
        return
    for row in _shares(design, len(axes)):
        yield _joined([axis.drawn(share) for axis, share in zip(axes, row, strict=True)])


def _shares(design: Design, dimensions: int) -> list[list[float]]:
    """[points, dimensions] shares of the way, in [0, 1)."""
    if not dimensions:
        return [[]]
    from scipy.stats import qmc

    if isinstance(design, LatinHypercube):
        return [list(map(float, row)) for row in qmc.LatinHypercube(dimensions, rng=design.seed).random(design.points)]
    assert not isinstance(design, Grid)
    return [list(map(float, row)) for row in qmc.Sobol(dimensions, rng=design.seed).random(design.points)]


def _joined(parts: Sequence[tuple[Setting, dict[str, Any]]]) -> tuple[Setting, dict[str, Any]]:
    setting: Setting = {}
    shown: dict[str, Any] = {}
    for values, texts in parts:
        setting.update(values)
        shown.update(texts)
    return setting, shown
