"""The search for the best dual of a programme that spreads classes of work over resources and memory.

Knows matrices of seconds and bytes only; what the resources are is for `bound.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray
from moesim.errors import MoesimError

__all__ = ["Programme", "best_prices", "lagrangian", "reference"]


_GAP = 1e-9
"""Share of the bound that the search may leave on the table."""
_MAX_PLANES = 500
_MAX_STEPS = 1000
_EXACT = 1e-11
"""Costs and shares below which the simplex method takes a number as 0."""
_SLOWEST = (1e9, 1e6, 1e3)
"""Times the answer's size beyond which the search takes options as equally slow, as they carry next to no share of the work;
the lower ones, which keep the solver's numbers closer together, where it fails with the higher."""


class Programme(NamedTuple):
    """Options of all items side by side. Short names: V options, G items (classes and dense work), M time rows."""

    time: FloatArray
    """[M, V] seconds on each resource when the option takes the whole class."""
    resident: FloatArray
    """[P, V] bytes run as resident, one row per phase."""
    capacity: FloatArray
    """[P] bytes that may be run as resident."""
    group: NDArray[np.int64]
    """[V] class that the option belongs to, ascending."""


def _group_min(values: FloatArray, group: NDArray[np.int64]) -> FloatArray:
    if not group.size:
        return np.zeros(0)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    least: FloatArray = np.minimum.reduceat(values, starts)
    return least


def reference(programme: Programme) -> float:
    """A time of the size of the answer, s: each class alone on its quickest resource that memory does not limit."""
    alone = programme.time.max(axis=0, initial=0.0)
    return float(_group_min(alone, programme.group).sum())


def _choice(cost: FloatArray, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """[G] the cheapest option of each class, the first among equals."""
    least = np.repeat(_group_min(cost, group), np.diff(np.flatnonzero(np.diff(group, prepend=-1, append=-1))))
    cheapest = np.flatnonzero(cost == least)
    return cheapest[np.diff(group[cheapest], prepend=-1) > 0]


def lagrangian(programme: Programme, prices: FloatArray, rents: FloatArray) -> float:
    """Value of the dual at `prices: [M]` (at least 0, sum 1) and `rents: [P]` (at least 0): never above the optimum."""
    cost = prices @ programme.time + rents @ programme.resident
    return float(_group_min(cost, programme.group).sum() - rents @ programme.capacity)


def best_prices(programme: Programme) -> tuple[FloatArray, FloatArray]:
    """Best prices of the time rows [M] and rents of the memory rows [P]: the dual of the linear programme.

    Times are in units of `reference`; longer ones than `_SLOWEST` enter the search cut to that. Any prices are valid, so those
    found are valid for the programme as it stands. Raises MoesimError where there is no answer.

    The dual has a handful of unknowns, however many classes there are, and for given prices its value is the sum of
    each class's cheapest option. So it is solved by cutting planes: each choice of options is a plane above the dual
    value, the highest point under all planes gives the next prices, and it ends when the point lies on the dual.
    Source: J. Kelley, The cutting-plane method for solving convex programs, J. SIAM 8 (1960).
    """
    # memory in shares of all bytes, so that every number the solver sees is near 1
    whole = np.maximum(np.maximum(programme.resident.sum(axis=1), programme.capacity), 1.0)
    scaled = programme._replace(resident=programme.resident / whole[:, None], capacity=programme.capacity / whole)
    if (scaled.resident[:, _choice(scaled.resident.sum(axis=0), scaled.group)].sum(axis=1) > scaled.capacity + _GAP).any():
        raise MoesimError("the work cannot be done: what only the GPU can run does not fit and cannot be uploaded")
    failure = MoesimError()
    for slowest in _SLOWEST:
        try:
            prices, rents = _search(scaled._replace(time=np.minimum(scaled.time, slowest)))
        except MoesimError as error:
            failure = error
        else:
            return prices, rents / whole
    raise failure


def _search(scaled: Programme) -> tuple[FloatArray, FloatArray]:
    """Cutting planes over a programme whose numbers are near 1."""
    rows, phases = len(scaled.time), len(scaled.capacity)
    best, value = (np.full(rows, 1.0 / rows), np.zeros(phases)), -np.inf
    # the first choice needs the least memory and so keeps rents from growing without end
    first = _plane(scaled, scaled.resident.sum(axis=0))
    first[rows:] = np.minimum(first[rows:], 0.0)
    summit = _Summit(first, rows)
    tried = best
    for _ in range(_MAX_PLANES):
        reached = lagrangian(scaled, *tried)
        if reached > value:
            best, value = tried, reached
        top, tried = summit.under(_plane(scaled, tried[0] @ scaled.time + tried[1] @ scaled.resident))
        if top - value <= _GAP * abs(top):
            break
    return best


def _plane(programme: Programme, cost: FloatArray) -> FloatArray:
    """[M + P] seconds on each resource and bytes beyond each capacity, when each class takes its option of least `cost`."""
    choice = _choice(cost, programme.group)
    return np.concatenate(
        [programme.time[:, choice].sum(axis=1), programme.resident[:, choice].sum(axis=1) - programme.capacity]
    )


class _Summit:
    """The highest point under planes that come one by one.

    Its dual mixes the planes into one whose price rows are at most a height and whose rents are at most 0, and asks for the
    least height. Every further plane is a column of it, so the simplex method goes on from the basis before: a few steps on a
    handful of rows. (Loading a solver takes ten times as long as the whole search.) The multipliers are prices and rents.
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

    def under(self, plane: FloatArray) -> tuple[float, tuple[FloatArray, FloatArray]]:
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
                duals = np.maximum(-multipliers[:-1], 0.0)
                total = duals[: self._rows].sum()
                # prices that add up to 1 exactly as well as floats can: any such prices give a valid bound
                return float(multipliers[-1]), (duals[: self._rows] / total, duals[self._rows :] / total)
            direction, values = inverse @ self._columns[better[0]], np.maximum(inverse[:, -1], 0.0)
            falling = np.flatnonzero(direction > _EXACT)
            if not len(falling):
                break
            ratios = values[falling] / direction[falling]
            least = falling[ratios <= ratios.min() + _EXACT]
            self._basis[least[self._basis[least].argmin()]] = better[0]
        raise MoesimError("the linear programme of the bound has no solution")
