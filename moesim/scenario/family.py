"""Scenarios that differ in a few values: their files are found and read once, and equal parts are judged once.

Knows what a base may be and what a change is; not why many are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from moesim import files, plugins
from moesim.contract import Policy
from moesim.errors import InputError, Mistake
from moesim.scenario import annotated, catalogue, schema
from moesim.scenario.judge import as_written
from moesim.scenario.overrides import Change, apply, is_path
from moesim.scenario.resolve import SHORTHAND, Resolver, in_full
from moesim.scenario.scenario import LoadedScenario, assemble
from moesim.scenario.tree import Node, Place, from_plain

__all__ = ["Family", "change", "number_change", "policy_change"]


class Family:
    """All variations of one scenario.

    `base` is the node that says which: a name, a path, or a mapping that may extend one; from Python also a path object or
    a LoadedScenario. `folder` is that of the file in which it was written. `sets` are laid over the base. InputError when it
    cannot be read; what else is wrong is reported by `member`.
    """

    def __init__(self, base: Node, folder: FilePath, sets: Sequence[Change] = ()) -> None:
        memory: dict[Any, Any] = {}
        self.path: FilePath | None = None
        if isinstance(base.value, LoadedScenario):
            self._resolver = Resolver(base.value.base, memory)
            self._raw = annotated.strip(from_plain(base.value.data), self._resolver.mistakes)
        elif isinstance(base.value, (str, FilePath)):
            self.path = _file(base, folder)
            self._resolver = Resolver(self.path.parent, memory)
            self._raw = self._resolver.scenario(self.path)
        elif isinstance(base.value, dict):
            self._resolver = Resolver(folder, memory)
            self._raw = self._resolver.joined(annotated.strip(base, self._resolver.mistakes))
        else:
            message = (
                f"{as_written(base.plain())} is not a scenario; write the name or path of one, or a mapping that extends one"
            )
            raise InputError(Mistake(message, "scenario", *base.place))
        if self._raw.child("name") is None:
            name = self.path.stem if self.path is not None else "scenario"
            self._raw = self._raw.put(("name",), Node(name, self._raw.place))
        if sets:
            self._raw, _ = apply(self._raw, self._resolver, list(sets))

    @property
    def base(self) -> FilePath:
        """Folder that relative paths of the scenario start from."""
        return self._resolver.base

    @property
    def written(self) -> dict[str, Any]:
        """The base as plain data, what it extends joined in; profiles and models stand by name, so that they can be varied."""
        plain: dict[str, Any] = self._raw.plain()
        return plain

    @property
    def replicate(self) -> int:
        """Number of the base's own replicate: the first of several."""
        replicate = self._raw.child("replicate")
        return replicate.value if replicate is not None and isinstance(replicate.value, int) else 0

    def member(self, changes: Sequence[Change], policy_object: Policy | None = None) -> LoadedScenario:
        """The scenario with `changes`, in their order, under `policy_object` if there is one. InputError with every mistake."""
        return assemble(self._raw, self._resolver.again(), changes, policy_object, None, self.path)

    def policy_keys(self, policy: Node | Policy | None) -> list[str] | None:
        """Parameters of a policy (None: of the scenario's own); None where its class is unknown, which `member` tells."""
        if isinstance(policy, Policy):
            return [name for name in type(policy).model_fields if name != "kind"]
        try:
            policy_class = plugins.find("policies", self._kind(policy), beside=self.base)
        except InputError:
            return None
        return [name for name in getattr(policy_class, "model_fields", {}) if name != "kind"]

    def is_plugin(self, policy: Node | None) -> bool:
        """Whether the class of a policy (None: of the scenario's own) is from outside."""
        return plugins.is_foreign("policies", self._kind(policy))

    def _kind(self, policy: Node | None) -> str:
        own = policy or self._raw.child("policy") or Node(schema.DEFAULT_POLICY)
        kind = in_full(own, SHORTHAND["policy"]).child("kind")
        return str(kind.value) if kind is not None else ""


def _file(base: Node, folder: FilePath) -> FilePath:
    """The scenario file that a name or a path means, looked for beside the file that says it."""
    text = str(base.value)
    if isinstance(base.value, FilePath) or catalogue.is_path(text):
        path = folder / files.expanded(text)
    else:
        beside = folder / f"{text}.yaml"
        try:
            path = beside if files.is_file(beside) else catalogue.find("scenarios", text, beside=[folder])
        except InputError as error:
            raise InputError(*(wrong._replace(path="scenario", **base.place._asdict()) for wrong in error.mistakes)) from None
    if not files.is_file(path):
        raise InputError(Mistake(catalogue.absent(path), "scenario", *base.place))
    return path


def change(path: str, value: Node) -> Change:
    """What an experiment wants at a dotted path; a mistake in it is reported at the place of `value`.

    InputError where `path` is not keys with dots between them.
    """
    if not is_path(path):
        message = f"'{path}' is not a path; write keys with dots between them, such as workload.requests"
        raise InputError(Mistake(message, path, *value.key))
    return Change(tuple(path.split(".")), value, "experiment")


def policy_change(policy: Node) -> Change:
    """A policy by name or as a mapping; the name of the scenario's own policy keeps the scenario's parameters."""
    return Change(("policy",), policy, "--policy")


def number_change(path: str, value: int) -> Change:
    """A whole number that no file says, such as the replicate."""
    return Change((path,), from_plain(value, Place("experiment")), "experiment")
