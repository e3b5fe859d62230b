"""Values that say where they come from: `{value: 960 GB/s, basis: measured, source: "..."}` becomes the value alone.

Knows nothing of files or of what the values mean. What was said stays in `Node.origin` and `Node.spread` and survives
merging with its value, so a value that replaces an annotated one does not inherit the other one's source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moesim.errors import Mistake, did_you_mean
from moesim.scenario.tree import Node, Origin, Path, Spread, dotted
from moesim.units import split

__all__ = ["KEYS", "provenance", "push_down", "spreads", "strip"]

KEYS = ("value", "basis", "source", "note", "date", "spread")
"""The keys of an annotated value; only `value` is needed."""

_SAID = ("basis", "source", "note", "date")


def strip(node: Node, mistakes: list[Mistake], path: Path = ()) -> Node:
    """The tree with every annotated value replaced by its value."""
    if isinstance(node.value, list):
        return node.holding([strip(item, mistakes, (*path, index)) for index, item in enumerate(node.value)])
    if not isinstance(node.value, dict):
        return node
    if "value" in node.value and all(name in KEYS for name in node.value):
        spread = _spread(node, mistakes, path)
        return replace(strip(node.value["value"], mistakes, path), key=node.key, origin=_origin(node), spread=spread)
    if "value" in node.value and any(name in node.value for name in (*_SAID, "spread")):
        for name, child in node.value.items():
            if name not in KEYS:
                message = f"unknown key in an annotated value; known: {', '.join(KEYS)}.{did_you_mean(name, KEYS)}"
                mistakes.append(Mistake(message, dotted((*path, name)), *child.key))
        value: Node = node.value["value"]
        return replace(value, key=node.key)
    return node.holding({name: strip(child, mistakes, (*path, name)) for name, child in node.value.items()})


def _origin(node: Node) -> Origin:
    fields = {name: " ".join(str(child.plain()).split()) for name, child in node.value.items() if name in _SAID}
    note = "; ".join(text for text in (fields.get("note"), fields.get("date")) if text)
    return Origin(fields.get("basis", ""), fields.get("source", ""), note)


def _spread(node: Node, mistakes: list[Mistake], path: Path) -> Spread | None:
    """`spread: [low, high]`, in the unit of the value and around it; None where there is none or it is wrong."""
    spread, value = node.value.get("spread"), node.value["value"]
    if spread is None:
        return None
    ends: list[tuple[float, str]] = []
    wrong = ""
    place: Node = spread
    if not isinstance(spread.value, list) or len(spread.value) != 2:
        wrong = "a spread is the lowest and the highest value that may be true, in the unit of the value: [low, high]"
    elif (middle := split(value.value)) is None:
        wrong = f"'{_shown(value)}' is not a finite number with a unit, so it can have no spread"
    else:
        for place in spread.value:
            wrong = _bound(place, middle, ends, _shown(value))
            if wrong:
                break
        else:
            (low, _), (high, _) = ends
            if low <= middle[0] <= high:
                return Spread(low, middle[0], high, middle[1])
            place, wrong = spread, f"the value {_shown(value)} lies outside its own spread; low <= value <= high has to hold"
    mistakes.append(Mistake(wrong, dotted((*path, "spread")), *place.place))
    return None


def _bound(bound: Node, middle: tuple[float, str], ends: list[tuple[float, str]], value: str) -> str:
    """Adds number and unit of one end to `ends`; what is wrong with it, if anything."""
    read = split(bound.value)
    if read is None:
        return f"'{_shown(bound)}' is not a finite number with a unit; write it like the value, '{value}'"
    if read[1] != middle[1] and not read[1]:
        return f"'{_shown(bound)}' has no unit; write it in that of the value, '{value}'"
    if read[1] != middle[1]:
        return f"'{_shown(bound)}' is not in the unit of the value, '{value}'; write all three in one unit"
    ends.append(read)
    return ""


def _shown(node: Node) -> Any:
    return node.plain()


def push_down(node: Node, inherited: Origin | None = None) -> Node:
    """A `source:` (with `basis:`, `note:`, `date:`) written inside a mapping holds for every value in it without one.

    These keys and `summary` are taken out: specs have no such fields.
    """
    if isinstance(node.value, list):
        here = node.origin or inherited
        return replace(node, value=[push_down(item, here) for item in node.value], origin=here)
    if not isinstance(node.value, dict):
        return replace(node, origin=node.origin or inherited)
    texts = {name: child for name, child in node.value.items() if name in _SAID and isinstance(child.value, str)}
    here = _origin(node.holding(texts)) if texts else inherited
    dropped = {*texts, "summary"}
    return node.holding({name: push_down(child, here) for name, child in node.value.items() if name not in dropped})


def provenance(node: Node) -> dict[str, Origin]:
    """Dotted path -> origin, for every value that has one."""
    origins = [((part, *path), origin) for part, child in node.value.items() for path, origin in child.origins]
    return {dotted(path): origin for path, origin in origins if path[-1] != "kind"}


def spreads(node: Node) -> dict[str, Spread]:
    """Dotted path -> spread, for every value that has one."""
    return {dotted(path): leaf.spread for path, leaf in node.leaves() if leaf.spread is not None}
