"""Searches the best values of an experiment's numeric axes: looks closer around the best, policy by policy.

Knows points and means; the model behind a value is none of its business.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.errors import InputError, Mistake
from moesim.experiment import tpe
from moesim.experiment.axes import Column, Dimension, Setting
from moesim.experiment.plan import Plan, plan
from moesim.experiment.spec import Tpe
from moesim.experiment.sweep import Effort
from moesim.progress import Progress
from moesim.results.statistics import t_interval
from moesim.results.sweeps.answer import Ends, Optimum, OutOfReach, SearchAnswer
from moesim.results.sweeps.cells import Cell, cells, ends, paired, tied
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.result import SearchResult, SweepResult
from moesim.results.sweeps.search import find_peak
from moesim.results.sweeps.words import optimum_sentences
from moesim.scenario.tree import Node

__all__ = ["ROUNDS", "optimize"]

ROUNDS = 4
"""Each halves the distance to the neighbours of the best: four make it a sixteenth."""


def optimize(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    rounds: int = ROUNDS,
    jobs: int | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
    sets: Iterable[str] = (),
) -> SearchResult:
    """The experiment, and then `rounds` looks between the best setting of each policy and its neighbours, axis by axis.

    Axes whose values are not numbers are not searched between: each of their settings is searched by itself. An axis is
    left alone as soon as neither neighbour differs significantly from the best (`statistics.paired_difference`). Only
    settings that keep the experiment's constraints can be best; where the metric is an axis, the search halves the distance
    to the nearest setting that does not keep them. The answer gains `optimum`: for each policy the best values, and between
    which tested ones they lie; and `out_of_reach`: those that keep the constraints nowhere. It is the best of the design
    and of its surroundings: a higher peak between two values far from the best is not found. InputError for mistakes.
    """
    experiment_plan = plan(source, sets)
    if isinstance(experiment_plan.experiment.design, Tpe):
        if tpe.installed():
            return _proposed(experiment_plan, Effort(out, experiment_plan.description, jobs=jobs, dask=dask), progress)
        warnings.warn("Optuna is not installed (pip install 'moesim[optimize]'): the grid is searched instead", stacklevel=2)
        experiment_plan = plan(source, sets, design="grid")
    searched = _searched(experiment_plan)
    if rounds < 0:
        raise InputError(Mistake(f"{rounds} rounds are not a search; write 0 or more", file="--rounds"))
    design = {"kind": "search", "rounds": rounds, "start": experiment_plan.description.design}
    description, planner = replace(experiment_plan.description, design=design), experiment_plan.planner
    effort = Effort(out, description, jobs=jobs, dask=dask)
    effort.complete(experiment_plan.tasks, progress=progress)
    for _ in range(rounds):
        if not _look_closer(experiment_plan, searched, cells(description, effort.rows(planner.rows))):
            break
        effort.complete(planner.tasks, progress=progress)
    return effort.keep(_searched_result(replace(description, points=len(planner.rows)), effort.rows(planner.rows), searched))


def _look_closer(experiment_plan: Plan, searched: Sequence[Dimension], known: Sequence[Cell]) -> bool:
    """Adds the settings between the best of each policy and their neighbours; whether there are any."""
    planner = experiment_plan.planner
    before = len(planner.rows)
    for choice in planner.policies:
        own = [cell for cell in known if cell.policy == (choice.label or experiment_plan.rows[0].policy)]
        for group in _groups(own, searched):
            planner.add(_closer(experiment_plan, searched, group), [choice])
    if planner.mistakes(""):
        raise InputError(*planner.mistakes(""))
    return len(planner.rows) > before


def _proposed(experiment_plan: Plan, effort: Effort, progress: Progress | None) -> SearchResult:
    """The settings that Optuna proposes, and the best of each policy among them."""
    design, planner = experiment_plan.experiment.design, experiment_plan.planner
    assert isinstance(design, Tpe)
    left_out = tpe.propose(experiment_plan, effort, design, progress)
    description = replace(experiment_plan.description, points=len(planner.rows))
    rows = effort.rows(planner.rows)
    known = [cell for cell in cells(description, rows) if not cell.bound]
    groups = [[cell for cell in known if cell.policy == policy] for policy in dict.fromkeys(cell.policy for cell in known)]
    result = _result_of(description, rows, groups, [], description.settings)
    sentences = (*result.answer.sentences, *(f"Left out: settings with which {words}" for words in left_out))
    return effort.keep(replace(result, answer=replace(result.answer, sentences=sentences)))


def _searched(experiment_plan: Plan) -> list[Dimension]:
    """The axes of numbers; InputError where there is none."""
    searched = [axis for axis in experiment_plan.axes if len(axis.columns) == 1 and _scale(axis) != "categories"]
    if not searched:
        raise InputError(Mistake("no axis has numbers to search between; write a range or a list of numbers", "axes"))
    return searched


def _searched_result(description: Description, rows: list[dict[str, Any]], searched: Sequence[Dimension]) -> SearchResult:
    """The result of all points, with the optimum of each policy and the settings that keep the constraints nowhere."""
    groups = _groups([cell for cell in cells(description, rows) if not cell.bound], searched)
    return _result_of(description, rows, groups, searched, _names(searched))


def _result_of(
    description: Description,
    rows: list[dict[str, Any]],
    groups: Sequence[Sequence[Cell]],
    between: Sequence[Dimension],
    varied: Sequence[str],
) -> SearchResult:
    """The result, with the optimum of each group of cells that differ in the columns `varied`; along the axes `between` it is
    known between which values it lies."""
    result = SweepResult.of(description, rows)
    optima = [_optimum(between, group, description) for group in groups if _leader(group) is not None]
    fields = {field.name: getattr(result.answer, field.name) for field in dataclasses.fields(result.answer)}
    answer = SearchAnswer(
        **fields,
        optimum=tuple(sorted(optima, key=lambda optimum: -description.sign * optimum.mean)),
        out_of_reach=tuple(_nowhere(varied, group) for group in groups if _leader(group) is None),
    )
    sentences = (*optimum_sentences(description, answer), *answer.sentences[1:])
    return SearchResult(description, result.columns, replace(answer, sentences=sentences), result.mean_columns)


def _scale(axis: Dimension) -> str:
    return axis.columns[0].scale


def _groups(known: Sequence[Cell], searched: Sequence[Dimension]) -> list[list[Cell]]:
    """The cells that differ in searched axes alone: of one policy, and at the same values of the axes without numbers."""
    groups: dict[Any, list[Cell]] = {}
    for cell in known:
        groups.setdefault((cell.policy, _rest(cell, _names(searched))), []).append(cell)
    return list(groups.values())


def _names(searched: Sequence[Dimension]) -> list[str]:
    return [axis.columns[0].name for axis in searched]


def _rest(cell: Cell, varied: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    return tuple(pair for pair in cell.settings if pair[0] not in varied)


def _leader(known: Sequence[Cell]) -> Cell | None:
    """The best of the cells that keep the constraints."""
    return max((cell for cell in known if not cell.missed), key=lambda cell: cell.mean, default=None)


def _nowhere(varied: Sequence[str], known: Sequence[Cell]) -> OutOfReach:
    """A group that keeps the constraints nowhere, and what its every setting misses."""
    always = tuple(words for words in known[0].missed if all(words in cell.missed for cell in known))
    return OutOfReach(known[0].policy, dict(_rest(known[0], varied)), always, len(known))


def _line(axis: Dimension, best: Cell, known: Sequence[Cell]) -> dict[float, Cell]:
    """Value -> cell, of the cells that differ from the best in this axis alone."""
    column = axis.columns[0].name
    here = dict(best.settings)
    line = {}
    for cell in known:
        settings = dict(cell.settings)
        if all(settings[name] == value for name, value in here.items() if name != column):
            line[settings[column]] = cell
    return line


def _beside(axis: Dimension, best: Cell, known: Sequence[Cell]) -> list[Cell]:
    """The nearest cells of the line on either side of the best."""
    line, here = _line(axis, best, known), dict(best.settings)[axis.columns[0].name]
    below, above = [v for v in line if v < here], [v for v in line if v > here]
    return [*(line[v] for v in below if v == max(below)), *(line[v] for v in above if v == min(above))]


def _closer(experiment_plan: Plan, axes: Sequence[Dimension], known: Sequence[Cell]) -> list[tuple[Setting, dict[str, Any]]]:
    """Settings half-way between the best one and its neighbours, one axis changed in each."""
    best = _leader(known)
    if best is None:
        return []
    level = experiment_plan.description.level
    points = []
    for axis in axes:
        column = axis.columns[0]
        neighbours = _beside(axis, best, known)
        if column.name == experiment_plan.description.metric:
            neighbours = [cell for cell in neighbours if cell.missed]
        if all(not cell.missed and tied(best, cell, level) for cell in neighbours):
            continue
        here = dict(best.settings)
        for cell in neighbours:
            value = _middle(column, here[column.name], dict(cell.settings)[column.name])
            if value is not None:
                shown = {**here, column.name: value}
                values = {**experiment_plan.planner.settings[best.settings], column.path: _node(column, value)}
                points.append((values, shown))
    return points


def _middle(column: Column, a: float, b: float) -> float | int | None:
    """Half-way between two values, in equal steps or ratios; None where there is no other whole number."""
    middle = math.sqrt(a * b) if column.scale == "log" else (a + b) / 2
    if all(isinstance(value, int) for value in column.shown):
        return None if round(middle) in (a, b) else round(middle)
    return float(f"{middle:.6g}")


def _node(column: Column, value: float | int) -> Node:
    return replace(column.values[0], value=f"{value!r} {column.unit}" if column.unit else value)


def _optimum(axes: Sequence[Dimension], known: Sequence[Cell], description: Description) -> Optimum:
    """The best of a policy, and for each axis the tested values between which it lies (`search.find_peak`)."""
    best = _leader(known)
    assert best is not None
    level = description.level
    between = {}
    for axis in axes:
        column, line = axis.columns[0].name, _line(axis, best, known)
        curve = paired(line)
        if any(cell.missed for cell in line.values()):
            neighbours = [dict(cell.settings)[column] for cell in (best, *_beside(axis, best, known))]
            between[column] = Ends(min(neighbours), max(neighbours))
        elif curve:
            peak = find_peak(curve, level)
            between[column] = Ends(peak.low, peak.high)
    interval = ends(t_interval(list(best.samples.values()), level), description.sign)
    return Optimum(best.policy, dict(best.settings), between, *interval, samples=len(best.samples), runs=len(known))
