"""Validates a part of a scenario against its spec and tells every mistake at the place where it was written.

Knows pydantic's errors and how moesim words them; nothing of scenarios.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.scenario.shape import Shape, kept_as_written, shape_of
from moesim.scenario.tree import Node, Path, Tree, dotted
from moesim.units import format_limit

__all__ = ["as_written", "judged", "unknown_key"]

T = TypeVar("T", bound=BaseModel)

_FIELD = re.compile(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*): (?=\S)")


def judged(spec: type[T], node: Node, path: Path) -> tuple[T | None, list[Mistake]]:
    """`node` as an instance of `spec`, or None and every mistake; `path` is where the part stands in the scenario."""
    tree = Tree(node)
    if not isinstance(node.value, dict):
        message = f"{as_written(node.plain())} is not a mapping; write keys and their values"
        return None, [_mistake(tree, path, (), message)]
    complaints: list[tuple[Path, str, bool]] = []
    raised: list[tuple[Path, str, bool]] = []
    result: T | None = None
    try:
        result = spec.model_validate(tree.data, context={"units": "required"})
    except ValidationError as error:
        complaints = _complaints(error, node, shape_of(spec))
    except MemoryError:
        raised = [((), "too large: it does not fit into this computer's memory", False)]
    except InputError as error:
        raised = [(*_refined(mistake.message, _path(mistake.path, node), node), False) for mistake in error.mistakes]
    if result is None or any(not kept_as_written(leaf.value, result, where) for where, leaf in node.leaves()):
        complaints = [*((where, message, False) for where, message in shape_of(spec).converted(node)), *complaints]
    mistakes = [_mistake(tree, path, where, message, key) for where, message, key in [*_joined(complaints), *raised]]
    return (None if mistakes else result), mistakes


def _mistake(tree: Tree, path: Path, where: Path, message: str, key: bool = False) -> Mistake:
    place = tree.mark(where, key=key)
    return Mistake(message, dotted((*path, *where)), *place)


def _path(text: str, node: Node) -> Path:
    """A dotted path that a validator gave, as steps."""
    steps = tuple(int(step) if step.isdigit() else step for step in text.split(".")) if text else ()
    return steps if steps and node.child(steps[0]) is not None else ()


def _complaints(error: ValidationError, node: Node, shape: Shape) -> list[tuple[Path, str, bool]]:
    """(path, message, at the key?) of each of pydantic's errors."""
    complaints: list[tuple[Path, str, bool]] = []
    for detail in error.errors(include_url=False):
        where, below = _located(detail["loc"], node)
        kind = detail["type"]
        if kind == "missing":
            complaints.append(((*where, str(detail["loc"][-1])), "missing; it has to be given", False))
        elif kind == "extra_forbidden":
            complaints.append((where, unknown_key(str(where[-1]), shape.keys(where[:-1], node)), True))
        else:
            message = _message(kind, detail, below)
            if kind == "union_tag_invalid" and below.child("kind") is not None:
                where = (*where, "kind")
            inside, message = _refined(message, where, node) if kind == "value_error" else (where, message)
            complaints.append((inside, message, False))
    return complaints


def _located(loc: Iterable[str | int], node: Node) -> tuple[Path, Node]:
    """The part of pydantic's `loc` that exists in the data; tags of unions and names of validators fall out."""
    path: list[str | int] = []
    for step in loc:
        below = node.child(step)
        if below is not None:
            path.append(step)
            node = below
    return tuple(path), node


def _refined(message: str, where: Path, node: Node) -> tuple[Path, str]:
    """A message that starts with the name of a key inside (`ends: ...`) belongs to that key."""
    match = _FIELD.match(message)
    outer = node.at(where)
    if match is None or outer is None:
        return where, message
    steps = tuple(int(step) if step.isdigit() else step for step in match.group(1).split("."))
    _, depth = outer.walk(steps)
    return ((*where, *steps), message[match.end() :]) if depth == len(steps) else (where, message)


def unknown_key(name: str, known: list[str] | None, inside: str = "") -> str:
    """The message for a key that its spec does not have."""
    where = f" in '{inside}'" if inside else ""
    if not known:
        return f"unknown key '{name}'{where}"
    return f"unknown key '{name}'{where}; known: {', '.join(known)}.{did_you_mean(name, known)}"


def as_written(value: Any) -> str:
    """A value as messages show it: short, and as YAML would have it."""
    if isinstance(value, str):
        return f"'{value}'"
    text = json.dumps(value, default=str)
    kind = "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else ""
    return text if not kind else f"{kind} ({text if len(text) <= 40 else text[:37] + '...'})"


_NEEDED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "mapping": "a mapping of keys to values",
}
_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def _message(kind: str, error: Any, node: Node) -> str:
    """What pydantic means, in our words."""
    value, context = (
        as_written(error["input"] if not isinstance(error["input"], BaseModel) else node.plain()),
        error.get("ctx", {}),
    )
    if kind in ("value_error", "assertion_error"):
        return str(error["msg"]).partition(", ")[2]
    if "text" in context:  # a validator's own words
        return str(context["text"])
    if kind in _LIMITS:
        key, word = _LIMITS[kind]
        return f"{value} is out of range; it must be {word} {format_limit(context[key])}"
    if kind == "literal_error":
        return _choice(value, error["input"], re.findall(r"'([^']*)'", context["expected"]))
    if kind == "union_tag_invalid":
        return _choice(f"kind {as_written(context['tag'])}", context["tag"], re.findall(r"'([^']*)'", context["expected_tags"]))
    if kind == "union_tag_not_found":
        return "the key 'kind' is missing; it says what this is"
    if kind in ("too_short", "too_long"):
        wrong, limit, key = ("few", "least", "min_length") if kind == "too_short" else ("many", "most", "max_length")
        return f"{context['actual_length']} entries are too {wrong}; write at {limit} {context[key]}"
    needed = _NEEDED.get(kind.partition("_")[0])
    return f"{value} is not {needed}" if needed else f"{value}: {error['msg']}"


def _choice(shown: str, value: Any, known: list[str]) -> str:
    return f"{shown} is not known; one of: {', '.join(known)}.{did_you_mean(str(value), known)}"


def _joined(complaints: list[tuple[Path, str, bool]]) -> list[tuple[Path, str, bool]]:
    """One entry for each place: alternatives of a union complain one by one, and our own check comes first."""
    joined: dict[Path, tuple[Path, str, bool]] = {}
    for entry in complaints:
        joined.setdefault(entry[0], entry)
    return list(joined.values())
