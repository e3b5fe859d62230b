"""Changes laid over a scenario's files: `--policy`, `--seed` and `--set path=value`, in that order, later ones winning.

Knows trees and the keys that each place has. Each change is logged as old -> new.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from moesim.errors import InputError, Mistake
from moesim.scenario import annotated, schema, strict_yaml
from moesim.scenario.judge import unknown_key
from moesim.scenario.parts import anew, is_part
from moesim.scenario.resolve import SHORTHAND, Resolver, in_full
from moesim.scenario.tree import Node, Path, Place, dotted, from_plain

__all__ = ["Change", "Override", "apply", "changes", "is_path", "parts_first"]

logger = logging.getLogger("moesim.scenario")


class Override(NamedTuple):
    """One change that was made, as plain data; `old` is None where nothing was given and there is no default."""

    path: str
    old: Any
    new: Any
    by: str
    """`--set`, `--policy` or `--seed`."""

    def __str__(self) -> str:
        return f"{self.by} {self.path}: {_shown(self.old)} -> {_shown(self.new)}"


class Change(NamedTuple):
    """One change that is wanted."""

    path: tuple[str, ...]
    value: Node
    by: str
    """`--set`, `--policy`, `--seed`, or `experiment`."""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def changes(
    sets: Iterable[str | Change] | Mapping[str, Any], policy: Any, seed: int | None
) -> tuple[list[Change], list[Mistake]]:
    """What was asked for, in order of precedence, and what of it cannot be read."""
    requested: list[Change] = []
    mistakes: list[Mistake] = []
    if policy is not None:
        requested.append(Change(("policy",), from_plain(policy, Place("--policy")), "--policy"))
    if seed is not None:
        requested.append(Change(("seed",), from_plain(seed, Place("--seed")), "--seed"))
    for item in sets.items() if isinstance(sets, Mapping) else sets:
        try:
            requested.append(_change(item))
        except InputError as error:
            mistakes += error.mistakes
    return requested, mistakes


def _change(item: Any) -> Change:
    if isinstance(item, Change):
        return item
    if not isinstance(item, str):
        path, value = item
        return Change(_steps(path), from_plain(value, Place(f"--set {path}")), "--set")
    path, equals, text = item.partition("=")
    if not equals:
        raise InputError(Mistake("no '=' in it; write path=value, such as workload.requests=16", file=f"--set {item}"))
    path = path.strip()
    return Change(_steps(path), strict_yaml.scalar(text.strip(), f"--set {path}"), "--set")


def _steps(path: str) -> tuple[str, ...]:
    steps = tuple(path.split("."))
    if not is_path(path):
        message = f"'{path}' is not a path; write keys with dots between them, such as workload.requests=16"
        raise InputError(Mistake(message, file=f"--set {path}"))
    return steps


def is_path(text: str) -> bool:
    """Whether `text` is keys with dots between them."""
    return all(step and step == step.strip() for step in text.split("."))


def apply(raw: Node, resolver: Resolver, requested: list[Change]) -> tuple[Node, list[Override]]:
    """`raw` with the changes, those that cannot be made left out and reported to `resolver`; and what was changed."""
    applied: list[Override] = []
    earlier: list[tuple[Path, Change]] = []
    for change in requested:
        before = resolver.quietly(partial(resolver.expand, raw))
        try:
            path = _located(before, change, resolver.base)
        except InputError as error:
            resolver.mistakes += error.mistakes
            continue
        before_change = _given(before, path, resolver.base)
        old = before_change.plain() if before_change is not None else None
        if change.by == "--policy":
            old, change = _policy(before, old, change)
        value = annotated.strip(resolver.rebased(change.value, path), resolver.mistakes, path)
        after = _put(raw, before, path, value, resolver)
        resolver.mistakes += _undone(raw, after, earlier, path, change)
        earlier.append((path, change))
        raw = after
        applied.append(Override(dotted(path), old, change.value.plain(), change.by))
        logger.info("%s", applied[-1])
    return raw, applied


def parts_first(requested: Iterable[Change]) -> list[Change]:
    """Changes that are made at once, in an order in which none undoes another: what names a part before what changes it."""
    return sorted(requested, key=lambda change: 0 if _names_part(change.path, change.value) else 1)


def _names_part(path: Path, value: Node) -> bool:
    return path[:1] == ("hardware",) and (
        (is_part(path) and anew(value)) or (is_part(path[:-1]) and path[-1] in ("profile", "kind"))
    )


def _undone(raw: Node, after: Node, earlier: Iterable[tuple[Path, Change]], path: Path, by: Change) -> list[Mistake]:
    """The earlier changes that `raw` still had and `after` does not: a part at `path` took the place of what they change."""
    mistakes: list[Mistake] = []
    for before, change in earlier:
        old, new = raw.at(before), after.at(before)
        if path[: len(before)] != before and old is not None and (new is None or new.plain() != old.plain()):
            message = f"this change is undone by the later one of '{dotted(path)}' ({by.by}); write it after that one"
            mistakes.append(_wrong(message, change))
    return mistakes


def _policy(before: Node, old: Any, change: Change) -> tuple[Any, Change]:
    """`--policy` with the name of the policy that the file has keeps the file's parameters."""
    own = before.at(("policy",))
    if own is None or not isinstance(own.value, dict) or not isinstance(change.value.value, str):
        return old, change
    kind = own.child("kind")
    if kind is not None and kind.value == change.value.value:
        return old, change._replace(value=own)
    return old if len(own.value) > 1 or kind is None else kind.value, change


