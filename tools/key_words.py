"""Types and defaults of a JSON Schema in words, for the page of keys.

Knows pydantic's schemas, nothing of what the keys are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from moesim.units import format_bytes, format_limit, format_rate, format_seconds

__all__ = ["default_words", "mark", "type_words"]

Schema = dict[str, Any]
_ESCAPES = str.maketrans({"|": "\\|", "<": "&lt;"})
_BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below"))
_WRITTEN: dict[str, Callable[[float], str]] = {
    "48 GB": format_bytes,
    "64 GB/s": format_rate,
    "100 ns": format_seconds,
    "20 TFLOPS": lambda value: format_rate(value, "FLOPS"),
}
"""Example of a quantity -> how a value of it is written."""


def mark(text: str) -> str:
    """Text that a Markdown table leaves as it is."""
    return text.translate(_ESCAPES)


def type_words(field: Schema, links: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """What may stand there: `whole number, at least 1`, `like `48 GB``, links to kinds. `links`: definition -> anchor."""
    if "$ref" in field:
        return _link(field, links, kinds)
    branches = [branch for word in ("anyOf", "oneOf", "allOf") for branch in field.get(word, ())]
    if branches:
        return _alternatives(branches, links, kinds)
    if "examples" in field and "pattern" in field:
        return f"like `{field['examples'][0]}`"
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return _list(field, links, kinds)
    if field.get("type") == "object":
        return f"name -> {type_words(field['additionalProperties'], links, kinds)}"
    word = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    bounds = [f"{text} {format_limit(field[key])}" for key, text in _BOUNDS if key in field]
    return ", ".join([word.get(str(field.get("type")), "anything"), *bounds])


def _link(reference: Schema, links: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    name = str(reference["$ref"]).rsplit("/", 1)[1]
    return f"[{kinds.get(name) or 'mapping'}](#{links[name]})"


def _alternatives(branches: list[Schema], links: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """Without null: that is what the default says. A whole number is a number."""
    types = {branch.get("type") for branch in branches}
    idle = {"null", "integer"} if "number" in types else {"null"}
    words = dict.fromkeys(type_words(branch, links, kinds) for branch in branches if branch.get("type") not in idle)
    return " or ".join(words).replace(" or number", " or a number")


def _list(field: Schema, links: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    least, most = field.get("minItems"), field.get("maxItems")
    amount = f"{least} of " if least == most and least else f"{least} or more of " if least else ""
    return f"list: {amount}{type_words(field.get('items', {}), links, kinds)}"


def default_words(field: Schema, definitions: Mapping[str, Schema]) -> str:
    """The default as a file would write it; `-` for none, *its own* for a mapping that gives nothing."""
    default = field.get("default")
    if default is None or default in ("", [], {}):
        return "-"
    if isinstance(default, dict):
        default = _beyond_defaults(default, field, definitions)
        return f"`{_flow(default)}`" if default else "*its own*"
    return f"`{_quantity(default, field)}`"


def _beyond_defaults(default: Schema, field: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """What a default mapping says that the keys of its kind do not say by default themselves."""
    for name in _names(field):
        fields = definitions.get(name, {}).get("properties", {})
        kind = fields.get("kind", {}).get("const")
        if set(default) <= set(fields) and (kind is None or default.get("kind") == kind):
            several = len(list(_names(field))) > 1
            return {k: v for k, v in default.items() if (k == "kind" and several) or not _usual(v, fields[k])}
    return default


def _usual(value: Any, field: Schema) -> bool:
    usual = field.get("default", field.get("const"))
    return bool(value == usual or _quantity(value, field) == _quantity(usual, field))


def _names(field: Schema) -> list[str]:
    own = [str(field["$ref"]).rsplit("/", 1)[1]] if "$ref" in field else []
    return own + [name for word in ("anyOf", "oneOf", "allOf") for branch in field.get(word, ()) for name in _names(branch)]


def _quantity(value: Any, field: Schema) -> str:
    """A value with its unit, whatever the schema made of it."""
    examples = [str(branch["examples"][0]) for branch in (field, *field.get("anyOf", ())) if "pattern" in branch]
    write = _WRITTEN.get(examples[0]) if examples else None
    if write is None:
        return _flow(value)
    number = float(value.split()[0]) if isinstance(value, str) else float(value)
    return write(number) if number else "0"


def _flow(value: Any) -> str:
    """As YAML writes it in a line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return ".inf" if math.isinf(value) else f"{value:g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value)
