"""What a fault must say of itself, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moesim.hardware.fault import Fault


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give either tier or link"),
        ({"tier": "ddr", "link": "pcie", "rate": 0.5}, "give either tier or link"),
        ({"link": "pcie"}, "rate: missing; a link is slow, it does not fail"),
    ],
)
def test_a_fault_is_of_one_thing(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Fault.model_validate({"at": 1.0, **keys})


@pytest.mark.parametrize("place", ["tier", "link"])
def test_a_tier_or_a_link_may_be_slow(place: str) -> None:
    fault = Fault.model_validate({"at": 1.0, "rate": 0.25, place: "there"})
    assert (fault.name, fault.rate) == ("there", 0.25)
