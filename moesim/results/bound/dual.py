"""The search for the best dual of a programme that spreads classes of work over resources and memory.

Knows matrices of seconds and bytes only; what the resources are is for `limits.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray
from moesim.errors import MoesimError
from moesim.results.bound.summit import Simplex, Solver, Summit

__all__ = ["Programme", "best_prices", "lagrangian", "reference"]


_GAP = 1e-9
"""Share of the bound that the search may leave on the table."""
_MAX_PLANES = 500
_SLOWEST = (1e9, 1e6, 1e3)
"""Times the answer's size beyond which the search takes options as equally slow, as they carry next to no share of the work;
the lower ones, which keep the solver's numbers closer together, where it fails with the higher."""


class Programme(NamedTuple):
    """Options of all items side by side. Short names: V options, G items (classes and dense work), M time rows."""

    time: FloatArray
    """[M, V] seconds on each resource when the option takes the whole class."""
    resident: FloatArray
    """[P, V] bytes run as resident, one row per memory and phase."""
    capacity: FloatArray
    """[P] bytes that may be run as resident."""
    starts: NDArray[np.int64]
    """[G] first option of each class, ascending from 0; the options of a class lie side by side."""
    memories: int = 1
    """Memories that bytes may be resident in."""


def _least(values: FloatArray, starts: NDArray[np.int64]) -> FloatArray:
    """[G] the least of the values [V] of each class."""
    if not starts.size:
        return np.zeros(0)
    least: FloatArray = np.minimum.reduceat(values, starts)
    return least


def reference(programme: Programme) -> float:
    """A time of the size of the answer, s: each class alone on its quickest resource that memory does not limit."""
    alone = programme.time.max(axis=0, initial=0.0)
    with np.errstate(over="ignore"):  # the caller refuses what overflows
        return float(_least(alone, programme.starts).sum())


def _choice(cost: FloatArray, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[G] the cheapest option of each class, the first among equals."""
    sizes = np.append(starts[1:], len(cost)) - starts
    cheapest = np.flatnonzero(cost == np.repeat(_least(cost, starts), sizes))
    return cheapest[np.searchsorted(cheapest, starts)]


def _cost(programme: Programme, prices: FloatArray, rents: FloatArray) -> FloatArray:
    """[V] what each option costs at `prices` [M] and `rents` [P]."""
    return np.asarray(prices @ programme.time + rents @ programme.resident)


def _value(programme: Programme, cost: FloatArray, rents: FloatArray) -> float:
    """Value of the dual where the options have this `cost` [V]."""
    return float(_least(cost, programme.starts).sum() - rents @ programme.capacity)


def lagrangian(programme: Programme, prices: FloatArray, rents: FloatArray) -> float:
    """Value of the dual at `prices: [M]` (at least 0, sum 1) and `rents: [P]` (at least 0): never above the optimum."""
    return _value(programme, _cost(programme, prices, rents), rents)


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
    whole = np.tile(whole.reshape(programme.memories, -1).max(axis=0), programme.memories)  # alike in all memories
    scaled = programme._replace(resident=programme.resident / whole[:, None], capacity=programme.capacity / whole)
    if (_least_held(scaled)[len(scaled.time) :] > _GAP).any():
        raise MoesimError("the work cannot be done: what only the GPU can run does not fit and cannot be uploaded")
    prices, rents = _quickly(scaled) or _solved(scaled)
    return prices, rents / whole


def _quickly(scaled: Programme) -> tuple[FloatArray, FloatArray] | None:
    """Prices and rents by the simplex method; None where it gives up or leaves a gap."""
    try:
        prices, rents, closed = _search(scaled._replace(time=np.minimum(scaled.time, _SLOWEST[0])), Simplex)
    except MoesimError:
        return None
    return (prices, rents) if closed else None


def _solved(scaled: Programme) -> tuple[FloatArray, FloatArray]:
    """Prices and rents by the solver."""
    failure = MoesimError()
    for slowest in _SLOWEST:
        try:
            return _search(scaled._replace(time=np.minimum(scaled.time, slowest)), Solver)[:2]
        except MoesimError as error:
            failure = error
    raise failure


def _search(scaled: Programme, method: type[Summit]) -> tuple[FloatArray, FloatArray, bool]:
    """Cutting planes over a programme whose numbers are near 1: best prices, best rents, and whether nothing better is left."""
    rows, phases = len(scaled.time), len(scaled.capacity)
    best, value = (np.full(rows, 1.0 / rows), np.zeros(phases)), -np.inf
    first = _least_held(scaled)
    first[rows:] = np.minimum(first[rows:], 0.0)
    summit = method(first, rows)
    tried = best
    for _ in range(_MAX_PLANES):
        cost = _cost(scaled, *tried)
        reached = _value(scaled, cost, tried[1])
        if reached > value:
            best, value = tried, reached
        top, tried = summit.under(_plane(scaled, cost))
        if top - value <= _GAP * abs(top):
            return *best, True
    return *best, False


def _least_held(programme: Programme) -> FloatArray:
    """The plane [M + P] of the choices that need the least memory, which keeps rents from growing without end.

    What has to be in some memory is spread over all of them by their room.
    """
    shape = programme.memories, len(programme.capacity) // programme.memories
    held = programme.resident.reshape(*shape, programme.resident.shape[1]).sum(axis=1)
    total, room = held.sum(axis=0), programme.capacity.reshape(shape).sum(axis=1)
    shares = room / room.sum() if room.sum() > 0 else np.full(programme.memories, 1.0 / programme.memories)
    planes = [_plane(programme, total + _GAP * (total - part)) for part in held]
    return np.asarray(shares @ np.array(planes))


def _plane(programme: Programme, cost: FloatArray) -> FloatArray:
    """[M + P] seconds on each resource and bytes beyond each capacity, when each class takes its option of least `cost`."""
    choice = _choice(cost, programme.starts)
    return np.concatenate(
        [programme.time[:, choice].sum(axis=1), programme.resident[:, choice].sum(axis=1) - programme.capacity]
    )
