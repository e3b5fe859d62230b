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
with their defaults may change what the model computes. Bounds, which no system can reach, stand last, apart from the others as
in every ranking. *As published* says how much of its system a policy is: faithful (every decision that the source describes),
partial (its core, and what is missing), named after it (one idea, which is kept), or a yardstick of our own. Parameters that
most policies share stand once, under [Shared parameters](#shared-parameters).

"""


def page() -> str:
    """The whole page."""
    every = {name: find("policies", name) for name in BUILT_IN["policies"]}
    classes = {name: made for bounds in (False, True) for name, made in every.items() if is_bound(made) is bounds}
    shared = _shared(classes)
    rows = [
        f"| [`{name}`](#{name}){_mark(made)} | {_first(made)} | {_learns(made)} | {_faith(name)} | {_cell(made.source)} |"
        for name, made in classes.items()
    ]
    table = "\n".join(["| policy | what it does | learns | as published | source |", "|---|---|---|---|---|", *rows])
    common = "\n".join(_parameter(shared[field], field) for field in shared)
    sections = "\n".join(_section(name, made, set(shared)) for name, made in classes.items())
    return f"{_INTRO}{table}\n\n## Shared parameters\n\n{common}\n\n{sections}".rstrip() + "\n"


def _faith(name: str) -> str:
    """How the policy stands to what it is called after."""
    level, but = FIDELITY[name]
    return f"{level}{': ' if but else ''}{'without ' if level == 'partial' else ''}{but}"


def _mark(made: type[Policy]) -> str:
    return f"{' *' if made.lossy else ''}{' (bound)' if is_bound(made) else ''}"


def _shared(classes: dict[str, type[Policy]]) -> dict[str, type[Policy]]:
    """Fields that most policies have with the same default and the same words, and a policy that has each of them."""
    seen: dict[tuple[str, str, str], list[type[Policy]]] = {}
    for made in classes.values():
        for name, field in made.model_fields.items():
            seen.setdefault((name, repr(field.default), descriptions(made).get(name, "")), []).append(made)
    return {name: makers[0] for (name, *_), makers in seen.items() if len(makers) > len(classes) / 2}


def _section(name: str, made: type[Policy], shared: set[str]) -> str:
    text = inspect.cleandoc(made.__doc__ or "")
    body = "\n\n".join(_paragraphs(text))
    own = [field for field in made.model_fields if field != "kind" and not (field in shared and _inherited(made, field))]
    parameters = "\n".join(_parameter(made, field) for field in own) or "No parameters of its own."
    facts = f"*Learns*: {_learns(made)}. *Looks ahead*: {_ahead(made)}."
    facts += " *Changes the model's output*: yes." if made.lossy else ""
    facts += " *A bound*: no system can reach it." if is_bound(made) else ""
    labels = "" if made.symmetric else f" *Goes by expert number*: {made.symmetric_reason}."
    return f"## {name}\n\n{body}\n\n{facts}{labels}\n\n{parameters}\n"


def _inherited(made: type[Policy], field: str) -> bool:
    """Whether the class says nothing of its own about a field."""
    return field not in inspect.get_annotations(made)


def _paragraphs(text: str) -> list[str]:
    """The docstring's paragraphs, those about source, inference and validity each on their own."""
    joined = [" ".join(part.split()) for part in text.split("\n\n")]
    parts = [piece for part in joined for piece in re.split(r" (?=(?:Source|Inferred|Valid|Left out|Published):)", part)]
    return [re.sub(r"^(Source|Inferred|Valid|Left out|Published):", r"**\1**:", part) for part in parts]


def _first(made: type[Policy]) -> str:
    return _cell(inspect.cleandoc(made.__doc__ or "").split("\n\n")[0])


def _learns(made: type[Policy]) -> str:
    """As the policy is by default."""
    policy = made()
    if policy.memoryless:
        return "memoryless"
    return _WHEN["layer" if policy.batched else policy.adapts]  # a cache learns after every layer


def _ahead(made: type[Policy]) -> str:
    if made.clairvoyant:
        return "a bound that knows the whole run"
    return "no" if made().foresight is None else "a predictor with a stated recall"


def _parameter(made: type[Policy], name: str) -> str:
    field = made.model_fields[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    told = " ".join(descriptions(made).get(name, "").split())
    return f"* `{name}` (`{default!r}`): {told}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Writes the page; with `--check` changes nothing and returns 1 if it is not what would be written."""
    return written(PAGE, page, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
