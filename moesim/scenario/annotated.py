"""Values that say where they come from: `{value: 960 GB/s, basis: measured, source: "..."}` becomes the value alone.

Knows nothing of files or of what the values mean. What was said stays in `Node.origin` and survives merging with its
value, so a value that replaces an annotated one does not inherit the other one's source.
"""

from __future__ import annotations

from dataclasses import replace

from moesim.errors import Mistake, did_you_mean
from moesim.scenario.tree import Node, Origin, Path, dotted

__all__ = ["KEYS", "provenance", "push_down", "strip"]

KEYS = ("value", "basis", "source", "note", "date")
"""The keys of an annotated value; only `value` is needed."""

_SAID = ("basis", "source", "note", "date")


def strip(node: Node, mistakes: list[Mistake], path: Path = ()) -> Node:
    """The tree with every annotated value replaced by its value."""
    if isinstance(node.value, list):
        return replace(node, value=[strip(item, mistakes, (*path, index)) for index, item in enumerate(node.value)])
    if not isinstance(node.value, dict):
        return node
    if "value" in node.value and all(name in KEYS for name in node.value):
        return replace(strip(node.value["value"], mistakes, path), key=node.key, origin=_origin(node))
    if "value" in node.value and any(name in node.value for name in _SAID):
        for name, child in node.value.items():
            if name not in KEYS:
                message = f"unknown key in an annotated value; known: {', '.join(KEYS)}.{did_you_mean(name, KEYS)}"
                mistakes.append(Mistake(message, dotted((*path, name)), *child.key))
        value: Node = node.value["value"]
        return replace(value, key=node.key)
    return replace(node, value={name: strip(child, mistakes, (*path, name)) for name, child in node.value.items()})


def _origin(node: Node) -> Origin:
    said = {name: " ".join(str(child.plain()).split()) for name, child in node.value.items() if name in _SAID}
    note = "; ".join(text for text in (said.get("note"), said.get("date")) if text)
    return Origin(said.get("basis", ""), said.get("source", ""), note)


def push_down(node: Node, inherited: Origin | None = None) -> Node:
    """A `source:` (with `basis:`, `note:`, `date:`) written inside a mapping holds for every value in it without one.

    These keys and `summary` are taken out: specs have no such fields.
    """
    if isinstance(node.value, list):
        items = [push_down(item, inherited) for item in node.value]
        return replace(node, value=items, origin=node.origin or inherited)
    if not isinstance(node.value, dict):
        return replace(node, origin=node.origin or inherited)
    texts = {name: child for name, child in node.value.items() if name in _SAID and isinstance(child.value, str)}
    here = _origin(replace(node, value=texts)) if texts else inherited
    dropped = {*texts, "summary"}
    return replace(node, value={name: push_down(child, here) for name, child in node.value.items() if name not in dropped})


def provenance(node: Node) -> dict[str, Origin]:
    """Dotted path -> origin, for every value that has one."""
    return {dotted(path): leaf.origin for path, leaf in node.leaves() if leaf.origin is not None and path[-1:] != ("kind",)}
