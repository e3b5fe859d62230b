"""The points of an experiment: every run that it asks for, resolved, judged and named by its content before any is made.

Knows experiments and scenarios; nothing of where and when the points are run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from moesim import plugins
from moesim.contract import Policy
from moesim.errors import InputError, Mistake
from moesim.experiment.axes import Dimension, Setting
from moesim.experiment.design import combinations
from moesim.experiment.spec import Experiment
from moesim.experiment.task import Task
from moesim.hardware import System
from moesim.results.plain import canonical
from moesim.runs.fingerprint import file_digest, foreign_code, physics
from moesim.runs.run import distinct_labels, policy_label
from moesim.scenario.family import Family, change, number_change, policy_change
from moesim.scenario.overrides import Change, parts_first
from moesim.scenario.scenario import LoadedScenario
from moesim.scenario.tree import NOWHERE, Node, Place, to_plain
from moesim.spec import Spec
from moesim.version import __version__

__all__ = ["Choice", "Planner", "Row", "choices"]

MOST = 1_000_000
_TEXTS = ("name", "summary", "source", "expect", "compare")
"""Of a scenario's data, what no number depends on."""


@dataclass(frozen=True)
class Row:
    """One row of the table: a setting, a policy and a replication, and the task whose numbers stand there."""

    settings: dict[str, Any]
    """Column -> value, as tables show it."""
    policy: str
    seed: int
    replicate: int
    task: str


@dataclass(frozen=True)
class Choice:
    """A policy of the experiment, under the name that tables use."""

    label: str
    node: Node | None = None
    """As the file says it; None for the scenario's own."""
    policy_object: Policy | None = None
    """The object, where one was handed over."""


def choices(nodes: Sequence[Node] | None, family: Family) -> tuple[list[Choice], list[Mistake]]:
    """The policies that an experiment names (None: the scenario's own), and what is wrong with their names."""
    if nodes is None:
        return [Choice("")], []
    values = [node.value for node in nodes]
    labels = iter(distinct_labels([value for value in values if isinstance(value, Policy)], values))
    entries: list[Choice] = []
    mistakes: list[Mistake] = []
    for index, node in enumerate(nodes):
        if node.value == "all":
            known = {choice.label for choice in entries}
            names = [name for name in plugins.names("policies") if name not in known]
            entries += [Choice(name, Node(name, node.place, node.key)) for name in names]
            continue
        choice = Choice(next(labels), None, node.value) if isinstance(node.value, Policy) else _choice(node)
        if isinstance(choice, str):
            mistakes.append(Mistake(choice, f"policies.{index}", *node.place))
        elif any(choice.label == earlier.label for earlier in entries):
            message = f"a second policy is called '{choice.label}'; tell them apart by {{kind: ..., label: ...}}"
            mistakes.append(Mistake(message, f"policies.{index}", *node.place))
        else:
            entries.append(choice)
    return entries, mistakes


def _choice(node: Node) -> Choice | str:
    """The policy that an entry of the list means, or what is wrong with it."""
    if isinstance(node.value, str):
        return Choice(node.value, node)
    kind, label = node.child("kind"), node.child("label")
    if kind is None or not isinstance(kind.value, str):
        return "no policy; write its name, or a mapping with its 'kind' and parameters"
    if label is not None and not isinstance(label.value, str):
        return "a 'label' is text"
    inside = {name: below for name, below in node.value.items() if name != "label"}
    return Choice(str((label or kind).value), Node(inside, node.place, node.key, whole=True))


