"""The end of every page: where the machine's values come from, the scenario in full, and how to repeat it.

Knows resolved scenarios and provenance as plain data.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from moesim.report.html import Html, Part, element, joined, table
from moesim.results.origins import figures

__all__ = ["origin_parts"]

_ORDER = ("measured", "datasheet", "derived", "assumed")
_SAID = {"measured": "measured", "datasheet": "from a data sheet", "derived": "derived", "assumed": "assumed"}


def origin_parts(provenance: Mapping[str, Any], repeat: str, heading: str = "Scenario") -> list[Part]:
    """Sections on origins, scenario (under its `heading`) and provenance; `repeat` is the command that does it again."""
    scenario = provenance.get("scenario")
    data: Mapping[str, Any] = scenario if isinstance(scenario, Mapping) else {}
    return [
        Part("origins", "Measured and assumed", _origins(data, provenance.get("origins"))),
        Part("scenario", heading, _scenario(data)),
        Part("provenance", "Provenance", _provenance(provenance, repeat)),
    ]


def _origins(scenario: Mapping[str, Any], origins: Any) -> Html:
    """How many values of the machine were measured or assumed, and each of them with its source."""
    values = {path: value for part in ("hardware", "runtime") for path, value in figures(scenario.get(part), part)}
    listed: dict[str, Mapping[str, str]] = {path: group for group in origins or () for path in group["paths"]}
    # a list has the origin of its first figure
    groups = {path: group for path in values if (group := listed.get(path) or listed.get(f"{path}.0")) is not None}
    known = {path: value for path, value in values.items() if path in groups}
    if not known:
        lost = "have origins that were not kept here" if origins is None else "do not say where they come from"
        return element("p", f"The values of this machine {lost}.") if values else Html()
    rows = [
        [path.removeprefix("hardware."), str(value), _SAID.get(groups[path]["basis"], groups[path]["basis"]),
         "; ".join(text for text in (groups[path]["source"], groups[path]["note"]) if text)]
        for path, value in known.items()
    ]  # fmt: skip
    counted = ", ".join(_counted(values, groups))
    sentence = f"Of the {len(values)} values of the machine: {counted}. What the run says holds as far as they do."
    full = element(
        "div", table("Values of the machine and their origin", ["item", "value", "basis", "source"], rows), class_="scroll"
    )
    return joined([element("p", sentence), element("details", element("summary", "Every value with its source"), full)])


def _counted(values: Mapping[str, Any], groups: Mapping[str, Mapping[str, str]]) -> list[str]:
    """How many values have each basis, the surest first."""
    counts = Counter(groups[path]["basis"] if path in groups else "" for path in values)
    rank = {basis: place for place, basis in enumerate(_ORDER)}
    bases = sorted(counts, key=lambda basis: (rank.get(basis, len(rank)), basis))
    return [f"{counts[basis]} {_SAID.get(basis, basis or 'without a stated source')}" for basis in bases]


def _scenario(scenario: Mapping[str, Any]) -> Html:
    """What was asked for, each part of the resolved scenario on its own."""
    if not scenario:
        return Html()
    texts = [(key, str(scenario[key])) for key in ("summary", "source", "expect") if scenario.get(key)]
    paragraphs = [element("p", element("strong", f"{key}: "), text) for key, text in texts]
    parts = []
    for key, value in scenario.items():
        if key in ("summary", "source", "expect"):
            continue
        if isinstance(value, (Mapping, list)):
            name = str(value.get("name") or value.get("kind") or "") if isinstance(value, Mapping) else ""
            heading = f"{key}: {name}" if name else key
            text = json.dumps(value, indent=2, ensure_ascii=False)
            parts.append(element("details", element("summary", heading), element("pre", text)))
        else:
            parts.append(element("p", element("strong", f"{key}: "), str(value)))
    return joined([*paragraphs, *parts])


def _provenance(provenance: Mapping[str, Any], repeat: str) -> Html:
    if "content_hash" not in provenance:
        return element("p", "Reproduce with: ", element("code", repeat))
    command = provenance.get("command")
    versions = provenance.get("versions") or {}
    rows = [["experiment" if "experiment" in provenance else "scenario", str(provenance["content_hash"])]]
    if "seed" in provenance:
        rows.append(["seed, replicate", f"{provenance['seed']}, {provenance.get('replicate', '')}"])
    if "command" in provenance:
        rows.append(["command", shlex.join(command) if command else "none: called from Python"])
    rows += [
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)],
        ["platform", str(provenance.get("platform", ""))],
        ["commit", str(provenance.get("git_commit") or "not run from a checkout").replace("+changes", ", with changes")],
    ]
    return joined(
        [table("Where this comes from", ["item", "value"], rows), element("p", "Reproduce with: ", element("code", repeat))]
    )
