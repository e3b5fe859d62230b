"""Owns how text out of files is made harmless where it is shown: control codes for terminals and pages, formulas for tables.

Knows characters; not what the text says.
"""

from __future__ import annotations

import re

__all__ = ["cell", "cell_text", "line", "printable"]

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1: what terminals obey
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # turn the direction of what follows, or break lines
    "\ud800-\udfff]"  # halves of pairs, which no encoding of Unicode has
)
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]")
"""What a spreadsheet takes for a formula, wide forms of the signs too, after any quotes of ours.

Source: OWASP, CSV Injection (owasp.org/www-community/attacks/CSV_Injection)."""


def printable(text: str) -> str:
    """The text with what a terminal would obey instead of show as `\\uXXXX`, which JSON reads as the same character."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def line(text: str) -> str:
    """`printable`, and all of it on one line: a message cannot look like two."""
    return printable(" ".join(text.splitlines()))


def cell(text: str) -> str:
    """Text as a cell of a CSV file: a quote in front of what a spreadsheet would compute. Numbers stay as they are."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def cell_text(stored: str) -> str:
    """What `cell` was made from."""
    inside = stored[1:]
    return inside if stored[:1] == "'" and _FORMULA.match(inside) and not _is_number(inside) else stored


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
