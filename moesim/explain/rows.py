"""What an explanation is made of: sections of rows, each a value with unit, formula and inputs; as text and as JSON.

Knows neither machines nor models.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from moesim.errors import InputError, Mistake, MoesimError, did_you_mean
from moesim.units import format_bytes, format_number, format_rate, format_seconds

__all__ = ["Explanation", "Quantity", "Row", "Section", "shown", "to_json", "to_text"]

WIDTH = 100
"""Columns of the text."""
_NAME, _VALUE = 43, 13


class Quantity(NamedTuple):
    """One input of a formula, in SI units."""

    value: float
    unit: str = ""
    """`B`, `B/s`, `s`, `FLOP`, `FLOP/s`, a word such as `tokens`, or nothing for a plain number."""


@dataclass(frozen=True)
class Row:
    """One line: what it is, how much, and why."""

    name: str
    value: float | str
    """In SI units; `inf` for never; text where the answer is a word."""
    unit: str = ""
    formula: str = ""
    inputs: Mapping[str, Quantity] = field(default_factory=dict)
    """Symbol of the formula -> what stands for it."""


@dataclass(frozen=True)
class Section:
    """Rows about one thing."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""

    def row(self, name: str) -> Row:
        """The row called `name`."""
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise MoesimError(f"no row '{name}' in '{self.title}'; it has {', '.join(names)}.{did_you_mean(name, names)}")

    def __str__(self) -> str:
        return "\n".join(_lines(self, WIDTH)) + "\n"


@dataclass(frozen=True)
class Explanation:
    """What can be said of a scenario before anything runs."""

    scenario: str
    hardware: str
    model: str
    policy: str
    sections: tuple[Section, ...]

    def only(self, words: Iterable[str]) -> Explanation:
        """The sections whose title has one of `words` in it, in any case; InputError for a word that no title has."""
        lowered = [word.lower() for word in words]
        titles = [section.title for section in self.sections]
        lost = [word for word in lowered if not any(word in title.lower() for title in titles)]
        if lost:
            known = "; ".join(titles)
            raise InputError(
                *(Mistake(f"no section has '{word}' in its title; there are: {known}", file="--section") for word in lost)
            )
        matching = tuple(section for section in self.sections if any(word in section.title.lower() for word in lowered))
        return replace(self, sections=matching)

    def section(self, title: str) -> Section:
        """The section called `title`."""
        for section in self.sections:
            if section.title == title:
                return section
        titles = [section.title for section in self.sections]
        raise MoesimError(f"no section '{title}'; there are {', '.join(titles)}.{did_you_mean(title, titles)}")

    def __str__(self) -> str:
        return to_text(self)


def shown(value: float | str, unit: str = "") -> str:
    """A value as people read it: `9.44 MB`, `28.3 GB/s`, `412 us`, `35.5 tokens`, `never`."""
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "never"
    if unit == "B":
        return format_bytes(value)
    if unit == "s":
        return format_seconds(value)
    if unit in ("B/s", "FLOP", "FLOP/s"):
        return format_rate(value, unit)
    number = format_number(value)
    return f"{number} {unit.removesuffix('s') if number == '1' else unit}".rstrip()


def to_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain JSON types: values in SI units, null for what never happens."""

    def plain(value: float | str) -> float | str | None:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def row(row: Row) -> dict[str, Any]:
        inputs = {name: {"value": plain(float(quantity.value)), "unit": quantity.unit} for name, quantity in row.inputs.items()}
        value = row.value if isinstance(row.value, str) else float(row.value)
        return {"name": row.name, "value": plain(value), "unit": row.unit, "formula": row.formula, "inputs": inputs}

    return {
        "scenario": explanation.scenario,
        "hardware": explanation.hardware,
        "model": explanation.model,
        "policy": explanation.policy,
        "sections": [
            {"title": section.title, "note": section.note, "rows": [row(line) for line in section.rows]}
            for section in explanation.sections
        ],
    }


def to_text(explanation: Explanation, width: int = WIDTH) -> str:
    """The explanation for a terminal, at most `width` columns wide; a formula is written once for rows that share it."""
    head = f"{explanation.scenario}: {explanation.model} on {explanation.hardware}, placed by {explanation.policy}"
    lines = [*textwrap.wrap(head, width), ""]
    for section in explanation.sections:
        lines += [*_lines(section, width), ""]
    return "\n".join(lines).rstrip() + "\n"


def _lines(section: Section, width: int) -> Iterator[str]:
    yield from (section.title, "-" * len(section.title), *textwrap.wrap(section.note, width))
    for number, row in enumerate(section.rows):
        name, value = row.name, shown(row.value, row.unit)
        yield f"{name:<{_NAME}} {value:>{_VALUE}}" if len(name) <= _NAME else f"{name} {value}"
        following = section.rows[number + 1] if number + 1 < len(section.rows) else None
        if following is None or (following.formula, following.inputs) != (row.formula, row.inputs):
            yield from _why(row, width)


def _why(row: Row, width: int) -> Iterator[str]:
    """The formula and its inputs, indented under the value."""
    if not row.formula:
        return
    inputs = ", ".join(f"{name} = {shown(quantity.value, quantity.unit)}" for name, quantity in row.inputs.items())
    text = f"= {row.formula}" + (f"; {inputs}" if inputs else "")
    yield from textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
