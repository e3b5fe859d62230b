"""What a fault must say of itself, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moesim.hardware.fault import Fault


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give either tier, link or device"),
        ({"tier": "ddr", "link": "pcie", "rate": 0.5}, "give either tier, link or device"),
        ({"link": "pcie"}, "rate: missing; a link is slow, it does not fail"),
    ],
)
def test_a_fault_is_of_one_thing(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Fault.model_validate({"at": 1.0, **keys})


@pytest.mark.parametrize("place", ["tier", "link", "device"])
def test_a_tier_a_link_or_a_device_may_be_slow(place: str) -> None:
    fault = Fault.model_validate({"at": 1.0, "rate": 0.25, place: "there"})
    assert (fault.name, fault.rate, fault.kind) == ("there", 0.25, place)
