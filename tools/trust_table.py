"""Writes the table of accuracy of docs/trust.md from docs/validation.md: python tools/trust_table.py

Knows the two pages.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "trust.md"
BY_NAME = {"oracle-": "closed form", "vllm-llama8b": "serving", "serving-": "serving", "lru-hits": "routing"}
"""Beginning of a case's name -> regime."""
BY_KIND = {"component": "component", "system": "runtime", "simulated": "papers that simulate", "ratio": "papers that simulate"}
"""Kind of all other cases -> regime."""
REGIMES = ("component", "closed form", "runtime", "serving", "routing", "papers that simulate")


def cases() -> dict[str, tuple[str, list[float]]]:
    """Case -> its kind and the errors in % of its rows that nothing was fitted on."""
    text = (ROOT / "docs" / "validation.md").read_text("utf-8")
    head, *sections = re.split(r"^## ", text.partition("## Cases")[2], flags=re.MULTILINE)
    kinds = dict(re.findall(r"^\| \[([\w.-]+)\]\(#[^)]*\) \| (\w+) \|", head, flags=re.MULTILINE))
    errors_of = {}
    for section in sections:
        name = section.split("\n", 1)[0]
        if name not in kinds:  # the table by program sums cases up
            continue
        rows = re.findall(r"^\| .* \| ([+-]?[\d,.]+) % \| [^|]*\|(.*)\|$", section, flags=re.MULTILINE)
        errors_of[name] = (kinds[name], [abs(float(error.replace(",", ""))) for error, marks in rows if "fitted" not in marks])
    return errors_of


def regime_of(name: str, kind: str) -> str:
    return next((regime for beginning, regime in BY_NAME.items() if name.startswith(beginning)), BY_KIND[kind])


def table() -> str:
    """The page's table, from the page of validation."""
    lines = ["| regime | cases | rows | median error | nine of ten within |", "|---|--:|--:|--:|--:|"]
    all_cases = cases()
    for regime in REGIMES:
        own = [errors for name, (kind, errors) in all_cases.items() if regime_of(name, kind) == regime]
        flat = np.array([error for errors in own for error in errors])
        if flat.size:
            middle, most = np.percentile(flat, [50, 90])
            lines.append(f"| {regime} | {len(own)} | {flat.size} | {middle:.1f} % | {most:.1f} % |")
    return "\n".join(lines)


def rewritten(page: str) -> str:
    """The page with its table made anew."""
    return re.sub(r"^\| regime \|.*\n(?:\|.*\n)+", lambda _: table() + "\n", page, flags=re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
