"""Owns a loaded scenario with other values in its machine or runtime: what was judged at loading is judged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.errors import Mistake
from moesim.hardware import System
from moesim.runtime import Runtime
from moesim.scenario.judge import judged
from moesim.scenario.scenario import LoadedScenario
from moesim.scenario.tree import NOWHERE, Node, Path, Place

__all__ = ["altered", "place_of", "root_of"]


def root_of(loaded_scenario: LoadedScenario) -> Node:
    """The whole scenario as a tree, all that it extends and names written out."""
    assert loaded_scenario.tree is not None, "a scenario that was loaded keeps its tree"
    return loaded_scenario.tree.root


def place_of(loaded_scenario: LoadedScenario, path: str) -> Place:
    """File, line and column of the value at a dotted path."""
    node = root_of(loaded_scenario).at(_steps(loaded_scenario, path))
    return node.place if node is not None else NOWHERE


def altered(loaded_scenario: LoadedScenario, changed: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """The scenario's machine and runtime with other values at some paths, and what is wrong with them.

    `changed`: dotted path below `hardware` or `runtime` -> value as it would be written. The parts are for
    `scenario.model_copy(update=...)`.
    """
    root = root_of(loaded_scenario)
    for path, value in changed.items():
        steps = _steps(loaded_scenario, path)
        before = root.at(steps)
        assert before is not None
        root = root.put(steps, replace(before, value=value))
    parts: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for part, spec in (("hardware", System), ("runtime", Runtime)):
        node = root.child(part)
        assert node is not None
        parts[part], wrong = judged(spec, node, (part,))
        mistakes += wrong
    return parts, mistakes


def _steps(loaded_scenario: LoadedScenario, path: str) -> Path:
    """The keys and list indices of a dotted path."""
    return next(steps for steps, _ in root_of(loaded_scenario).leaves() if ".".join(map(str, steps)) == path)
