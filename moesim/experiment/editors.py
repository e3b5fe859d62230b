"""The JSON Schema of experiment files, for editors: the spec that reads them, its short forms, and scenarios inside.

Knows how an experiment is written; what a scenario may say, `moesim.scenario` tells.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from moesim.experiment.spec import Experiment
from moesim.scenario import json_schema as scenario_schema
from moesim.scenario.editors import draft7, known_names

__all__ = ["json_schema"]

Schema = dict[str, Any]

_LIST: Schema = {"type": "array", "minItems": 1, "description": "The values: short for an axis of kind list."}
_WORD: Schema = {"type": "string", "description": "Name of a policy, or module:Class."}
_POLICY: Schema = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"type": "string", "description": "Name of a policy, or module:Class beside the scenario file."},
        "label": {"type": "string", "description": "What tables call it, to tell two of a kind apart."},
    },
}


def json_schema() -> Schema:
    """What an experiment file may say; the scenario inside may leave anything out, since it extends another one."""
    inside = scenario_schema()
    _, whole = models_json_schema([(Experiment, "validation")])
    own: Schema = {name: draft7(definition) for name, definition in whole["$defs"].items()}
    clash = own.keys() & inside["definitions"].keys()
    assert not clash, f"specs of scenarios and of experiments share the names {sorted(clash)}"
    top = own.pop("Experiment")
    fields = top["properties"]
    scenario = {key: inside[key] for key in ("type", "additionalProperties", "properties")}
    _choice(fields["scenario"], [{"enum": known_names("scenarios")}, {"type": "string"}, {"$ref": "#/definitions/scenario"}])
    _choice(
        fields["policies"],
        [
            {"const": "all"},
            {"type": "array", "minItems": 1, "items": {"anyOf": [{"enum": known_names("policies")}, _WORD, _POLICY]}},
        ],
    )
    for axes in (fields["axes"], own["Zip"]["properties"]["paths"]):
        axes["additionalProperties"] = {"anyOf": [_LIST, *axes["additionalProperties"]["anyOf"]]}
    fields["design"]["anyOf"].insert(0, {"enum": ["grid"]})
    for kind in ("List", "Range", "LogRange", "Zip", "Grid", "LatinHypercube", "Sobol"):
        own[kind]["required"] = ["kind", *own[kind].get("required", [])]
    return {
        "$schema": inside["$schema"],
        "title": "moesim experiment",
        "type": "object",
        "additionalProperties": False,
        "required": top["required"],
        "properties": fields,
        "definitions": {**inside["definitions"], **own, "scenario": scenario},
    }


def _choice(field: Schema, branches: list[Schema]) -> None:
    """A field of any type, narrowed to `branches`; what is said of it stays."""
    for key in ("type", "items", "minItems", "anyOf"):
        field.pop(key, None)
    field["anyOf"] = branches
