"""HTML in pieces: elements, sortable tables. What is not known to be HTML is escaped, control codes too.

Knows tags and numbers; nothing of runs.
"""

from __future__ import annotations

import html as escaping
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from moesim.neutral import printable
from moesim.units import format_number

__all__ = ["Cell", "Html", "Page", "Part", "element", "joined", "shown", "table", "unbroken"]


_UNIT = re.compile(r"(?<=\d) (?=%|(?:[munp]?s|[kMGT]?B|[kMGT]?B/s|tok/s|USD|J|W)\b)")
_SHORT = 24
"""Letters of a text that a table keeps on one line."""


class Html(str):
    """Text that is HTML already; plain `str` is escaped wherever it goes in."""

    __slots__ = ()


class Cell(NamedTuple):
    """What a table shows, and the number or text that it sorts by (None: sorts behind everything)."""

    text: str
    key: float | str | None


class Part(NamedTuple):
    """One section: its name in links, its heading, what stands in it."""

    name: str
    heading: str
    content: Html


class Page(NamedTuple):
    """What a page says: heading, the answer in a sentence or some, what follows it, and sections."""

    title: str
    answer: Sequence[str]
    lead: Html
    parts: Sequence[Part]


def element(tag: str, *children: str, **attributes: str) -> Html:
    """`<tag ...>children</tag>`; a trailing underscore of an attribute's name is dropped, others become hyphens."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaping.escape(printable(value))}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{named}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str]) -> Html:
    """The parts one after another, escaped where they are not HTML."""
    return Html("".join(part if isinstance(part, Html) else escaping.escape(printable(part)) for part in parts))


def unbroken(text: str) -> str:
    """The text with its numbers and their units kept on one line."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


def shown(value: Any) -> Cell:
    """Any value of a summary or a table as a cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return Cell("\N{EN DASH}", None)
    if isinstance(value, Cell):
        return value
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if isinstance(value, int):
        return Cell(f"{value:,}", float(value))
    if isinstance(value, float):
        return Cell(format_number(value), value)
    return Cell(str(value), str(value))


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Any]], *, most: int = 1500) -> Html:
    """A table that its reader can sort by any column; numbers flush right. Rows beyond `most` are left out, and it says so."""
    cells = [[shown(value) for value in row] for row in rows[:most]]
    numeric = [all(isinstance(row[i].key, (float, type(None))) for row in cells) and bool(cells) for i in range(len(header))]
    heads = [
        element("th", element("button", name, type="button"), scope="col", **({"class_": "n"} if right else {}))
        for name, right in zip(header, numeric, strict=True)
    ]
    body = [element("tr", *(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))) for row in cells]
    if len(rows) > most:
        caption += f" (the first {most:,} of {len(rows):,} rows; the file has them all)"
    inner = element("table", element("caption", caption), element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", inner, class_="wide", tabindex="0", role="region", aria_label=caption)


def _cell(cell: Cell, right: bool) -> Html:
    """Numbers flush right; short names on one line, however narrow their column."""
    attributes = {"class_": "n"} if right else {"class_": "s"} if len(cell.text) <= _SHORT else {}
    if cell.key is None:
        attributes["data_k"] = ""
    elif isinstance(cell.key, float):
        attributes["data_k"] = repr(cell.key)
    return element("td", cell.text, **attributes)
