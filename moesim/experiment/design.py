"""How the values of several axes are combined: every one with every other, or points that fill the space.

Knows axes; not what they vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from moesim.experiment.axes import Dimension, Setting
from moesim.experiment.spec import Design, Grid, LatinHypercube, Tpe

__all__ = ["combinations", "first_look", "joined"]


def combinations(design: Design, axes: Sequence[Dimension]) -> Iterator[tuple[Setting, dict[str, Any]]]:
    """Each setting of all axes, by path, and as tables show it; the last axis changes fastest."""
    if isinstance(design, Grid):
        for steps in product(*(range(axis.size) for axis in axes)):
            yield joined([axis.step(index) for axis, index in zip(axes, steps, strict=True)])
        return
    if isinstance(design, Tpe):
        for parts in first_look(axes):
            yield joined([axis.drawn(share) for axis, share in zip(axes, parts, strict=True)])
        return
    for row in _shares(design, len(axes)):
        yield joined([axis.drawn(share) for axis, share in zip(axes, row, strict=True)])


def _shares(design: Design, dimensions: int) -> list[list[float]]:
    """[points, dimensions] shares of the way, in [0, 1)."""
    if not dimensions:
        return [[]]
    from scipy.stats import qmc

    if isinstance(design, LatinHypercube):
        return [list(map(float, row)) for row in qmc.LatinHypercube(dimensions, rng=design.seed).random(design.points)]
    assert not isinstance(design, Grid)
    return [list(map(float, row)) for row in qmc.Sobol(dimensions, rng=design.seed).random(design.points)]


def first_look(axes: Sequence[Dimension]) -> list[list[float]]:
    """[settings, axes] shares of the way: the first value of every axis, and each further one (or other end) by itself."""
    shares = [[1.0] if axis.spread is not None else [(step + 0.5) / axis.size for step in range(1, axis.size)] for axis in axes]
    looks = [[0.0] * len(axes)]
    for place, further in enumerate(shares):
        looks += [[*looks[0][:place], share, *looks[0][place + 1 :]] for share in further]
    return looks


def joined(parts: Sequence[tuple[Setting, dict[str, Any]]]) -> tuple[Setting, dict[str, Any]]:
    """One setting of all axes, by path, and as tables show it."""
    setting: Setting = {}
    shown: dict[str, Any] = {}
    for values, texts in parts:
        setting.update(values)
        shown.update(texts)
    return setting, shown
