"""The search for the best dual: the same value as a solver of linear programmes that is given the whole of it."""

from __future__ import annotations

import numpy as np
import pytest
from reporting import for_all
from scipy.optimize import linprog

from moesim.errors import MoesimError
from moesim.results.bound import dual
from moesim.results.bound.dual import Programme, best_prices, lagrangian, reference

LOST = (207, 417, 725, 1683)
"""Programmes on which the simplex method lost its way and answered up to 99 % too low, or not at all: the solver takes over."""


def programme(seed: int) -> Programme:
    """Random classes of which some fit into memory; in every third programme resources differ by nine orders of magnitude."""
    rng = np.random.default_rng(seed)
    resources, phases, classes = int(rng.integers(2, 7)), int(rng.integers(1, 3)), int(rng.integers(1, 30))
    group = np.repeat(np.arange(classes), rng.integers(1, 5, classes))
    time = np.where(rng.random((resources, len(group))) < 0.5, rng.random((resources, len(group))), 0.0)
    if seed % 3 == 0:
        time *= 10.0 ** rng.integers(-3, 6, time.shape)
    owner = rng.integers(0, phases, classes)[group]
    bytes_there = np.where(owner == np.arange(phases)[:, None], rng.random(len(group)) * (rng.random(len(group)) < 0.5), 0.0)
    capacity = bytes_there.sum(axis=1) * rng.random(phases)
    bare = Programme(time, bytes_there, capacity, np.flatnonzero(np.diff(group, prepend=-1)))
    return bare._replace(time=time / (reference(bare) or 1.0))


def solved(case: Programme) -> float | None:
    """The least time, from the primal programme; None where the work cannot be done."""
    resources, options = case.time.shape
    classes = np.zeros((len(case.starts), options + 1))
    classes[np.searchsorted(case.starts, np.arange(options), side="right") - 1, np.arange(options)] = 1.0
    rows = np.vstack([np.c_[case.time, -np.ones(resources)], np.c_[case.resident, np.zeros(len(case.capacity))]])
    limits = np.concatenate([np.zeros(resources), case.capacity])
    aim = np.append(np.zeros(options), 1.0)
    solution = linprog(aim, rows, limits, classes, np.ones(len(classes)))
    return None if solution.status == 2 else float(solution.fun)


@for_all([*range(24), *LOST])
def test_the_search_finds_the_value_of_the_programme(seed: int) -> None:
    """I4: never above the optimum, and next to nothing below it."""
    case, least = programme(seed), solved(programme(seed))
    if least is None:
        with pytest.raises(MoesimError, match="does not fit"):
            best_prices(case)
        return
    prices, rents = best_prices(case)
    assert prices.sum() == pytest.approx(1.0)
    assert (np.concatenate([prices, rents]) >= 0).all()
    assert lagrangian(case, prices, rents) == pytest.approx(least, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("seed", LOST)
def test_where_the_simplex_method_loses_its_way_it_says_so(seed: int) -> None:
    assert dual._quickly(programme(seed)) is None


def test_most_programmes_never_load_a_solver() -> None:
    whole = [programme(seed) for seed in range(24) if solved(programme(seed)) is not None]
    assert all(dual._quickly(case) is not None for case in whole)
