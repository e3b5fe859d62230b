"""Checks files without running anything: scenarios and hardware profiles, every mistake as file, line, column.

Knows how to tell one kind of file from another; the judging is done where they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel

from moesim import files, plugins, strict_json
from moesim.errors import InputError, Mistake
from moesim.hardware.link import Link
from moesim.hardware.memory import Interleaved, Memory
from moesim.hardware.system import System
from moesim.model import Architecture
from moesim.runtime import Runtime
from moesim.scenario import annotated, catalogue
from moesim.scenario.file_kinds import kind_of
from moesim.scenario.judge import judged
from moesim.scenario.parts import GROUPS, MEMORY_KINDS, OWN_MEMORY
from moesim.scenario.resolve import Resolver
from moesim.scenario.scenario import LoadedScenario, load
from moesim.scenario.schema import DEFAULT_RUNTIME, policy_class
from moesim.scenario.tree import NOWHERE, Node, Path, dotted

__all__ = ["check"]


Judge = Callable[[FilePath], tuple[Mistake, ...]]


def check(paths: Iterable[str | FilePath], *, experiment: Judge | None = None) -> dict[str, Any]:
    """`{"files": [{"file", "errors": [{"line", "column", "path", "message"}]}]}`, each file asked for and in order.

    `experiment` judges the files that vary a scenario, which this package knows nothing of.

    A mistake in a file that a scenario builds on (a profile, what it extends) stands under that file, after the others. What
    could not be judged, because plug-ins are not imported (`plugins.closed`), stands under `not_judged` of a file, if anything.
    """
    mistakes_of: dict[str, dict[Mistake, None]] = {}
    later: list[Mistake] = []
    for path in paths:
        shown = catalogue.shown(FilePath(path)) if catalogue.is_path(str(path)) or files.is_file(FilePath(path)) else str(path)
        own = mistakes_of.setdefault(shown, {})
        for mistake in _mistakes(path, experiment):
            if mistake.file in ("", shown):
                own[mistake] = None
            else:
                later.append(mistake)
    for mistake in later:
        mistakes_of.setdefault(mistake.file, {})[mistake] = None
    return {"files": [_reported(file, mistakes) for file, mistakes in mistakes_of.items()]}


def _reported(file: str, mistakes: Iterable[Mistake]) -> dict[str, Any]:
    wrong = [_plain(mistake) for mistake in mistakes if plugins.UNJUDGED not in mistake.message]
    open_questions = [_plain(mistake) for mistake in mistakes if plugins.UNJUDGED in mistake.message]
    return {"file": file, "errors": wrong, **({"not_judged": open_questions} if open_questions else {})}


def _plain(mistake: Mistake) -> dict[str, Any]:
    return {"line": mistake.line, "column": mistake.column, "path": mistake.path, "message": mistake.message}


def _mistakes(path: str | FilePath, experiment: Judge | None) -> tuple[Mistake, ...]:
    try:
        file = files.expanded(path)
        kind = _kind(file)
        if experiment is not None and kind in ("experiment", "sweep"):
            return experiment(file)
        if kind == "profile":
            return _profile(file)
        if kind == "model":
            return _model(file)
        return tuple(_compared(load(path)))
    except InputError as error:
        return error.mistakes


def _compared(loaded_scenario: LoadedScenario) -> Iterator[Mistake]:
    """What is wrong with the plug-ins among the policies to compare; other names are judged at loading."""
    for index, name in enumerate(loaded_scenario.scenario.compare):
        if ":" in name:
            try:
                policy_class(name, loaded_scenario.base)
            except InputError as error:
                place = loaded_scenario.tree.mark(("compare", index)) if loaded_scenario.tree is not None else NOWHERE
                yield from (Mistake(mistake.message, f"compare.{index}", *place) for mistake in error.mistakes)


def _kind(file: FilePath) -> str | None:
    """The kind of a file, `profile` for a machine, a part of one, or some values of one; None where it is not known."""
    if file.suffix == ".json":
        return kind_of(strict_json.read(file, shown=catalogue.shown(file), infinite=True))
    if file.suffix == ".gguf":
        return "model"
    if file.suffix not in (".yaml", ".yml"):
        return None
    top = Resolver(file.parent).file(file).top or {}
    kind = kind_of(top)
    fragment = kind is None and any(name in top for name in (*GROUPS, "profile", "kind"))
    return "profile" if fragment or kind in ("machine", "part", "runtime") else kind


def _model(file: FilePath) -> tuple[Mistake, ...]:
    """A model's config.json or GGUF file is judged as a scenario that names it would."""
    resolver = Resolver(file.parent)
    shown = catalogue.shown(file)
    node = resolver.model(Node({"config": Node(str(files.resolved(file)))}))
    if "model" not in resolver.broken:
        resolver.mistakes += judged(Architecture, node, ("model",))[1]
    return tuple(mistake if mistake.file else mistake._replace(file=shown, path="") for mistake in resolver.mistakes)


def _profile(file: FilePath) -> tuple[Mistake, ...]:
    """A whole machine is judged as one; a part by its `kind`. Fragments without a kind are judged where they are used."""
    resolver = Resolver(file.parent)
    node = annotated.push_down(resolver.file(file))
    kind = node.child("kind")
    if kind is not None and kind.value == "runtime":
        node = resolver.runtime(node, DEFAULT_RUNTIME)
        return (*resolver.mistakes, *(judged(Runtime, node, ())[1] if "runtime" not in resolver.broken else ()))
    whole = System if "devices" in node.value and "tiers" in node.value else None
    spec = _spec(str(kind.value)) if kind is not None else whole
    if kind is not None and spec is None:
        known = ", ".join(["system", *plugins.names("hardware"), *MEMORY_KINDS, "interleaved", "link"])
        resolver.mistakes.append(Mistake(f"unknown kind '{kind.value}'; known: {known}", "kind", *kind.place))
    place = _place(spec, file.stem)
    node = resolver.hardware(node, place, (files.resolved(file),))
    mistakes = [mistake._replace(path=mistake.path.removeprefix(dotted(place)).lstrip(".")) for mistake in resolver.mistakes]
    if spec is None or resolver.broken:
        return tuple(mistakes)
    if spec is System:
        return (*mistakes, *judged(spec, node, ())[1])
    memory = node.child(OWN_MEMORY)
    own = {name: child for name, child in node.value.items() if name not in ("name", OWN_MEMORY)}
    wrong = judged(spec, node.holding(own), ())[1]
    if memory is not None:
        wrong += judged(Memory, memory, ("memory",))[1]
    # A part may leave to the system what only the system knows: where it sits, and what it is connected to.
    return (*mistakes, *(mistake for mistake in wrong if not mistake.message.startswith("missing;")))


def _place(spec: type[BaseModel] | None, name: str) -> Path:
    """Where a part of that spec would stand in a machine."""
    if spec is None or spec is System:
        return ()
    group = "links" if spec is Link else "tiers" if issubclass(spec, Memory | Interleaved) else "devices"
    return (group, name)


def _spec(kind: str) -> type[BaseModel] | None:
    fixed: dict[str, type[BaseModel]] = {"system": System, "interleaved": Interleaved, "link": Link}
    fixed |= dict.fromkeys(MEMORY_KINDS, Memory)
    if kind in fixed:
        return fixed[kind]
    return plugins.find("hardware", kind) if kind in plugins.names("hardware") else None
