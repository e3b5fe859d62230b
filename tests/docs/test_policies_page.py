"""docs/policies.md is what the docstrings say, and leaves nobody out."""

from __future__ import annotations

import re

from policies_page import PAGE, main, page

from moesim.contract import is_bound
from moesim.plugins import BUILT_IN, find
from moesim.policies.fidelity import FIDELITY


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it again: python tools/policies_page.py"
    assert main(["--check"]) == 0


def test_every_policy_has_a_section_with_its_parameters_and_source() -> None:
    parts = re.split(r"^## ", page(), flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0]: part for part in parts}
    for name in BUILT_IN["policies"]:
        policy = find("policies", name)
        assert "*Learns*" in sections[name]
        assert policy.source, f"{name} names no source"
        described = sections[name] + sections["Shared parameters"]
        assert all(f"`{field}`" in described for field in policy.model_fields if field != "kind")


def test_there_are_at_least_thirty() -> None:
    assert len(BUILT_IN["policies"]) >= 30


def test_every_policy_says_how_much_of_its_system_it_is() -> None:
    assert set(FIDELITY) == set(BUILT_IN["policies"])
    assert all((level in ("partial", "named after")) == bool(but) for level, but in FIDELITY.values())
    table = {line.split("`")[1]: line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| [`")}
    assert all(f"| {level}" in table[name] and but in table[name] for name, (level, but) in FIDELITY.items())


def test_what_leaves_something_out_does_not_call_itself_faithful() -> None:
    for name, (level, _) in FIDELITY.items():
        assert level != "faithful" or "Simplified:" not in find("policies", name).__doc__, name
    assert all(FIDELITY[name].level == "yardstick" for name in FIDELITY if is_bound(find("policies", name)))


def test_the_readme_tells_the_same_of_whom_it_names() -> None:
    readme = (PAGE.parents[1] / "README.md").read_text("utf-8")
    sentence = readme[readme.index("Few are the whole") : readme.index("docs/seeds.md")]
    faithful, rest = sentence.split("*faithful* (")[1].split(")", 1)
    named = rest.split("*named after* it (")[1].split(")")[0]
    known = {
        "Fiddler": {"fiddler"},
        "MoNDE": {"monde"},
        "onnxruntime's plan": {"onnxruntime"},
        "CXL-Expert's two comparison schemes": {"cxl_expert_gpu_only", "cxl_expert_near_data"},
        "MoESys": {"moesys"},
    }
    by_level = {level: {name for name in FIDELITY if FIDELITY[name].level == level} for level in ("faithful", "named after")}
    assert set().union(*(names for text, names in known.items() if text in faithful)) == by_level["faithful"]
    assert set().union(*(known[text] for text in named.split(", "))) == by_level["named after"]
    assert {FIDELITY[name].level for name in ("cox_moe", "cxl_expert", "moe_cxl")} == {"partial"}
