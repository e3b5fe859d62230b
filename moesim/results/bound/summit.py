"""The highest point under planes that come one by one: what the search of `dual.py` asks at each of its steps.

`Simplex` takes a few milliseconds for all of a search, and gives up where its numbers lie too far apart. `Solver` does not give
up, but loading it takes longer than all else of a small run. Both answer with prices that add up to 1 and rents of 0 or more.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from moesim.arrays import FloatArray
from moesim.errors import MoesimError

__all__ = ["Point", "Simplex", "Solver", "Summit"]

_MAX_STEPS = 1000
_EXACT = 1e-11
"""Costs and shares below which the simplex method takes a number as 0."""

_LOST = 1e-9
"""Share of a plane below 0 by which rounding shows that the basis is not a mix of planes any more."""

Point = tuple[float, tuple[FloatArray, FloatArray]]
"""The height of a point, and the prices [M] and rents [P] that it lies at."""


class Summit(Protocol):
    """`under(plane)` takes one plane [M + P] more and answers with the highest point under all of them."""

    def __init__(self, first: FloatArray, rows: int) -> None: ...
    def under(self, plane: FloatArray) -> Point:
        """The highest point under `plane` [M + P] and all planes before it."""
        ...


class Simplex:
    """A few steps for each plane, on a handful of rows.

    The dual of the question mixes the planes into one whose price rows are at most a height and whose rents are at most 0, and
    asks for the least height. Every further plane is a column of it, so the simplex method goes on from the basis before. The
    multipliers are prices and rents.
    Source: Bertsimas and Tsitsiklis, Introduction to Linear Optimization, sections 3.3 and 6.1; Bland's rule, section 3.4.
    """

    def __init__(self, first: FloatArray, rows: int) -> None:
        """`first` [M + P]: a plane with rents of 0 or less; its first `rows` entries belong to prices."""
        size = self._size = len(first)
        self._rows = rows
        height = np.where(np.arange(size + 1) < rows, -1.0, 0.0)
        self._columns = np.vstack([np.eye(size, size + 1), height, np.append(first, 1.0)])
        """[slack of each unknown, the height, planes; M + P + 1 rows]"""
        self._basis = np.append(np.delete(np.arange(size), int(first[:rows].argmax())), [size, size + 1])

    def under(self, plane: FloatArray) -> Point:
        """The height of the point under all planes, `plane` [M + P] too, and its prices and rents; MoesimError for none."""
        self._columns = np.vstack([self._columns, np.append(plane, 1.0)])
        costs = np.where(np.arange(len(self._columns)) == self._size, 1.0, 0.0)
        for _ in range(_MAX_STEPS):
            try:
                inverse = np.linalg.inv(self._columns[self._basis].T)
            except np.linalg.LinAlgError:
                break
            multipliers = costs[self._basis] @ inverse
            better = np.flatnonzero(costs - self._columns @ multipliers < -_EXACT)
            if not len(better):
                if inverse[:, -1].min() < -_LOST:
                    break
                return _point(float(multipliers[-1]), -multipliers[:-1], self._rows)
            direction, values = inverse @ self._columns[better[0]], np.maximum(inverse[:, -1], 0.0)
            falling = np.flatnonzero(direction > _EXACT)
            if not len(falling):
                break
            ratios = values[falling] / direction[falling]
            least = falling[ratios <= ratios.min() + _EXACT]
            self._basis[least[self._basis[least].argmin()]] = better[0]
        raise MoesimError("the linear programme of the bound has no solution")


class Solver:
    """HiGHS, asked anew for each plane."""

    def __init__(self, first: FloatArray, rows: int) -> None:
        """`first` [M + P]: a plane with rents of 0 or less; its first `rows` entries belong to prices."""
        self._planes, self._rows = [first], rows

    def under(self, plane: FloatArray) -> Point:
        """The height of the point under all planes, `plane` [M + P] too, and its prices and rents; MoesimError for none."""
        from scipy.optimize import linprog

        self._planes.append(plane)
        planes, unknowns = np.array(self._planes), len(plane)
        aim = np.concatenate([[-1.0], np.zeros(unknowns)])
        below = np.hstack([np.ones((len(planes), 1)), -planes])
        total = np.concatenate([[0.0], np.ones(self._rows), np.zeros(unknowns - self._rows)])[None]
        bounds = [(None, None), *[(0.0, None)] * unknowns]
        exact: Any = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        solution = linprog(aim, below, np.zeros(len(planes)), total, [1.0], bounds=bounds, method="highs-ds", options=exact)
        if solution.x is None:
            raise MoesimError(f"the linear programme of the bound has no solution: {solution.message}")
        return _point(float(solution.x[0]), solution.x[1:], self._rows)


def _point(height: float, unknowns: FloatArray, rows: int) -> Point:
    """Prices that add up to 1 exactly as well as floats can: any such prices give a valid bound."""
    unknowns = np.maximum(unknowns, 0.0)
    total = unknowns[:rows].sum()
    if not total > 0:
        raise MoesimError("the linear programme of the bound has no prices")
    return height, (unknowns[:rows] / total, unknowns[rows:] / total)
