"""What a grid shows along one axis, the others fixed: where each policy peaks, and where one passes another.

Knows cells and axes of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from moesim.results.statistics import mean
from moesim.results.sweeps.answer import Crossover, Peak
from moesim.results.sweeps.cells import Cell, ends, paired
from moesim.results.sweeps.description import DescribedAxis, Description
from moesim.results.sweeps.search import find_crossovers, find_peak

__all__ = ["crossovers", "peaks"]

Slice = tuple[dict[str, Any], dict[str, dict[float, Cell]]]


def _slices(known: Sequence[Cell], axis: DescribedAxis) -> Iterator[Slice]:
    """For each setting of the other axes: policy -> value of this axis -> cell."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, dict[float, Cell]]] = {}
    for cell in known:
        fixed = tuple((name, value) for name, value in cell.settings if name not in axis.columns)
        value = dict(cell.settings)[axis.column]
        groups.setdefault(fixed, {}).setdefault(cell.policy, {})[value] = cell
    for fixed, policies in groups.items():
        yield dict(fixed), policies


def _numeric(experiment: Description, fewest: int) -> list[DescribedAxis]:
    return [axis for axis in experiment.axes if axis.numeric and len(axis.values) >= fewest]


def peaks(experiment: Description, known: Sequence[Cell], level: float, sign: float) -> Iterator[Peak]:
    """Of each policy along each axis with three numbers or more, at each setting of the other axes."""
    for axis in _numeric(experiment, 3):
        for fixed, policies in _slices(known, axis):
            for policy, curve in policies.items():
                samples = paired(curve)
                if len(samples) < 3:
                    continue
                best = find_peak(samples, level)
                middle, low, high = ends(best.best, sign)
                yield Peak(
                    axis=axis.name, column=axis.column, policy=policy, at=fixed, value=best.value,
                    low=best.low, high=best.high, kind=best.kind, tied=best.tied, at_edge=best.at_edge,
                    mean=middle, mean_low=low, mean_high=high, samples=best.best.samples,
                    worst=sign * min(mean(values) for values in samples.values()),
                )  # fmt: skip


def crossovers(experiment: Description, known: Sequence[Cell], level: float) -> Iterator[Crossover]:
    """Among the policies that lead somewhere along an axis: where one passes another."""
    for axis in _numeric(experiment, 2):
        for fixed, policies in _slices(known, axis):
            values = sorted({value for curve in policies.values() for value in curve})
            for a, b in combinations(dict.fromkeys(_leader(policies, value) for value in values), 2):
                common = [value for value in policies[a] if value in policies[b]]
                left, right = (paired({value: policies[p][value] for value in common}) for p in (a, b))
                for crossing in find_crossovers(left, right, level):
                    before, behind = (a, b) if crossing.before == "a" else (b, a)
                    yield Crossover(
                        axis=axis.name, column=axis.column, a=a, b=b, at=fixed, value=crossing.value,
                        low=crossing.low, high=crossing.high, below=before, above=behind,
                    )  # fmt: skip


def _leader(policies: Mapping[str, Mapping[float, Cell]], value: float) -> str:
    """The policy with the best mean at a value of the axis; the first of equals."""
    there = {policy: curve[value].mean for policy, curve in policies.items() if value in curve}
    return max(there, key=lambda policy: there[policy])
