"""The figures of the golden runs: taken from results, compared, and written anew where the changelog says why."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import moesim
from moesim.results.result import Result

HERE = Path(__file__).parent
CHANGELOG = HERE.parents[1] / "CHANGELOG.md"
ENOUGH = 1e-9
"""Relative difference up to which two floats are the same figure; counts and picoseconds are compared exactly."""
Figures = dict[str, dict[str, Any]]


def figures_of(result: Result) -> dict[str, Any]:
    """What a run is known by: ps, bytes by resource and cause, peaks by tier, hits, latency, bound, joules and dollars."""
    summary, layers = result.summary, result.columns["layers"]
    return {
        "makespan_ps": round(summary["makespan_s"] * 1e12),
        "first_token_ps": round(summary["ttft_s"]["mean"] * 1e12),
        "bytes": summary["bytes"],
        "caused_B": result.details["caused_B"],
        "peak_B": result.details["peak_B"],
        "hits": int(layers["hits"].sum()),
        "activations": int(layers["activations"].sum()),
        "expert_tokens": summary["expert_tokens"],
        "bottleneck": summary["bottleneck"]["lane"],
        "bound_tok_s": summary["bound_tok_s"],
        "energy_J": summary["energy_J"],
        "cost_usd_per_Mtok": summary["cost_usd_per_Mtok"],
    }


def simulated(scenarios: dict[str, dict[str, Any]]) -> Figures:
    return {name: figures_of(moesim.run(scenario)) for name, scenario in scenarios.items()}


def differences(before: Figures, now: Figures) -> list[str]:
    """One line for each figure that is not as recorded, and for each run that is on one side only."""
    lines = [f"{name}: not recorded" for name in now if name not in before]
    lines += [f"{name}: recorded, but there is no such run" for name in before if name not in now]
    for name in before:
        if name in now:
            lines += [f"{name}: {line}" for line in _unequal(before[name], now[name])]
    return lines


def _unequal(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [line for key in keys for line in _unequal(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(before, float) and isinstance(now, float) and math.isclose(before, now, rel_tol=ENOUGH):
        return []
    return [] if before == now else [f"{path} was {before!r}, is {now!r}{_change(before, now)}"]


def _change(before: Any, now: Any) -> str:
    numbers = isinstance(before, (int, float)) and isinstance(now, (int, float)) and before
    return f" ({now / before - 1:+.3%})" if numbers else ""


def results_change(changelog: str) -> str:
    """A digest of everything that stands under the headings 'Results change'."""
    sections = re.findall(r"^### Results change\n(.*?)(?=^##)", changelog + "\n##", flags=re.MULTILINE | re.DOTALL)
    words = " ".join(" ".join(sections).split())
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def load(path: Path) -> dict[str, Any]:
    """`{"results_change": digest, "figures": {run: figures}}`; nothing of a file that is absent or holds marks of a merge."""
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {"results_change": "", "figures": {}}
    return document


def update(path: Path, now: Figures, changelog: str) -> str | None:
    """Writes the figures; refuses, with a sentence, to move a figure while 'Results change' reads as at the last update."""
    before, digest = load(path), results_change(changelog)
    moved = [line for line in differences(before["figures"], now) if not line.endswith(("not recorded", "no such run"))]
    if not moved:
        digest = before["results_change"] or digest
    elif digest == before["results_change"]:
        return (
            f"{path.name}: {len(moved)} figures have moved, and nothing was added under 'Results change' of CHANGELOG.md since "
            "the last update; write there what moves and why, then update again"
        )
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(now.items()))
    path.write_text(f'{{"results_change": "{digest}", "figures": {{\n{lines}\n}}}}\n', "utf-8")
    return None
