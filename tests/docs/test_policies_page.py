"""docs/policies.md is what the docstrings say, and leaves nobody out."""

from __future__ import annotations

import re

from moesim.plugins import BUILT_IN, find
from moesim.policies.page import PAGE, main, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: python -m moesim.policies.page"
    assert main(["--check"]) == 0


def test_every_policy_has_a_section_with_its_parameters_and_source() -> None:
    parts = re.split(r"^## ", page(), flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0]: part for part in parts}
    for name in BUILT_IN["policies"]:
        made = find("policies", name)
        assert "*Learns*" in sections[name]
        assert made.source, f"{name} names no source"
        described = sections[name] + sections["Shared parameters"]
        assert all(f"`{field}`" in described for field in made.model_fields if field != "kind")


def test_there_are_at_least_thirty() -> None:
    assert len(BUILT_IN["policies"]) >= 30
