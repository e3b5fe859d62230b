"""Finds the answer of a sweep in its table: the best setting, bounds, pairs of policies, and all that other modules find.

Knows a table of points and its axes; not what the axes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

from moesim.results.marks import losses_of_rows
from moesim.results.statistics import Interval, as_share, mean, paired_difference, t_interval
from moesim.results.sweeps.along import crossovers, peaks
from moesim.results.sweeps.answer import Answer, BoundReached, Counts, Driver, Leader, Pair, PointFailure, Rival, WarmUp
from moesim.results.sweeps.answer_file import FORMAT
from moesim.results.sweeps.cells import Cell, cells, ends, tied
from moesim.results.sweeps.constraints import constraint_words
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.driven import driven
from moesim.results.sweeps.front import not_weighed, pareto
from moesim.results.sweeps.words import sentences

__all__ = ["answered"]

ALL_PAIRS = 6
"""Up to this number, policies are compared each with each; of more, the best of a setting with every other."""
MOST_ROWS = 2000


def answered(experiment: Description, rows: Sequence[Mapping[str, Any]]) -> Answer:
    """The whole answer of an experiment whose points gave `rows`."""
    all_cells = cells(experiment, rows)
    known = [cell for cell in all_cells if not cell.bound]
    level = experiment.level
    sign = experiment.sign
    grid = experiment.design["kind"] == "grid"
    contenders, rivals = _rivals(experiment, known)
    answer = Answer(
        format=FORMAT,
        metric=experiment.metric,
        goal=experiment.goal,
        level=experiment.level,
        experiment=experiment.name,
        points=Counts(len(rows), *(_count(rows, status) for status in ("done", "refused", "failed"))),
        sentences=(),
        constraints=tuple(constraint_words(limit) for limit in experiment.constraints),
        best=_best([cell for cell in known if not cell.missed], level, sign),
        bounds=_bounds(all_cells, level, sign),
        lossy=_lossy(rows),
        peaks=tuple(peaks(experiment, known, level, sign)) if grid else (),
        contenders=contenders,
        crossovers=tuple(crossovers(experiment, rivals, level)) if grid else (),
        pairs=tuple(islice(_pairs(rivals, level, sign), MOST_ROWS)),
        drivers=_drivers(experiment, known, sign),
        pareto=pareto(experiment, rows),
        not_weighed=not_weighed(rows),
        warm_up=_warm_up(experiment, rows),
        failures=tuple(_failure(experiment, row) for row in rows if row["status"] != "done"),
    )
    return replace(answer, sentences=tuple(sentences(experiment, answer)))


def _count(rows: Sequence[Mapping[str, Any]], status: str) -> int:
    return sum(row["status"] == status for row in rows)


def _failure(experiment: Description, row: Mapping[str, Any]) -> PointFailure:
    settings = {name: row[name] for name in experiment.settings}
    return PointFailure(row["point"], settings, row["policy"], row["replicate"], row["status"], row["error"])


def _rivals(experiment: Description, known: Sequence[Cell]) -> tuple[str, list[Cell]]:
    """What is compared: the policies, or with one policy alone the values of the only axis without numbers, in their place."""
    words = [axis.column for axis in experiment.axes if not axis.numeric]
    if len(experiment.policies) > 1 or len(words) != 1:
        return "policy", list(known)
    return words[0], [
        Cell(tuple(pair for pair in cell.settings if pair[0] != words[0]), str(dict(cell.settings)[words[0]]), cell.samples)
        for cell in known
    ]


def _best(known: Sequence[Cell], level: float, sign: float) -> Leader | None:
    if not known:
        return None
    best = max(known, key=lambda cell: cell.mean)  # the first of equals
    rivals = [cell for cell in known if cell is not best and tied(best, cell, level)]
    return Leader(
        dict(best.settings),
        best.policy,
        *ends(t_interval(list(best.samples.values()), level), sign),
        samples=len(best.samples),
        tied=tuple(Rival(dict(cell.settings), cell.policy) for cell in rivals),
    )


def _bounds(all_cells: Sequence[Cell], level: float, sign: float) -> tuple[BoundReached, ...]:
    """The best setting of each bound that no system can run, the best of them first."""
    groups: dict[str, list[Cell]] = {}
    for cell in all_cells:
        if cell.bound:
            groups.setdefault(cell.policy, []).append(cell)
    best = [max(group, key=lambda cell: cell.mean) for group in groups.values()]
    return tuple(_bound(cell, level, sign) for cell in sorted(best, key=lambda cell: -cell.mean))


def _bound(cell: Cell, level: float, sign: float) -> BoundReached:
    interval = ends(t_interval(list(cell.samples.values()), level), sign)
    return BoundReached(dict(cell.settings), cell.policy, *interval, samples=len(cell.samples))


def _lossy(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Policy -> what it does to the model's output at most, for those that do anything."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["policy"]), []).append(row)
    losses_of = {policy: losses_of_rows(group) for policy, group in groups.items()}
    return {policy: tuple(words) for policy, words in losses_of.items() if words}


def _drivers(experiment: Description, known: Sequence[Cell], sign: float) -> tuple[Driver, ...]:
    """What the metric varies with, where settings were drawn from all axes at once; a grid has its peaks instead."""
    if experiment.design["kind"] not in ("latin_hypercube", "sobol") or not experiment.axes:
        return ()
    return driven(experiment.axes, ((cell.policy, dict(cell.settings), sign * cell.mean) for cell in known))


def _pairs(known: Sequence[Cell], level: float, sign: float) -> Iterator[Pair]:
    groups: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
    for cell in known:
        groups.setdefault(cell.settings, []).append(cell)
    for group in groups.values():
        ranked = sorted(group, key=lambda cell: -cell.mean)  # stable: equals stay in the order of the policies
        pairs = list(combinations(ranked, 2)) if len(ranked) <= ALL_PAIRS else [(ranked[0], cell) for cell in ranked[1:]]
        yield from (_pair(a, b, level, sign) for a, b in pairs if a.beside(b)[0])


def _pair(a: Cell, b: Cell, level: float, sign: float) -> Pair:
    """`a` against `b`, of which a has the better mean; shares are of the mean of b, with the verdict's interval."""
    left, right = a.beside(b)
    difference = paired_difference(left, right, level)
    middle, low, high = ends(difference.interval, sign)
    own, reference = sign * mean(left), sign * mean(right)
    shares = (as_share(Interval(middle, low, high, len(left)), reference) or (None, None, None))[:3]
    percent = [None if end is None else 100 * end for end in shares]
    return Pair(
        at=dict(a.settings), a=a.policy, b=b.policy,
        ratio=own / reference if reference > 0 else None,
        percent=percent[0], percent_low=percent[1], percent_high=percent[2],
        difference=middle, difference_low=low, difference_high=high,
        verdict="tie" if difference.verdict == "tie" else "better", samples=len(left),
    )  # fmt: skip


def _warm_up(experiment: Description, rows: Sequence[Mapping[str, Any]]) -> WarmUp:
    cuts = [float(row["warm_up_steps"]) for row in rows if row.get("warm_up_steps") is not None]
    unsettled = sum(row.get("settled") == "no" for row in rows)
    return WarmUp(experiment.warm_up, len(cuts), mean(cuts) if cuts else None, unsettled)
