"""The JSON Schema of scenario files, for editors: draft 7, no tuples, one branch per `kind`.

Made from the specs that read the files. Knows what the loader allows beyond them: names instead of parts, `profile`,
`extends`, annotated values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from moesim.hardware.gpu import Gpu
from moesim.hardware.memory import Memory
from moesim.hardware.system import System
from moesim.model import Architecture
from moesim.runtime import Runtime
from moesim.scenario.catalogue import classes, names
from moesim.scenario.schema import Head

__all__ = ["draft7", "json_schema", "known_names"]

Schema = dict[str, Any]

_GROUPS = {"workload": "workload", "policy": "policies", "routing": "routing"}
_PARTS: dict[str, type[BaseModel]] = {"hardware": System, "runtime": Runtime, "model": Architecture}
_SINGLE = ("string", "number", "integer", "boolean")


def json_schema() -> Schema:
    """What a scenario file may say. A file that extends another may leave anything out, so no key is required."""
    kinds = {part: _kinds(group) for part, group in _GROUPS.items()}
    top_specs: list[type[BaseModel]] = [
        System,
        Runtime,
        Architecture,
        Head,
        *(spec for part in kinds.values() for spec in part.values()),
    ]
    models, whole = models_json_schema([(spec, "validation") for spec in dict.fromkeys(top_specs)])
    definitions: Schema = {name: draft7(definition) for name, definition in whole["$defs"].items()}
    refs = {spec: _name(models[(spec, "validation")]) for spec in dict.fromkeys(top_specs)}
    machines, parts = _hardware()
    for name in dict.fromkeys((*_reachable(definitions, refs[System]), *_reachable(definitions, refs[Runtime]))):
        definitions[name] = _part(definitions[name], machines, parts)
    own_memory = {"anyOf": [definitions[Gpu.__name__]["properties"]["memory"], _ref(Memory.__name__)]}
    definitions[Gpu.__name__]["properties"]["memory"] = own_memory
    _open_model(definitions[refs[Architecture]])
    for part, specs in kinds.items():
        for kind, spec in specs.items():
            _branch(definitions[refs[spec]], kind, required=part == "routing")
        definitions[part] = {"oneOf": [_ref(refs[spec]) for spec in specs.values()]}
    head = definitions.pop(refs[Head])["properties"]
    return _whole(head, {part: refs[spec] for part, spec in _PARTS.items()}, machines, definitions)


def _open_model(model: Schema) -> None:
    """A model may also be a file, a precision also a word; a key that is set to null leaves out one of the config.json."""
    _relax(model, {"config": {"type": "string", "description": "Path of a config.json or a .gguf."}})
    stored = model["properties"]
    stored["precision"] = {"anyOf": [_word("Of the whole model: Q4_K_M, fp8, '4.5 bits'."), stored["precision"]]}
    model["additionalProperties"] = {"type": "null", "description": "A key of the config.json to leave out."}


def _whole(head: Schema, refs: Mapping[str, str], machines: list[str], definitions: Schema) -> Schema:
    """The schema of a file, whose parts refer to `definitions` by the names in `refs`."""
    own = "Name of a runtime, or 'own' for that of the policy's system."
    base = "Scenario that this one changes: a path from this file, or a name."
    file = "Name of a model, or path of a config.json or .gguf."
    policy = _word("Name of a policy, or module:Class.", known_names("policies"))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "moesim scenario",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "extends": _word(base, known_names("scenarios")),
            **head,
            "hardware": {"anyOf": [_word("Name of a machine.", machines), _ref(refs["hardware"])]},
            "runtime": {"anyOf": [_word(own, ["own", *known_names("runtimes")]), _ref(refs["runtime"])]},
            "model": {"anyOf": [_word(file, known_names("models")), _ref(refs["model"])]},
            "workload": {"anyOf": [_ref("workload"), _PARTIAL]},
            "policy": {"anyOf": [policy, _ref("policy"), *_plugins(), _PARTIAL]},
        },
        "definitions": definitions,
    }


def _plugins() -> list[Schema]:
    """Policies whose keys are not known: classes beside the file, and installed ones that are not imported or cannot be."""
    kinds: list[Schema] = [{"type": "string", "pattern": ":", "description": "module:Class beside the scenario file."}]
    unknown = [name for name, spec in classes("policies").items() if not isinstance(spec, type)]
    if unknown:
        kinds.append({"enum": unknown, "description": "An installed plug-in; 'moesim schema --plugins' knows its keys."})
    return [{"type": "object", "required": ["kind"], "properties": {"kind": kind}} for kind in kinds]


_PARTIAL: Schema = {
    "type": "object",
    "not": {"required": ["kind"]},
    "description": "Changes to the part of the scenario that is extended, whose kind stays.",
}


def _kinds(group: str) -> dict[str, type[BaseModel]]:
    """Kind -> spec of a group, without those that cannot be loaded."""
    return {name: spec for name, spec in classes(group).items() if isinstance(spec, type) and issubclass(spec, BaseModel)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _word(description: str, choices: Iterable[str] = ()) -> Schema:
    """Any text; an editor completes the `choices` that are known here."""
    known = list(choices)
    if not known:
        return {"type": "string", "description": description}
    return {"anyOf": [{"enum": known}, {"type": "string"}], "description": description}


def known_names(group: str) -> list[str]:
    """What `moesim list` shows of `group`."""
    return [entry.name for entry in names(group)]


def _hardware() -> tuple[list[str], list[str]]:
    """Names of machines, and of their parts."""
    entries = names("hardware")
    machines = [entry.name for entry in entries if entry.kind == "system"]
    return machines, [entry.name for entry in entries if entry.kind != "system"]


def _name(reference: Any) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


def draft7(part: Any) -> Any:
    """The same in the older words: definitions, tuples as lists, no keywords beside a reference."""
    if isinstance(part, list):
        return [draft7(item) for item in part]
    if isinstance(part, float) and not math.isfinite(part):
        return f"{part:+}".replace("+inf", ".inf").replace("-inf", "-.inf")  # as YAML writes it; JSON has no word for it
    if not isinstance(part, dict):
        return part
    if "prefixItems" in part:
        items = part["prefixItems"]
        part = {key: value for key, value in part.items() if key != "prefixItems"} | {"items": {"anyOf": items}}
    changed = {key: draft7(value) for key, value in part.items() if key != "discriminator"}
    if "oneOf" in changed:  # a part that gets its kind from a profile fits several branches
        changed["anyOf"] = changed.pop("oneOf")
    if isinstance(changed.get("$ref"), str):
        reference = {"$ref": changed.pop("$ref").replace("#/$defs/", "#/definitions/")}
        changed = {"allOf": [reference], **changed} if changed else reference
    return _annotated(changed) if _is_quantity(changed) else changed


def _is_quantity(part: Schema) -> bool:
    """Text with a unit, or number: what carries a source."""
    return part.get("type") == "string" and "pattern" in part and "examples" in part


def _annotated(quantity: Schema) -> Schema:
    """The quantity alone, or with what it rests on."""
    notes: Schema = {key: quantity.pop(key) for key in ("description", "title", "default") if key in quantity}
    return {"anyOf": [quantity, _wrapped(quantity)], **notes}


def _wrapped(value: Schema) -> Schema:
    """`{value, basis, source}` around a value."""
    origin: Schema = {name: {"type": "string"} for name in ("basis", "source", "note", "date")}
    if _is_amount(value):
        about = "The lowest and the highest value that may be true, in the unit of the value."
        origin["spread"] = {"type": "array", "items": dict(value), "minItems": 2, "maxItems": 2, "description": about}
    return {
        "type": "object",
        "required": ["value"],
        "additionalProperties": False,
        "properties": {"value": dict(value), **origin},
    }


def _is_amount(part: Schema) -> bool:
    """A quantity or a number: what may lie off."""
    return part.get("type") in ("number", "integer") or _is_quantity(part) or any(map(_is_amount, part.get("anyOf", ())))


def _is_scalar(part: Schema) -> bool:
    return part.get("type") in _SINGLE or any(_is_scalar(branch) for branch in part.get("anyOf", ()))


def _reachable(definitions: Schema, start: str) -> list[str]:
    """Names of the definitions that `start` is made of, itself first."""
    names, waiting = [start], [start]
    while waiting:
        for name in _references(definitions[waiting.pop()]):
            if name not in names:
                names.append(name)
                waiting.append(name)
    return names


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for item in part for name in _references(item)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"].rsplit("/", 1)[1]] if isinstance(part.get("$ref"), str) else []
    return own + [name for value in part.values() for name in _references(value)]


def _part(definition: Schema, machines: list[str], own: list[str]) -> Schema:
    """A part of a machine may come from profiles and may say its source."""
    name = {"type": "string"}
    for key, field in definition.get("properties", {}).items():
        if key != "kind" and _is_scalar(field) and not any("value" in b.get("properties", {}) for b in field.get("anyOf", ())):
            definition["properties"][key] = {"anyOf": [field, _wrapped(field)]}
    lists = {"type": "array", "items": name}
    known: Schema = {"enum": machines if "devices" in definition.get("properties", {}) else own}
    profile = {"anyOf": [known, name, lists], "description": "Profile that this part starts from."}
    return _relax(definition, {"profile": profile, **dict.fromkeys(("source", "basis", "note", "summary"), name)})


def _relax(definition: Schema, extra: Schema) -> Schema:
    """Nothing required but the kind, and more keys allowed."""
    if "properties" in definition:
        definition["properties"] = {**extra, **definition["properties"]}
        definition.pop("required", None)
    return definition


def _branch(definition: Schema, kind: str, *, required: bool) -> None:
    """One branch of a union: its `kind` is fixed, and needed."""
    properties = definition.setdefault("properties", {})
    properties["kind"] = {**properties.get("kind", {}), "const": kind, "type": "string"}
    needed = definition.pop("required", []) if required else []
    definition["required"] = ["kind", *(name for name in needed if name != "kind")]