@dataclass
class Planner:
    """Turns settings into points; gathers every mistake on the way."""

    family: Family
    experiment: Experiment
    policies: list[Choice]
    rows: list[Row] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    settings: dict[tuple[Any, ...], Setting] = field(default_factory=dict)
    """A setting as tables show it -> its values by path."""
    metric: Place = NOWHERE
    """Where the experiment names its metric."""
    first: LoadedScenario | None = None
    """The scenario of the first point, for its name and its data."""
    _wrong: dict[Mistake, list[str]] = field(default_factory=dict)
    """Mistake -> the settings that have it."""
    _members: int = 0

    def add(self, settings: Iterable[tuple[Setting, dict[str, Any]]], policies: Sequence[Choice] | None = None) -> None:
        """The points of some settings: each with every policy (or those of `policies`) and every replication.

        InputError for more points than a sweep takes; other mistakes are gathered (`mistakes`).
        """
        for values, shown in settings:
            self.settings[tuple(shown.items())] = values
            if len(self.rows) >= MOST:
                raise InputError(Mistake(f"more than {MOST} points; leave out axes or values", "axes"))
            for choice in self.policies if policies is None else policies:
                for number in range(self.experiment.replications):
                    self._point(values, shown, choice, number)

    def _point(self, values: Setting, shown: dict[str, Any], choice: Choice, number: int) -> None:
        self._members += 1
        try:
            member = self._member(values, choice, number)
            self._measurable(member.scenario.hardware)
        except InputError as error:
            where = ", ".join(f"{column} = {value}" for column, value in shown.items())
            for mistake in error.mistakes:
                self._wrong.setdefault(mistake, []).append(f"{where}, {choice.label}".strip(", "))
            return
        task = self._task(member)
        self.tasks.setdefault(task.name, task)
        scenario = member.scenario
        label = choice.label or str(member.data["policy"].get("kind") or policy_label(scenario.policy))
        self.rows.append(Row(shown, label, scenario.seed, scenario.replicate, task.name))
        if self.first is None:
            self.first = member

    def _measurable(self, machine: System) -> None:
        """InputError where the metric needs what the machine does not say."""
        lacking: list[str] = []
        if self.experiment.metric == "energy_J":
            lacking = list(machine.power_unknown)
        elif self.experiment.metric == "cost_usd_per_Mtok":
            lacking = list(machine.price_unknown)
        if lacking:
            text = f"'{self.experiment.metric}' of {machine.name or 'this machine'} is not known without {', '.join(lacking)}"
            raise InputError(Mistake(f"{text}; write these under hardware, or take another metric", "metric", *self.metric))

    def _member(self, values: Setting, choice: Choice, number: int) -> LoadedScenario:
        policy_object = choice.policy_object
        keys = self.family.policy_keys(policy_object or choice.node)
        changes = [policy_change(choice.node)] if choice.node is not None else []
        own: dict[str, Node] = {}
        varied: list[Change] = []
        for path, node in values.items():
            head, _, name = path.partition(".")
            if head == "policy" and keys is not None and name.partition(".")[0] not in keys:
                continue  # this policy has no such parameter; that some policy has it was checked
            if head == "policy" and policy_object is not None:
                own[name] = node
            else:
                varied.append(change(path, node))
        changes += parts_first(varied)
        if policy_object is not None and own:
            policy_object = _changed(policy_object, own)
        changes.append(number_change("replicate", self.family.replicate + number))
        return self.family.member(changes, policy_object)

    def _task(self, loaded_scenario: LoadedScenario) -> Task:
        scenario, data = (
            loaded_scenario.scenario,
            {key: value for key, value in loaded_scenario.data.items() if key not in _TEXTS},
        )
        files = {path: file_digest(loaded_scenario.base / path) for path in sorted(_files(data.get("workload")))}
        drawn = {"seed": scenario.seed, "replicate": scenario.replicate, "files": files}
        built = {**drawn, "model": data.get("model"), "workload": data.get("workload")}
        content = {
            **drawn,
            "scenario": to_plain(data),
            "order": [list(names) for names in (scenario.hardware.devices, scenario.hardware.tiers, scenario.hardware.links)],
            "code": sorted(filter(None, (foreign_code(kind) for kind in _kinds(scenario)))),
            "version": __version__,
            "physics": physics(),
            "warm_up": self.experiment.warm_up,
            "bound": self.experiment.bound,
        }
        name = hashlib.sha256(canonical(content)).hexdigest()[:32]
        build = hashlib.sha256(canonical(to_plain(built))).hexdigest()
        return Task(name, scenario, loaded_scenario.base, build, self.experiment.warm_up, self.experiment.bound)

    def impossible(self) -> list[str]:
        """What is wrong with the settings added last, in words; it is not reported again."""
        words = [mistake.message for mistake in self._wrong]
        self._wrong.clear()
        return words

    def mistakes(self, file: str) -> list[Mistake]:
        """What is wrong, each once; what some settings cause outside the experiment's own `file` says which."""
        reported = []
        for mistake, where in self._wrong.items():
            partly = len(where) < self._members and bool(where[0]) and (not mistake.line or mistake.file != file)
            further = len(set(where)) - 1
            more = f" and {further} more {'setting' if further == 1 else 'settings'}" if further else ""
            reported.append(mistake._replace(message=f"{mistake.message} (with {where[0]}{more})") if partly else mistake)
        return reported

    def grid(self, axes: Sequence[Dimension]) -> None:
        """The points of the experiment's own design."""
        self.add(combinations(self.experiment.design, axes))


def _changed(policy: Policy, own: dict[str, Node]) -> Policy:
    """The object with other parameters, judged as its class does."""
    try:
        return type(policy).model_validate(
            {**policy.model_dump(exclude_unset=True), **{name: node.plain() for name, node in own.items()}}
        )
    except ValidationError as error:
        wrong = [(str(detail["loc"][0]) if detail["loc"] else next(iter(own)), str(detail["msg"])) for detail in error.errors()]
        raise InputError(*(Mistake(text, f"policy.{name}", *_place(own, name)) for name, text in wrong)) from None


def _place(own: dict[str, Node], name: str) -> Place:
    return next((node.place for path, node in own.items() if path == name or path.startswith(f"{name}.")), NOWHERE)


def _files(data: Any) -> Iterable[str]:
    """The files that a workload names."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "path" and isinstance(value, str):
                yield value
            else:
                yield from _files(value)


def _kinds(spec: Any) -> set[type[Any]]:
    """The classes of a spec and of all specs inside it."""
    classes: set[type[Any]] = set()
    waiting: list[Any] = [spec]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Spec):
            classes.add(type(value))
            waiting += [getattr(value, name) for name in type(value).model_fields]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return classes
