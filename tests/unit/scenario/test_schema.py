"""The JSON Schemas for editors, checked by hand: references lead somewhere, draft 7 words only, unions by kind.

Files that ship are valid, and what an editor should mark is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml_files
from reporting import for_all

from moesim import cli
from moesim.experiment.editors import json_schema as experiment_schema
from moesim.scenario import json_schema
from moesim.scenario.catalogue import classes

SCHEMAS = {"scenario": json_schema, "experiment": experiment_schema}
SCENARIOS = Path(__file__).resolve().parents[3] / "scenarios"


@cache
def schema_of(files: str) -> dict[str, Any]:
    """Of scenarios or of experiments, written once, when a test first asks for it."""
    return SCHEMAS[files]()


@pytest.fixture(params=SCHEMAS)
def schema(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One after the other."""
    return schema_of(request.param)


def walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from walk(value)
    elif isinstance(part, list):
        for value in part:
            yield from walk(value)


def definition(reference: dict[str, str], schema: dict[str, Any] | None = None) -> Any:
    prefix, name = reference["$ref"].rsplit("/", 1)
    assert prefix == "#/definitions"
    return (schema or schema_of("scenario"))["definitions"][name]


def test_it_is_json(schema: dict[str, Any]) -> None:
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_draft(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"


@for_all(["prefixItems", "$defs", "discriminator", "unevaluatedProperties", "dependentRequired"])
def test_no_words_of_later_drafts(word: str, schema: dict[str, Any]) -> None:
    assert not [part for part in walk(schema) if word in part]


def test_references_lead_somewhere_and_stand_alone(schema: dict[str, Any]) -> None:
    references = [part for part in walk(schema) if isinstance(part.get("$ref"), str)]
    assert references
    for part in references:
        assert set(part) == {"$ref"}
        assert definition(part, schema) is not None


@for_all(SCHEMAS)
def test_the_command_prints_it(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", files]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema_of(files)
    assert printed["title"] == f"moesim {files}"


def test_the_command_without_a_word_means_scenarios() -> None:
    assert cli._parser().parse_args(["schema"]) == cli._parser().parse_args(["schema", "scenario"])


def test_top_level() -> None:
    assert schema_of("scenario")["additionalProperties"] is False
    assert "required" not in schema_of("scenario")
    assert set(schema_of("scenario")["properties"]) == {
        "extends", "name", "summary", "source", "expect", "seed", "replicate", "simulation", "faults", "compare",
        "hardware", "model", "workload", "policy", "runtime",
    }  # fmt: skip


@pytest.mark.parametrize(("part", "group"), [("workload", "workload"), ("policy", "policies"), ("routing", "routing")])
def test_one_branch_per_kind(part: str, group: str) -> None:
    branches = [definition(branch) for branch in schema_of("scenario")["definitions"][part]["oneOf"]]
    kinds = [branch["properties"]["kind"]["const"] for branch in branches]
    assert kinds == [name for name, spec in classes(group).items() if isinstance(spec, type)]
    assert all("kind" in branch["required"] for branch in branches)


def test_quantities_may_be_annotated() -> None:
    memory = next(part for name, part in schema_of("scenario")["definitions"].items() if name == "Memory")
    plain, annotated = memory["properties"]["capacity"]["anyOf"]
    assert re.match(plain["pattern"], "48 GB")
    assert not re.match(plain["pattern"], "48 Gb")
    assert annotated["required"] == ["value"]
    assert annotated["properties"]["value"] == plain
    assert set(annotated["properties"]) == {"value", "basis", "source", "note", "date", "spread"}


def test_parts_of_a_machine_may_come_from_profiles() -> None:
    for name in ("System", "Gpu", "Cpu", "Memory", "Link"):
        assert {"profile", "source"} <= set(schema_of("scenario")["definitions"][name]["properties"])
        assert "required" not in schema_of("scenario")["definitions"][name]


def test_fields_are_described() -> None:
    bare = {
        name
        for name, field in schema_of("scenario")["properties"].items()
        if not {"description", "$ref", "anyOf", "allOf"} & set(field)
    }
    assert bare <= {"simulation"}


def test_an_experiment_holds_a_scenario_by_name_or_written_out() -> None:
    known, name, whole = schema_of("experiment")["properties"]["scenario"]["anyOf"]
    assert "quickstart" in known["enum"]
    assert name == {"type": "string"}
    assert definition(whole, schema_of("experiment"))["properties"] == schema_of("scenario")["properties"]
    assert schema_of("experiment")["required"] == ["scenario"]


def faults(value: Any, schema: dict[str, Any], part: dict[str, Any]) -> bool:
    """Whether `value` breaks the words of draft 7 that the schemas use."""
    if "$ref" in part:
        return faults(value, schema, definition(part, schema))
    if "not" in part and not faults(value, schema, part["not"]):
        return True
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float)}
    kind = part.get("type")
    if kind == "integer":
        wrong = not isinstance(value, int) or isinstance(value, bool)
    else:
        wrong = kind is not None and (not isinstance(value, kinds[kind]) or (kind == "number" and isinstance(value, bool)))
    for word in ("anyOf", "oneOf"):
        wrong = wrong or (word in part and all(faults(value, schema, branch) for branch in part[word]))
    wrong = wrong or any(faults(value, schema, branch) for branch in part.get("allOf", ()))
    wrong = wrong or ("const" in part and value != part["const"]) or ("enum" in part and value not in part["enum"])
    if wrong or not isinstance(value, (dict, list)):
        return wrong or _outside(value, part)
    if isinstance(value, list):
        short = len(value) < part.get("minItems", 0) or len(value) > part.get("maxItems", len(value))
        return short or any(faults(item, schema, part.get("items", {})) for item in value)
    fields, additional = part.get("properties", {}), part.get("additionalProperties", True)
    rest = {} if additional is True else {"not": {}} if additional is False else additional
    missing = [key for key in part.get("required", ()) if key not in value]
    return bool(missing) or any(faults(item, schema, fields.get(key, rest)) for key, item in value.items())


