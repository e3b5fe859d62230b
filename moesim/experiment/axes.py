"""The values of an axis: from what a file says to settings of dotted paths, and how tables show them.

Knows numbers, units and nodes; not what a path means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from moesim.errors import Mistake
from moesim.experiment.spec import List, LogRange, Range, Zip
from moesim.scenario.tree import Node
from moesim.units import format_count, split

__all__ = ["Column", "Dimension", "Setting", "dimension"]

Setting = dict[str, Node]
"""Dotted path -> value, with the place where the file says it."""
_DIGITS = 6


@dataclass(frozen=True)
class Column:
    """One path of an axis: its values, and how a table shows them."""

    path: str
    values: tuple[Node, ...]
    """The steps; of a range that is only drawn from, its two ends."""
    shown: tuple[float | int | str, ...]
    """As tables show the values: numbers where all have one unit, else texts."""
    unit: str = ""
    scale: str = "categories"
    """`linear` or `log` for numbers, else `categories`."""
    spread: Range | LogRange | None = None
    """What a design may draw between the ends."""

    @property
    def name(self) -> str:
        """The column's name in tables: the path, with the unit of its numbers."""
        return f"{self.path} ({self.unit})" if self.unit else self.path


@dataclass(frozen=True)
class Dimension:
    """An axis: one column, or several that move together."""

    name: str
    columns: tuple[Column, ...]
    label: Column | None = None
    """What tables show in place of the paths, where the file says so: a column that is called like the axis."""

    @property
    def size(self) -> int:
        """Number of steps."""
        return len(self.columns[0].values)

    @property
    def spread(self) -> Range | LogRange | None:
        """What a design may draw between the ends, where the axis is one range."""
        return self.columns[0].spread if len(self.columns) == 1 else None

    @property
    def tables(self) -> tuple[Column, ...]:
        """The columns that tables show."""
        return self.columns if self.label is None else (self.label,)

    def step(self, index: int) -> tuple[Setting, dict[str, Any]]:
        """The values of step `index`, as nodes by path and as tables show them by column."""
        values = {column.path: column.values[index] for column in self.columns}
        return values, {column.name: column.shown[index] for column in self.tables}

    def drawn(self, share: float) -> tuple[Setting, dict[str, Any]]:
        """The values at `share` (0 to 1) of the way: between the ends of a range, or the step of a list."""
        spread = self.spread
        if spread is None:
            return self.step(min(int(share * self.size), self.size - 1))
        column = self.columns[0]
        (low, unit), (high, _) = (_number(edge) for edge in (spread.low, spread.high))
        drawn = _between(low, high, share, spread)
        value = round(drawn) if spread.whole else drawn
        return {column.path: _node(value, unit, column.values[0])}, {column.name: value}


def dimension(
    name: str, axis: List | Range | LogRange | Zip, node: Node, *, drawn: bool
) -> tuple[Dimension | None, list[Mistake]]:
    """The axis called `name`, or what is wrong with it; `node` is what the file says, `drawn` a design that needs no steps."""
    where = ("axes", name)
    if not isinstance(axis, Zip):
        column, wrong = _column(name, axis, node, where, drawn=drawn)
        return (None if column is None else Dimension(name, (column,))), wrong
    mistakes: list[Mistake] = []
    columns: list[Column] = []
    inside = node.child("paths")
    assert inside is not None
    for path, part in axis.paths.items():
        below = inside.child(path)
        assert below is not None
        column, wrong = _column(path, part, below, (*where, "paths", path), drawn=False, again=True)
        mistakes += wrong
        columns += [column] if column is not None else []
    sizes = {len(column.values) for column in columns}
    if not mistakes and len(sizes) > 1:
        text = ", ".join(f"{column.path} {len(column.values)}" for column in columns)
        mistakes.append(Mistake(f"paths that move together need equally many values; here: {text}", _path(where), *inside.key))
    if not mistakes and axis.labels is not None and len(axis.labels) != len(columns[0].values):
        mistakes.append(_labels(axis.labels, len(columns[0].values), node, where))
    if mistakes:
        return None, mistakes
    label = None if axis.labels is None else _labelled(name, columns[0].values, axis.labels)
    return Dimension(name, tuple(columns), label), []


def _path(steps: Sequence[str]) -> str:
    return ".".join(steps)


def _labels(labels: Sequence[Any], count: int, node: Node, where: Sequence[str]) -> Mistake:
    place = (node.child("labels") or node).place
    counts = f"{format_count(len(labels), 'label')} for {format_count(count, 'value')}"
    return Mistake(f"{counts}; one for each is needed", f"{_path(where)}.labels", *place)


def _column(
    path: str, axis: List | Range | LogRange, node: Node, where: tuple[str, ...], *, drawn: bool, again: bool = False
) -> tuple[Column | None, list[Mistake]]:
    if isinstance(axis, List):
        return _listed(path, axis, node, where, again)
    mistakes = _edges(axis, node, where, drawn)
    if mistakes:
        return None, mistakes
    numbers, unit = _steps(axis), _number(axis.low)[1]
    scale = "log" if isinstance(axis, LogRange) else "linear"
    return Column(path, tuple(_node(number, unit, node) for number in numbers), numbers, unit, scale, axis), []


