"""Specs: frozen, strict, described by their own docstrings, and aware of what nothing reads."""

from __future__ import annotations

import pickle
from functools import cached_property
from typing import ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from moesim.arrays import IntArray
from moesim.spec import GIVEN, Spec, Unread, bare_schema, descriptions


class Base(Spec):
    """A spec with fields that depend on each other."""

    prefetch: int = 0
    """Experts that are fetched ahead."""
    depth: int = 1
    """Layers ahead."""
    rule: str = "lru"
    skill: float | None = None
    """How often it is right."""
    unread: ClassVar[tuple[Unread, ...]] = (
        Unread(("depth",), when={"prefetch": 0}),
        Unread(("skill",), unless={"rule": ("lfu", "lru")}),
        Unread(("rule",), when={"skill": GIVEN}),
    )


class Derived(Base):
    """One that describes a field anew and leaves another without words."""

    depth: int = 2
    """Layers ahead, two of them."""
    skill: float | None = 0.5


class Found(Spec):
    """A spec that finds something from its field and keeps it."""

    depth: int = 1

    @cached_property
    def deeper(self) -> int:
        """One layer more."""
        return self.depth + 1

    @cached_property
    def steps(self) -> IntArray:
        """[depth + 1] numbers from 0."""
        return np.arange(self.depth + 1)


def test_a_copy_finds_anew_what_its_original_had_found() -> None:
    """A machine without the price of its CPU cost as much as with it, once that had been asked for."""
    shallow = Found()
    assert shallow.deeper == 2
    assert (shallow.model_copy(update={"depth": 5}).deeper, shallow.deeper) == (6, 2)


def test_what_was_found_does_not_count_in_a_comparison() -> None:
    """A model could not be compared with its pickled copy once bytes by layer were known: an array has no truth value."""
    known, fresh = Found(), Found()
    assert known.steps.tolist() == [0, 1]
    assert fresh == known == pickle.loads(pickle.dumps(known)) != Found(depth=2)
    assert hash(fresh) == hash(known)
    assert Base() != Derived()


def test_unknown_keys_are_refused_and_values_stay_as_they_are() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Base.model_validate({"prefetsch": 1})
    with pytest.raises(ValidationError, match="frozen"):
        Base().prefetch = 3


def test_docstrings_of_fields_go_with_the_annotation_in_force() -> None:
    assert descriptions(Base) == {
        "prefetch": "Experts that are fetched ahead.",
        "depth": "Layers ahead.",
        "skill": "How often it is right.",
    }
    assert descriptions(Derived) == {"prefetch": "Experts that are fetched ahead.", "depth": "Layers ahead, two of them."}


def test_the_schema_has_the_descriptions_and_the_bare_one_has_none() -> None:
    assert Base.model_json_schema()["properties"]["depth"]["description"] == "Layers ahead."
    assert all("description" not in field for field in bare_schema(Base)["properties"].values())
    assert "description" in Base.model_json_schema()["properties"]["depth"]


def test_fields_that_nothing_reads_are_named_with_the_reason() -> None:
    assert {name: rule.why() for name, rule in Base().unused().items()} == {"depth": "prefetch is 0"}
    assert Base(prefetch=2).unused() == {}
    reasons = {name: rule.why() for name, rule in Base(prefetch=2, rule="belady").unused().items()}
    assert reasons == {"skill": "rule is not lfu or lru"}
    assert {name: rule.why() for name, rule in Base(prefetch=2, skill=0.5).unused().items()} == {"rule": "skill is given"}
