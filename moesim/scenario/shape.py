"""What keys and types a spec allows at each place of its data, read off its JSON Schema.

Knows pydantic's schemas, nothing of scenarios. Used for did-you-mean, for `--set` paths, and to refuse what pydantic
would quietly convert (`yes` to true, true to 1, "8" to 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, PydanticUserError

from moesim.scenario.tree import Node, Path
from moesim.spec import bare_schema

__all__ = ["Shape", "kept_as_written", "shape_of"]

Schema = dict[str, Any]


class Shape:
    """The places of one spec; a place may allow several alternatives."""

    def __init__(self, schema: Schema) -> None:
        self._root = schema
        self._definitions: Schema = schema.get("$defs", {})

    def at(self, path: Path, node: Node) -> list[Schema]:
        """The alternatives allowed at `path`, given the data `node` of the whole; empty where nothing is known."""
        schemas = list(self._alternatives(self._root, node))
        below: Node | None = node
        for step in path:
            below = below.child(step) if below is not None else None
            schemas = [inner for schema in schemas for inner in self._step(schema, step, below)]
        return schemas

    def keys(self, path: Path, node: Node) -> list[str] | None:
        """The keys known at `path`; None where any key may stand, or where nothing is known."""
        mappings = [schema for schema in self.at(path, node) if schema.get("type") == "object"]
        if not mappings or any(schema.get("additionalProperties", True) is not False for schema in mappings):
            return None
        return list(dict.fromkeys(name for schema in mappings for name in schema.get("properties", {})))

    def default(self, path: Path, node: Node) -> Any:
        """The default of the field at `path` as plain data, None without one."""
        fields = [schema.get("properties", {}).get(path[-1], {}) for schema in self.at(path[:-1], node)]
        return next((field["default"] for field in fields if "default" in field), None)

    def _step(self, schema: Schema, step: str | int, below: Node | None) -> Iterator[Schema]:
        if isinstance(step, int):
            inner = schema.get("items")
        else:
            inner = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
        if isinstance(inner, dict):
            yield from self._alternatives(inner, below)

    def _alternatives(self, schema: Schema, node: Node | None) -> Iterator[Schema]:
        if "$ref" in schema:
            yield from self._alternatives(self._definitions[schema["$ref"].rsplit("/", 1)[1]], node)
            return
        branches = [branch for word in ("anyOf", "oneOf", "allOf") for branch in schema.get(word, ())]
        if not branches:
            yield schema
            return
        schemas = [inner for branch in branches for inner in self._alternatives(branch, node)]
        chosen = [inner for inner in schemas if _kind_fits(inner, node)]
        yield from chosen or schemas

    def converted(self, node: Node, path: Path = ()) -> Iterator[tuple[Path, str]]:
        """(path, message) of scalars that are of another type than the spec's, though pydantic would take them."""
        for where, leaf in node.leaves(path):
            allowed = self.at(where, node)
            message = _converted(leaf.value, {str(schema.get("type", "")) for schema in allowed}) if allowed else None
            if message is not None:
                yield where, message


def _kind_fits(schema: Schema, node: Node | None) -> bool:
    kind = node.child("kind") if node is not None else None
    allowed = schema.get("properties", {}).get("kind", {})
    if kind is None or not allowed:
        return node is None or (isinstance(node.value, dict) == (schema.get("type") == "object"))
    return kind.value in (allowed["enum"] if "enum" in allowed else [allowed.get("const", kind.value)])


def _converted(value: Any, types: set[str]) -> str | None:
    """What is wrong with a scalar where JSON types `types` are allowed; None if nothing, or if unknown."""
    numbers = {"integer", "number"} & types
    if isinstance(value, bool):
        return f"{str(value).lower()} is not a number" if numbers and not {"boolean", ""} & types else None
    if isinstance(value, (int, float)):
        return f"{value} is neither true nor false" if types == {"boolean"} else None
    if not isinstance(value, str) or {"string", ""} & types:
        return None
    if types <= {"boolean", "null"} and types:
        return f"'{value}' is text; write true or false"
    if numbers and types <= {"integer", "number", "null"}:
        needed = "number" if "number" in types else "whole number"
        return f"'{value}' is not a {needed}; write it without quotes and without a unit"
    return None


def kept_as_written(value: Any, spec: Any, path: Path) -> bool:
    """Whether the scalar `value` at `path` is of the kind in the validated `spec` that it was written as, or of a kind that
    pydantic would convert to no other.

    Saves making a JSON Schema for data that are right; False where it cannot be seen.
    """
    if isinstance(value, str):
        return not _convertible(value) or isinstance(_inside(spec, path), str)
    if isinstance(value, bool):
        return isinstance(_inside(spec, path), bool)
    return value not in (0, 1) or not isinstance(_inside(spec, path), (bool, type(None)))


def _convertible(text: str) -> bool:
    """Whether pydantic takes `text` for a boolean or a number where it needs that."""
    if text.strip().lower() in _BOOLEAN:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


_BOOLEAN = {"t", "true", "on", "y", "yes", "f", "false", "off", "n", "no"}


def _inside(spec: Any, path: Path) -> Any:
    """What a validated spec holds at `path`; None where nothing of that name is there."""
    for step in path:
        if isinstance(spec, BaseModel):
            spec = getattr(spec, str(step), None)
        elif isinstance(spec, Mapping):
            spec = spec.get(step)
        else:
            spec = spec[step] if isinstance(spec, (list, tuple)) and isinstance(step, int) and step < len(spec) else None
    return spec


@cache
def shape_of(spec: type[BaseModel]) -> Shape:
    """The shape of a spec's data; nothing is known where its JSON Schema cannot be made."""
    try:
        return Shape(bare_schema(spec))
    except PydanticUserError:  # a plug-in may use types that have no JSON Schema: its hints are lost, no more
        return Shape({})
