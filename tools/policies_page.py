"""`python tools/policies_page.py [FILE | --check]`: writes docs/policies.md from the docstrings of the registered policies.

Knows classes and their fields; adds no word of its own about any of them.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from pages import written

from moesim.contract import Policy, is_bound
from moesim.plugins import BUILT_IN, find
from moesim.policies.fidelity import FIDELITY
from moesim.spec import descriptions

__all__ = ["main", "page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "policies.md"
_WHEN = {
    "never": "at every visit",
    "layer": "after every layer",
    "pass": "after every pass",
    "both": "after every layer and every pass",
}
_INTRO = """# Policies

Every policy that ships, from its own docstring: what it decides when, its parameters with their defaults, its source, and
what is inferred. Written by `python tools/policies_page.py`. `moesim list policies` shows the first lines;
[extending.md](extending.md) says how to write one.

*Learns* says when a policy looks at what has happened: a memoryless one decides by the visit alone and is timed all layers
at once. *Looks ahead* names predictors with a declared recall, and bounds that know the whole run. A star marks policies that
with their defaults may change what the model computes. Bounds, which no policy can reach, stand last, apart from the others as
in every ranking. *As published* says how much of its policy a policy is: faithful (every decision that the source describes),
partial (its core, and what is missing), named after it (one idea, which is kept), or a yardstick of our own. Parameters that
most policies share stand once, under [Shared parameters](#shared-parameters).

"""


def page() -> str:
    """The whole page."""
    all_classes = {name: find("policies", name) for name in BUILT_IN["policies"]}
    classes = {name: policy for bounds in (False, True) for name, policy in all_classes.items() if is_bound(policy) is bounds}
    shared = _shared(classes)
    rows = [
        f"| [`{name}`](#{name}){_mark(policy)} | {_first(policy)} | {_learns(policy)} | {_faith(name)} | "
        f"{_cell(policy.source)} |"
        for name, policy in classes.items()
    ]
    table = "\n".join(["| policy | what it does | learns | as published | source |", "|---|---|---|---|---|", *rows])
    common = "\n".join(_parameter(shared[field], field) for field in shared)
    sections = "\n".join(_section(name, policy, set(shared)) for name, policy in classes.items())
    return f"{_INTRO}{table}\n\n## Shared parameters\n\n{common}\n\n{sections}".rstrip() + "\n"


def _faith(name: str) -> str:
    """How the policy stands to what it is called after."""
    level, but = FIDELITY[name]
    return f"{level}{': ' if but else ''}{'without ' if level == 'partial' else ''}{but}"


def _mark(policy: type[Policy]) -> str:
    return f"{' *' if policy.lossy else ''}{' (bound)' if is_bound(policy) else ''}"


def _shared(classes: dict[str, type[Policy]]) -> dict[str, type[Policy]]:
    """Fields that most policies have with the same default and the same words, and a policy that has each of them."""
    seen: dict[tuple[str, str, str], list[type[Policy]]] = {}
    for policy in classes.values():
        for name, field in policy.model_fields.items():
            seen.setdefault((name, repr(field.default), descriptions(policy).get(name, "")), []).append(policy)
    return {name: makers[0] for (name, *_), makers in seen.items() if len(makers) > len(classes) / 2}


def _section(name: str, policy: type[Policy], shared: set[str]) -> str:
    text = inspect.cleandoc(policy.__doc__ or "")
    body = "\n\n".join(_paragraphs(text))
    own = [field for field in policy.model_fields if field != "kind" and not (field in shared and _inherited(policy, field))]
    parameters = "\n".join(_parameter(policy, field) for field in own) or "No parameters of its own."
    facts = f"*Learns*: {_learns(policy)}. *Looks ahead*: {_ahead(policy)}."
    facts += " *Changes the model's output*: yes." if policy.lossy else ""
    facts += " *A bound*: no policy can reach it." if is_bound(policy) else ""
    labels = "" if policy.symmetric else f" *Goes by expert number*: {policy.symmetric_reason}."
    return f"## {name}\n\n{body}\n\n{facts}{labels}\n\n{parameters}\n"


def _inherited(policy: type[Policy], field: str) -> bool:
    """Whether the class says nothing of its own about a field."""
    return field not in inspect.get_annotations(policy)


def _paragraphs(text: str) -> list[str]:
    """The docstring's paragraphs, those about source, inference and validity each on their own."""
    joined = [" ".join(part.split()) for part in text.split("\n\n")]
    parts = [piece for part in joined for piece in re.split(r" (?=(?:Source|Inferred|Valid|Left out|Published):)", part)]
    return [re.sub(r"^(Source|Inferred|Valid|Left out|Published):", r"**\1**:", part) for part in parts]


def _first(policy: type[Policy]) -> str:
    return _cell(inspect.cleandoc(policy.__doc__ or "").split("\n\n")[0])


def _learns(policy: type[Policy]) -> str:
    """As the policy is by default."""
    usual = policy()
    if usual.memoryless:
        return "memoryless"
    return _WHEN["layer" if usual.batched else usual.adapts]  # a cache learns after every layer


def _ahead(policy: type[Policy]) -> str:
    if policy.clairvoyant:
        return "a bound that knows the whole run"
    return "no" if policy().foresight is None else "a predictor with a stated recall"


def _parameter(policy: type[Policy], name: str) -> str:
    field = policy.model_fields[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    text = " ".join(descriptions(policy).get(name, "").split())
    return f"* `{name}` (`{default!r}`): {text}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Writes the page; with `--check` changes nothing and returns 1 if it is not what would be written."""
    return written(PAGE, page, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