def _located(root: Node, change: Change, base: FilePath) -> Path:
    """The path as keys and list indices; InputError where the scenario has no such place and may not have it."""
    node: Node | None = root
    path: Path = ()
    for text in change.path:
        step: str | int = text
        if node is not None and isinstance(node.value, list):
            step = _index(text, node, path, change)
        elif node is not None and node.value is not None and not isinstance(node.value, dict):
            message = f"'{dotted(path)}' is a single value ({_shown(node.plain())}); it has no key '{text}'"
            raise InputError(_wrong(message, change))
        elif node is not None and node.child(text) is None:
            known = _keys(root, path, base)
            if known is not None and text not in known:
                raise InputError(_wrong(unknown_key(text, known, dotted(path)), change))
        path = (*path, step)
        node = _given(root, path, base)
    return path


def _given(root: Node, path: Path, base: FilePath) -> Node | None:
    """What stands at `path`, be it by default; None for nothing."""
    node = root.at(path)
    if node is not None:
        return node
    try:
        default = schema.missing_default(root, path, base)
    except InputError:  # the kind of this part is unknown, which is reported when it is judged
        return None
    return None if default is None else from_plain(default)


def _index(text: str, node: Node, path: Path, change: Change) -> int:
    size = len(node.value)
    if not text.isdecimal() or int(text) >= size:
        message = f"'{text}' is not an entry of the list '{dotted(path)}', which has {size}; the first one is 0"
        raise InputError(_wrong(message, change))
    return int(text)


def _keys(root: Node, path: Path, base: FilePath) -> list[str] | None:
    try:
        return schema.known_keys(root, path, base)
    except InputError:  # the kind of this part is unknown, which is reported when it is judged
        return None


def _wrong(message: str, change: Change) -> Mistake:
    """The mistake at the place in the file where the change is asked for, or under the option that asks for it."""
    if change.value.key.line:
        return Mistake(message, ".".join(change.path), *change.value.key)
    return Mistake(message, file=f"--set {'.'.join(change.path)}" if change.by == "--set" else change.by)


def _put(raw: Node, before: Node, path: Path, value: Node, resolver: Resolver) -> Node:
    """`raw` with the value at `path`; lists and defaults that lie on the way but not in the files are copied in first."""
    head = str(path[0])
    part = raw.child(head)
    if len(path) > 1 and head in SHORTHAND and part is not None:
        raw = raw.put((head,), in_full(part, SHORTHAND[head]))
    for depth in range(1, len(path)):
        inside = path[:depth]
        there = _given(before, inside, resolver.base)
        if raw.at(inside) is None and there is not None and (isinstance(there.value, list) or before.at(inside) is None):
            own = before.at(inside)
            raw = raw.put(
                inside, own if own is not None else from_plain(schema.seed(before, inside, resolver.base), value.place)
            )
    if head == "hardware" and len(path) > 1 and (machine := raw.child(head)) is not None:
        change = Node({}, value.place, value.key).put(path[1:], value)
        raw = raw.put((head,), resolver.over(machine, change))
        places = raw.at(path)
        if is_part(path) and anew(value) and places is not None and isinstance(places.value, dict):
            value = value.holding({**places.value, **value.value})
    return raw.put(path, Node(value.value, value.place, value.key, value.origin, whole=True, spread=value.spread))
