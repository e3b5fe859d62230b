"""Reads an experiment and lays out all its points, with every mistake at once before anything runs.

Knows files and forms; nothing of how points are run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesim import files
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.experiment.axes import Dimension, dimension
from moesim.experiment.limits import constraints
from moesim.experiment.points import Planner, Row, choices
from moesim.experiment.repeat import resolved, written
from moesim.experiment.spec import KINDS, Axis, Experiment, Grid
from moesim.experiment.task import Task
from moesim.results.metrics import METRICS
from moesim.results.provenance import collect_many
from moesim.results.result import FIELDS
from moesim.results.steady import Steady
from moesim.results.sweeps.description import DescribedAxis, Description
from moesim.results.sweeps.result import POWER
from moesim.runs.fingerprint import physics
from moesim.scenario import catalogue, overrides, strict_yaml
from moesim.scenario.family import Family
from moesim.scenario.file_kinds import refuse_other
from moesim.scenario.judge import judged
from moesim.scenario.resolve import in_full
from moesim.scenario.tree import Node, from_plain, to_plain
from moesim.version import __version__

__all__ = ["Plan", "judge", "plan", "read"]

_RESERVED = ("point", "policy", "seed", "replicate", "status", "error", "samples")
_NO_AXIS = {
    "policy": "write `policies: [...]` beside the axes",
    "seed": "repetitions are asked for by `replications`",
    "replicate": "repetitions are asked for by `replications`",
    "name": "it changes no result",
    "summary": "it changes no result",
    "source": "it changes no result",
    "expect": "it changes no result",
    "compare": "write `policies: [...]` beside the axes",
    "extends": "write an experiment for each scenario",
}
_HIGHEST = tuple(name for name, metric in METRICS.items() if metric.better == "highest")


@dataclass(frozen=True)
class Plan:
    """An experiment with all its points."""

    experiment: Experiment
    axes: tuple[Dimension, ...]
    rows: tuple[Row, ...]
    """In the order of the table."""
    tasks: dict[str, Task]
    """Name -> run; several rows may share one, where a policy has no use for an axis."""
    description: Description
    """What `experiment.json` says."""
    planner: Planner
    root: Node
    """As written; says where a part of it stands."""

    @property
    def columns(self) -> list[str]:
        """The columns of the settings."""
        return self.description.settings


def read(source: str | Path | Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> tuple[Node, Path, str]:
    """The experiment as written, the folder that its paths start from, and its name if it says none.

    `source` is a file, the name of a shipped experiment, the `experiment.json` of a sweep, or plain data; `changes` replace
    keys at its top.
    """
    if isinstance(source, Mapping):
        root, folder, name = from_plain(source), Path(), "experiment"
    elif Path(source).suffix == ".json":
        root, folder = written(files.expanded(source))
        name = "experiment"
    else:
        path = files.expanded(source)
        if isinstance(source, str) and not catalogue.is_path(source) and not files.is_file(path):
            path = catalogue.find("experiments", source, beside=[Path()])
        root, folder, name = strict_yaml.read(path, catalogue.shown(path)).root, path.parent, path.stem
        refuse_other(root.top, ("experiment",), catalogue.shown(path))
    for key, value in (changes or {}).items():
        if value is not None:
            root = root.put((key,), from_plain(value))
    return root, folder, name


def plan(source: str | Path | Mapping[str, Any], sets: Iterable[str] = (), **changes: Any) -> Plan:
    """The experiment with every point resolved and judged; InputError with all mistakes, of all points.

    `sets`, `path=value` each, are laid over its scenario.
    """
    root, folder, name = read(source, changes)
    root = _in_full(root)
    experiment, mistakes = _head(root)
    scenario_node = root.child("scenario")
    if experiment is None or scenario_node is None:
        raise InputError(*mistakes)
    experiment = experiment if experiment.name else experiment.model_copy(update={"name": name})
    drawn = not isinstance(experiment.design, Grid) or any(mistake.path.startswith("design") for mistake in mistakes)
    axes, wrong = _axes(root, drawn)
    mistakes += [*wrong, *_metric(experiment, root, axes), *constraints(experiment, root)[1]]
    requested, unread = overrides.changes(sets, None, None)
    mistakes += unread
    try:
        family = Family(scenario_node, folder, requested)
    except InputError as error:
        raise InputError(*dict.fromkeys([*mistakes, *error.mistakes])) from None
    listed = root.child("policies")
    policies, wrong = choices(listed.value if listed is not None and isinstance(listed.value, list) else None, family)
    planner = Planner(family, experiment, policies, metric=(root.child("metric") or root).place)
    used, idle = _used(axes, planner)
    planner.grid(used)
    mistakes += [*wrong, *idle, *planner.mistakes(root.place.file)]
    if mistakes or planner.first is None:
        here = root.place.file
        raise InputError(*sorted(dict.fromkeys(mistakes), key=lambda m: (m.file != here, m.file, m.line, m.column)))
    return Plan(experiment, tuple(axes), tuple(planner.rows), planner.tasks, _description(planner, axes, root), planner, root)


def _head(root: Node) -> tuple[Experiment | None, list[Mistake]]:
    """All but the axes; where a key is wrong, its default stands in, so that the rest can be looked at as well."""
    known = {key: below for key, below in root.value.items() if key != "axes"}
    experiment, mistakes = judged(Experiment, replace(root, value=known), ())
    if mistakes:
        wrong = {mistake.path.partition(".")[0] for mistake in mistakes}
        rest = {key: below for key, below in known.items() if key not in wrong}
        experiment = judged(Experiment, replace(root, value=rest), ())[0]
    return experiment, mistakes


def judge(path: Path) -> tuple[Mistake, ...]:
    """What is wrong with an experiment file, all its points looked at."""
    try:
        plan(path)
    except InputError as error:
        return error.mistakes
    return ()


def _in_full(root: Node) -> Node:
    """Short forms written out: a list as an axis, a word as a design, one policy as a list."""
    axes = root.child("axes")
    if axes is not None and isinstance(axes.value, dict):
        root = root.put(("axes",), replace(axes, value={name: _axis(below) for name, below in axes.value.items()}))
    design, policies = root.child("design"), root.child("policies")
    if design is not None:
        root = root.put(("design",), in_full(design, "kind"))
    if policies is not None and policies.value == "all":
        root = root.put(("policies",), replace(policies, value=[policies]))
    return root


def _axis(node: Node) -> Node:
    if isinstance(node.value, list):
        return replace(node, value={"kind": Node("list", node.place, node.key), "values": node})
    inside = node.child("paths")
    if inside is not None and isinstance(inside.value, dict):
        return node.put(("paths",), replace(inside, value={path: _axis(below) for path, below in inside.value.items()}))
    return node


def _axes(root: Node, drawn: bool) -> tuple[list[Dimension], list[Mistake]]:
    """The axes that are right, and what is wrong with the others; a design that has `drawn` needs no steps."""
    inside = root.child("axes")
    if inside is None or not isinstance(inside.value, dict) or not inside.value:
        misplaced = []
        if inside is not None and inside.value != {}:
            misplaced.append(Mistake("axes are a mapping from dotted paths to values", "axes", *inside.place))
        elif drawn and root.child("design") is not None:
            misplaced.append(Mistake("a design needs axes to draw from", "design", *root.value["design"].place))
        return [], misplaced
    dimensions: list[Dimension] = []
    mistakes: list[Mistake] = []
    paths: dict[str, str] = {}
    for name, node in inside.value.items():
        axis, wrong = _judged(name, node)
        planned = None
        if axis is not None:
            planned, wrong = dimension(name, axis, node, drawn=drawn)
        mistakes += wrong
        inner = node.child("paths")
        keys = dict(inner.value) if inner is not None and isinstance(inner.value, dict) else {name: node}
        for path, below in keys.items():
            mistakes += [Mistake(text, f"axes.{name}", *below.key) for text in _forbidden(path, paths)]
            paths[path] = name
        if planned is not None and planned.label is not None and name in (*_RESERVED, *keys):
            mistakes.append(Mistake(f"an axis cannot be called '{name}'; tables have that column", f"axes.{name}", *node.key))
        if planned is not None and not any(_forbidden(path, ()) for path in keys):
            dimensions.append(planned)
    return dimensions, mistakes


def _judged(name: str, node: Node) -> tuple[Axis | None, list[Mistake]]:
    """One axis against the spec of its kind."""
    kind = node.child("kind")
    if kind is None or not isinstance(kind.value, str) or kind.value not in KINDS:
        known = ", ".join(KINDS)
        message = f"write a list of values, or a mapping whose 'kind' is one of {known}"
        return None, [Mistake(message, f"axes.{name}", *(kind.place if kind is not None else node.place))]
    return judged(KINDS[kind.value], node, ("axes", name))


def _forbidden(path: str, before: Iterable[str]) -> list[str]:
    """What speaks against varying a path."""
    messages = [f"'{path}' is not an axis: {_NO_AXIS[path]}"] if path in _NO_AXIS else []
    for earlier in before:
        if path == earlier:
            messages.append(f"'{path}' is varied by two axes")
        elif path.startswith(f"{earlier}.") or earlier.startswith(f"{path}."):
            messages.append(
                f"'{path}' and '{earlier}' are varied, and one lies inside the other; vary the outer one as a whole"
            )
    return messages


def _metric(experiment: Experiment, root: Node, axes: Iterable[Dimension]) -> list[Mistake]:
    """A metric that is not an axis and whose first word no result has; the rest (`ttft_s.p99`) depends on the run."""
    known = [*FIELDS, *Steady._fields, POWER]
    name = experiment.metric
    if name.partition(".")[0] in known or _numbers_of(name, axes):
        return []
    message = f"no run has a number '{name}'; there are {', '.join(_HIGHEST)} and more.{did_you_mean(name, known)}"
    return [Mistake(message, "metric", *(root.child("metric") or root).place)]


def _numbers_of(name: str, axes: Iterable[Dimension]) -> str:
    """The column of the axis called `name`, if it has numbers; else empty."""
    named = (axis.columns[0] for axis in axes if axis.name == name and len(axis.columns) == 1)
    return next((column.name for column in named if column.scale != "categories"), "")


def _used(axes: Iterable[Dimension], planner: Planner) -> tuple[list[Dimension], list[Mistake]]:
    """The axes, without those of policy parameters that none of the policies has."""
    known = [planner.family.policy_keys(choice.policy_object or choice.node) for choice in planner.policies]
    pairs = zip(planner.policies, known, strict=True)
    if any(keys is None and planner.family.is_plugin(choice.node) for choice, keys in pairs):
        return list(axes), []  # the points say why this policy cannot be asked
    parameters = sorted({name for keys in known for name in keys or ()})
    used, mistakes = [], []
    for axis in axes:
        own = {column: column.path.split(".")[1] for column in axis.columns if column.path.startswith("policy.")}
        idle = {column: name for column, name in own.items() if name not in parameters}
        for column, name in idle.items():
            message = f"no policy here has a parameter '{name}'; there are: {', '.join(parameters) or 'none'}"
            mistakes.append(Mistake(message, column.path, *column.values[0].key))
        used += [] if idle else [axis]
    return used, mistakes


def _description(planner: Planner, axes: Sequence[Dimension], root: Node) -> Description:
    experiment, first = planner.experiment, planner.first
    assert first is not None
    data = to_plain(first.data)
    own = _numbers_of(experiment.metric, axes)
    return Description(
        name=experiment.name,
        summary=experiment.summary,
        source=experiment.source,
        expect=experiment.expect,
        scenario=first.scenario.name,
        metric=own or experiment.metric,
        goal=experiment.goal or ("highest" if own or experiment.metric in _HIGHEST else "lowest"),
        constraints=tuple(constraints(experiment, root)[0]),
        level=experiment.level,
        axes=tuple(_described(axis) for axis in axes),
        design=experiment.design.model_dump(mode="json"),
        policies=tuple(dict.fromkeys(row.policy for row in planner.rows)),
        replications=experiment.replications,
        warm_up=experiment.warm_up,
        points=len(planner.rows),
        data=data,
        version=__version__,
        physics=physics(),
        provenance=collect_many(resolved(root, planner), data, origins=first.provenance),
    )


def _described(axis: Dimension) -> DescribedAxis:
    first = axis.tables[0]
    columns = tuple(table.name for table in axis.tables)
    return DescribedAxis(axis.name, columns, first.name, first.unit, first.scale, tuple(first.shown))
