"""The JSON Schema for editors, checked by hand: every reference leads somewhere, draft 7 words only, unions by kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from moesim.scenario import json_schema
from moesim.scenario.catalogue import classes

SCHEMA = json_schema()


def walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from walk(value)
    elif isinstance(part, list):
        for value in part:
            yield from walk(value)


def definition(reference: dict[str, str]) -> Any:
    prefix, name = reference["$ref"].rsplit("/", 1)
    assert prefix == "#/definitions"
    return SCHEMA["definitions"][name]


def test_it_is_json() -> None:
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


def test_draft() -> None:
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("word", ["prefixItems", "$defs", "discriminator", "unevaluatedProperties", "dependentRequired"])
def test_no_words_of_later_drafts(word: str) -> None:
    assert not [part for part in walk(SCHEMA) if word in part]


def test_references_lead_somewhere_and_stand_alone() -> None:
    references = [part for part in walk(SCHEMA) if isinstance(part.get("$ref"), str)]
    assert references
    for part in references:
        assert set(part) == {"$ref"}
        assert definition(part) is not None


def test_top_level() -> None:
    assert SCHEMA["additionalProperties"] is False
    assert "required" not in SCHEMA
    assert set(SCHEMA["properties"]) == {
        "extends", "name", "summary", "source", "expect", "seed", "replicate", "simulation", "faults", "compare",
        "hardware", "model", "workload", "policy",
    }  # fmt: skip


@pytest.mark.parametrize(("part", "group"), [("workload", "workload"), ("policy", "policies"), ("routing", "routing")])
def test_one_branch_per_kind(part: str, group: str) -> None:
    branches = [definition(branch) for branch in SCHEMA["definitions"][part]["oneOf"]]
    kinds = [branch["properties"]["kind"]["const"] for branch in branches]
    assert kinds == [name for name, spec in classes(group).items() if isinstance(spec, type)]
    assert all("kind" in branch["required"] for branch in branches)


def test_quantities_may_be_annotated() -> None:
    memory = next(part for name, part in SCHEMA["definitions"].items() if name == "Memory")
    plain, annotated = memory["properties"]["capacity"]["anyOf"]
    assert re.match(plain["pattern"], "48 GB")
    assert not re.match(plain["pattern"], "48 Gb")
    assert annotated["required"] == ["value"]
    assert annotated["properties"]["value"] == plain
    assert set(annotated["properties"]) == {"value", "basis", "source", "note", "date", "spread"}


def test_parts_of_a_machine_may_come_from_profiles() -> None:
    for name in ("System", "Gpu", "Cpu", "Memory", "Link"):
        assert {"profile", "source"} <= set(SCHEMA["definitions"][name]["properties"])
        assert "required" not in SCHEMA["definitions"][name]


def test_fields_are_described() -> None:
    bare = {name for name, field in SCHEMA["properties"].items() if not {"description", "$ref", "anyOf", "allOf"} & set(field)}
    assert bare <= {"simulation"}
