"""Plain data that remembers where each key and value was written, and what was said about its origin.

Knows nothing of YAML, of scenarios or of what the values mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from moesim import strict_json
from moesim.errors import Mistake

__all__ = [
    "DEEPEST",
    "NOWHERE",
    "Node",
    "Origin",
    "Path",
    "Place",
    "Spread",
    "Tree",
    "dotted",
    "from_plain",
    "merge",
    "to_plain",
]

DEEPEST = strict_json.DEEPEST
"""Levels of lists and mappings inside each other, in YAML as in JSON."""
INFINITE = ".inf"
"""How YAML spells infinity; JSON has no such number, so plain data carries the text."""

Path = tuple[str | int, ...]
"""Keys and list indices from the top."""


class Place(NamedTuple):
    """Where something was written: file, line and column from 1; line 0 when it came from no file."""

    file: str = ""
    line: int = 0
    column: int = 0


NOWHERE = Place()


class Origin(NamedTuple):
    """What an annotated value says of itself: measured, data sheet, assumed, ... and by whom."""

    basis: str = ""
    source: str = ""
    note: str = ""


class Spread(NamedTuple):
    """How far an annotated value may lie off: numbers in `unit`, the one unit in which all three were written."""

    low: float
    value: float
    high: float
    unit: str = ""

    def as_written(self, number: float) -> Any:
        """`number` as a file would say it: text with the unit, or a bare number where there is none."""
        return f"{number!r} {self.unit}" if self.unit else number


@dataclass(frozen=True)
class Node:
    """One value with its place, the place of its key, and its origin if it was annotated."""

    value: Any
    """A scalar, `dict[str, Node]` or `list[Node]`."""
    place: Place = NOWHERE
    key: Place = NOWHERE
    origin: Origin | None = None
    whole: bool = False
    """Replaces what it is merged over, even where both are mappings."""
    spread: Spread | None = None
    """How far it may lie off, where its annotation says so."""

    def plain(self) -> Any:
        """The data alone, as fresh dictionaries and lists."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    @cached_property
    def text(self) -> str:
        """The data as text, found once: scenarios of a family share most nodes. Keys stay in the order of the file, which says
        which GPU attends if nothing else does."""
        return json.dumps(self.plain(), default=repr)

    @cached_property
    def origins(self) -> tuple[tuple[Path, Origin], ...]:
        """Path below this node -> origin, for every value that has one."""
        return tuple((path, leaf.origin) for path, leaf in self.leaves() if leaf.origin is not None)

    @property
    def top(self) -> Any:
        """The keys at the top with what they hold as plain data where that is a single value or a mapping; else None."""
        if not isinstance(self.value, dict):
            return None
        return {name: child.value for name, child in self.value.items()}

    def child(self, name: str | int) -> Node | None:
        """The value under a key or index, or None."""
        if isinstance(self.value, dict):
            child = self.value.get(name)
            return child if isinstance(child, Node) else None
        if isinstance(self.value, list) and isinstance(name, int) and 0 <= name < len(self.value):
            item = self.value[name]
            return item if isinstance(item, Node) else None
        return None

    def walk(self, path: Path) -> tuple[Node, int]:
        """The deepest node on the way to `path`, and how many steps of the path it took."""
        node = self
        for depth, step in enumerate(path):
            below = node.child(step)
            if below is None:
                return node, depth
            node = below
        return node, len(path)

    def at(self, path: Path) -> Node | None:
        """The node at `path`, or None."""
        node, depth = self.walk(path)
        return node if depth == len(path) else None

    def holding(self, value: Any) -> Node:
        """This node with another value."""
        return Node(value, self.place, self.key, self.origin, self.whole, self.spread)

    def put(self, path: Path, node: Node) -> Node:
        """This tree with `node` at `path`; missing mappings on the way are made."""
        if not path:
            return node
        head, rest = path[0], path[1:]
        if isinstance(self.value, list) and isinstance(head, int):
            items = list(self.value)
            items[head] = items[head].put(rest, node)
            return self.holding(items)
        below = self.value if isinstance(self.value, dict) else {}
        start = below.get(head, Node({}, node.place, node.key))
        return self.holding({**below, str(head): start.put(rest, node)})

    def leaves(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """Every scalar (and empty collection) with its path, in written order."""
        if not self.value or not isinstance(self.value, dict | list):
            yield path, self
            return
        for name, below in self.value.items() if isinstance(self.value, dict) else enumerate(self.value):
            if below.value and isinstance(below.value, dict | list):
                yield from below.leaves((*path, name))
            else:
                yield (*path, name), below


class Tree:
    """A whole file or scenario: `.data` is plain, `.mark(path)` says where a part of it was written."""

    def __init__(self, root: Node) -> None:
        self.root = root

    @property
    def data(self) -> Any:
        """Plain dictionaries, lists and scalars."""
        return self.root.plain()

    def mark(self, path: Path, *, key: bool = False) -> Place:
        """The place of the value at `path` (or of its key), or of the longest part of the path that exists."""
        node, depth = self.root.walk(path)
        return node.key if key and depth == len(path) else node.place

    def mistake(self, message: str, path: Path = (), *, key: bool = False) -> Mistake:
        """A mistake at `path`; one that came by `--set` says so instead of a line."""
        return Mistake(message, dotted(path), *self.mark(path, key=key))


def dotted(path: Path) -> str:
    """`workload.routing.exponent`, with list indices as numbers: `compare.0`."""
    return ".".join(str(step) for step in path)


def from_plain(data: Any, place: Place = NOWHERE) -> Node:
    """Nodes for plain data, all at one place."""
    if isinstance(data, Mapping):
        return Node({str(name): from_plain(below, place) for name, below in data.items()}, place, place)
    if isinstance(data, (list, tuple)):
        return Node([from_plain(below, place) for below in data], place, place)
    return Node(math.inf if data == INFINITE else data, place, place)


def to_plain(data: Any) -> Any:
    """Plain data that JSON can hold; `from_plain` reads it back."""
    if isinstance(data, Mapping):
        return {str(name): to_plain(below) for name, below in data.items()}
    if isinstance(data, (list, tuple)):
        return [to_plain(below) for below in data]
    return INFINITE if isinstance(data, float) and math.isinf(data) and data > 0 else data


def merge(below: Node, above: Node) -> Node:
    """`above` laid over `below`: mappings key by key, all else replaced.

    A mapping whose `kind` differs from that of the one below describes another thing and replaces it altogether.
    """
    if above.whole or not (isinstance(above.value, dict) and isinstance(below.value, dict)):
        return above
    kinds = [node.child("kind") for node in (below, above)]
    if kinds[0] is not None and kinds[1] is not None and kinds[0].value != kinds[1].value:
        return above
    merged = dict(below.value)
    for name, node in above.value.items():
        merged[name] = merge(merged[name], node) if name in merged else node
    return above.holding(merged)