def _outside(value: Any, part: dict[str, Any]) -> bool:
    if isinstance(value, str):
        return "pattern" in part and re.search(part["pattern"], value) is None
    low, above = part.get("minimum"), part.get("exclusiveMinimum")
    high, below = part.get("maximum"), part.get("exclusiveMaximum")
    number = isinstance(value, (int, float))
    return number and any(
        bound is not None and beyond
        for bound, beyond in (
            (low, low is not None and value < low),
            (above, above is not None and value <= above),
            (high, high is not None and value > high),
            (below, below is not None and value >= below),
        )
    )


@for_all(sorted(SCENARIOS.rglob("*.yaml")))
def test_files_that_ship_are_valid(path: Path) -> None:
    schema = schema_of("experiment") if "experiments" in path.parts else schema_of("scenario")
    assert not faults(yaml_files.read(path), schema, schema)


@pytest.mark.parametrize(
    ("part", "right"),
    [
        ({"workload": {"requests": 2}}, True),  # the kind is that of the scenario that is extended
        ({"policy": {"residents": 16}}, True),
        ({"workload": {"kind": "offline", "requests": 2}}, True),
        ({"workload": {"kind": "offline", "request": 2}}, False),
        ({"workload": {"kind": "online", "requests": 2}}, True),
        ({"workload": {"kind": "online", "rate": 2}}, False),
        ({"workload": "offline"}, False),
        ({"policy": {"kind": "lru", "residents": 16}}, False),
        ({"policy": "lru"}, True),
        ({"policy": {"kind": "my_policy:MyPolicy", "margin": 2.0}}, True),
    ],
)
def test_what_an_editor_marks_in_a_scenario_that_extends_another(part: dict[str, Any], right: bool) -> None:
    assert faults({"extends": "quickstart", **part}, schema_of("scenario"), schema_of("scenario")) is not right


GOOD: dict[str, Any] = {"scenario": "quickstart", "axes": {"workload.requests": [1, 2]}}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"policies": "all"}, True),
        ({"policies": ["lru", {"kind": "cox_moe", "label": "with 16", "residents": 16}]}, True),
        ({"axes": {"all": {"kind": "zip", "paths": {"seed": [1, 2], "replicate": {"kind": "list", "values": [1, 2]}}}}}, True),
        ({"design": {"kind": "sobol", "points": 8}}, True),
        ({"scenario": {"extends": "quickstart", "workload": {"kind": "offline", "requests": 2}}}, True),
        ({"scenario": {"extends": "quickstart", "wokload": {}}}, False),
        ({"scenario": 3}, False),
        ({"policies": "lru"}, False),
        ({"policies": [{"residents": 16}]}, False),
        ({"axes": {"workload.requests": 3}}, False),
        ({"axes": {"workload.requests": []}}, False),
        ({"axes": {"workload.requests": {"kind": "range", "low": 1}}}, False),
        ({"design": {"kind": "sobol"}}, False),
        ({"design": "random"}, False),
        ({"replications": 0}, False),
        ({"level": 1.0}, False),
        ({"goal": "most"}, False),
        ({"repetitions": 3}, False),
    ],
)
def test_what_an_editor_marks_in_an_experiment(changes: dict[str, Any], right: bool) -> None:
    assert faults({**GOOD, **changes}, schema_of("experiment"), schema_of("experiment")) is not right


def test_known_names_are_completions() -> None:
    schema = schema_of("scenario")

    def offered(key: str) -> list[str]:
        branches = schema["properties"][key]["anyOf"]
        return [name for branch in branches for inner in branch.get("anyOf", [branch]) for name in inner.get("enum", ())]

    assert "rtx4090-desktop" in offered("hardware")
    assert "rtx-4090" not in offered("hardware")
    assert {"own", "llama-cpp"} <= set(offered("runtime"))
    assert "qwen3-30b-a3b" in offered("model")
    assert "cox_moe" in offered("policy")
    assert "quickstart" in offered("extends")
    gpu = schema["definitions"]["Gpu"]["properties"]["profile"]["anyOf"][0]["enum"]
    assert "rtx-4090" in gpu
    assert "rtx4090-desktop" not in gpu