def _steps(axis: Range | LogRange) -> tuple[float | int, ...]:
    """The values of a range, rising; whole numbers where all of them are."""
    low, high = (_number(edge)[0] for edge in (axis.low, axis.high))
    if isinstance(axis, Range) and axis.step is not None:
        first, step = Fraction(str(low)), Fraction(str(_number(axis.step)[0]))
        values = [float(first + step * k) for k in range(int((Fraction(str(high)) - first) / step) + 1)]
    else:
        gaps = (axis.points or 2) - 1
        values = [_between(low, high, Fraction(k, gaps), axis) for k in range(gaps + 1)]
    whole = axis.whole or all(value.is_integer() for value in values)
    return tuple(dict.fromkeys(round(value) if whole else value for value in values))


def _edges(axis: Range | LogRange, node: Node, where: tuple[str, ...], drawn: bool) -> list[Mistake]:
    """What is wrong with the ends and the step of a range."""

    def wrong(key: str, message: str) -> Mistake:
        return Mistake(message, _path((*where, key)), *(node.child(key) or node).place)

    step = axis.step if isinstance(axis, Range) else None
    edges = {key: below.plain() for key in ("low", "high", "step") if (below := node.child(key)) is not None}
    read = {key: split(value) for key, value in edges.items() if value is not None}
    mistakes = [wrong(key, f"'{edges[key]}' is not a number or quantity") for key, pair in read.items() if pair is None]
    if mistakes:
        return mistakes
    low = _number(edges["low"])
    for key, pair in read.items():
        if pair is not None and pair[1] != low[1]:
            mistakes.append(wrong(key, f"'{edges[key]}' is not in the unit of 'low', '{edges['low']}'; write all in one unit"))
    if not mistakes:
        mistakes += [wrong(key, text) for key, text in _order(axis, edges)]
    if axis.points is None and step is None and not drawn:
        needed = "'points' or 'step'" if isinstance(axis, Range) else "'points'"
        mistakes.append(wrong("points", f"missing; {needed} says how many values there are"))
    return mistakes


def _order(axis: Range | LogRange, edges: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The first mistake in the order of the ends and the step as written, as (key, message)."""
    low, high = (_number(edges[key])[0] for key in ("low", "high"))
    step = edges.get("step")
    if low >= high:
        yield "high", f"{edges['high']} is not above 'low', {edges['low']}"
    elif isinstance(axis, LogRange) and low <= 0:
        yield "low", f"{edges['low']} is not above zero, as equal ratios need"
    elif step is not None and not 0 < _number(step)[0] <= high - low:
        yield "step", f"{step} is not a step between {edges['low']} and {edges['high']}"


def _number(edge: float | str) -> tuple[float, str]:
    pair = split(edge)
    assert pair is not None, edge
    return pair


def _between(low: float, high: float, share: Fraction | float, axis: Range | LogRange) -> float:
    """The value at `share` of the way: exact in decimals at a fraction, else, and for equal ratios, rounded to six digits."""
    if share in (0, 1):
        return high if share else low
    if isinstance(axis, LogRange):
        return float(f"{low * (high / low) ** float(share):.{_DIGITS}g}")
    if isinstance(share, Fraction):
        return float(Fraction(str(low)) + (Fraction(str(high)) - Fraction(str(low))) * share)
    return float(f"{low + (high - low) * share:.{_DIGITS}g}")


def _node(value: float | int, unit: str, like: Node) -> Node:
    return replace(like, value=f"{value!r} {unit}" if unit else value)


def _listed(path: str, axis: List, node: Node, where: tuple[str, ...], again: bool) -> tuple[Column | None, list[Mistake]]:
    inside = node.child("values")
    assert inside is not None
    values = tuple(replace(item, key=item.place) for item in inside.value)
    if axis.labels is not None and len(axis.labels) != len(values):
        return None, [_labels(axis.labels, len(values), node, where)]
    mistakes = []
    seen: dict[str, int] = {}
    for index, item in enumerate(values):
        text = json.dumps(item.plain(), sort_keys=True, default=repr)
        if text in seen and not again:
            message = f"the same value as number {seen[text] + 1} of the list; each is run once"
            mistakes.append(Mistake(message, _path((*where, "values", str(index))), *item.place))
        seen.setdefault(text, index)
    if mistakes:
        return None, mistakes
    return _labelled(path, values, [item.plain() for item in values] if axis.labels is None else axis.labels), []


def _labelled(path: str, values: tuple[Node, ...], labels: Sequence[Any]) -> Column:
    """The column that shows `labels`: as numbers, where all are numbers or quantities of one unit."""
    quantities = [split(label) for label in labels]
    units = {quantity[1] for quantity in quantities if quantity is not None}
    if None in quantities or len(units) != 1:
        return Column(path, values, tuple(_text(label) for label in labels))
    pairs = zip(labels, quantities, strict=True)
    shown = tuple(label if isinstance(label, int) else quantity[0] for label, quantity in pairs if quantity is not None)
    return Column(path, values, shown, units.pop(), _scale(shown))


def _scale(numbers: Sequence[float]) -> str:
    """`log` where values grow by about equal ratios and not by equal steps."""
    if len(numbers) < 3 or min(numbers) <= 0 or list(numbers) != sorted(numbers):
        return "linear"
    logs = [math.log(b / a) for a, b in pairwise(numbers)]
    steps = [b - a for a, b in pairwise(numbers)]
    return "log" if min(logs) > 0 and max(logs) / min(logs) < max(steps) / min(steps) else "linear"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=repr)
