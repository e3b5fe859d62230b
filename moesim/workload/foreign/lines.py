"""A text file of another tool, line by line: JSON objects or CSV rows, and one message for each kind of mistake in them.

Knows nothing of what the lines mean.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake, excerpt

__all__ = ["Entries", "Lines"]

_WHOLE = re.compile(r"-?[0-9]{1,18}\Z")
_MOST = 10_000
"""Mistakes after which a file is not read further: it is of another kind."""
_LISTED = 4
"""Further lines that are named by number."""


class Lines:
    """The lines of one file, and what is wrong with them: each kind of mistake once, with the numbers of its lines."""

    noun = "line"
    """What mistakes are numbered by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._wrong: dict[str, tuple[Mistake, list[int], int]] = {}
        """Kind -> the first mistake, the first lines after it, number of lines."""

    def wrong(self, message: str, line: int, kind: str = "", column: int = 1) -> None:
        """Adds a mistake of `kind`, by default the message itself; only the first message of a kind is reported."""
        where, at = self.place(line)
        new: tuple[Mistake, list[int], int] = (Mistake(f"{where}{message}", "", str(self.path), at, column), [], 0)
        first, lines, count = self._wrong.get(kind or message, new)
        later = lines if not count or len(lines) == _LISTED else [*lines, line]
        self._wrong[kind or message] = (first, later, count + 1)
        if sum(count for _, _, count in self._wrong.values()) >= _MOST:
            raise InputError(
                *self._mistakes(),
                Mistake(f"{self.noun} {line:,} is the last that was read, after {_MOST:,} mistakes", file=str(self.path)),
            )

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, text) of every line that says something."""
        return ((number, line) for number, line in files.read_lines(self.path) if line.strip())

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The JSON object of every line."""
        for number, line in self.lines():
            try:
                document = strict_json.parse(line, str(self.path), number)
            except InputError as error:
                first = error.mistakes[0]
                self.wrong(first.message, number, first.message.partition(":")[0], first.column)
                continue
            if isinstance(document, dict):
                yield number, document
            else:
                self.wrong("not a JSON object; one for each line is needed", number)

    def table(self, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows of a CSV file that has at least `columns`, by name."""
        lines = self.lines()
        header = [name.strip() for name in self._fields(*next(lines, (1, "")))]
        missing = [name for name in columns if name not in header]
        if missing:
            among = f"among the {len(header)} that its first line names"  # not what they are: it may be another file
            raise InputError(Mistake(f"no column {', '.join(missing)} {among}", file=str(self.path)))
        for number, line in lines:
            yield number, dict(zip(header, self._fields(number, line), strict=False))

    def _fields(self, number: int, line: str) -> list[str]:
        try:
            return next(csv.reader([line]), [])
        except csv.Error as error:
            self.wrong(f"not CSV: {error}", number)
            return []

    def count(self, value: Any, name: str, line: int, least: int = 0) -> int:
        """`value` as a whole number of at least `least`; `least` and a mistake for what is none."""
        text = str(value).strip() if isinstance(value, (str, int)) else type(value).__name__
        number = int(text) if _WHOLE.match(text) else None
        if number is None or number < least:
            shown = excerpt(text) or "missing"
            self.wrong(f"{name} is {shown}; a whole number of at least {least} is needed", line, name)
            return least
        return number

    def place(self, number: int) -> tuple[str, int]:
        """How a message begins, and its line, for what is wrong at `number`."""
        return "", number

    def checked(self, count: int, noun: str) -> None:
        """InputError for all mistakes, or when nothing was found."""
        if not self._wrong and not count:
            raise InputError(Mistake(f"holds no {noun}", file=str(self.path)))
        if self._wrong:
            raise InputError(*self._mistakes())

    def _mistakes(self) -> list[Mistake]:
        return sorted((_summed_up(*wrong, self.noun) for wrong in self._wrong.values()), key=lambda mistake: mistake.line)


class Entries(Lines):
    """The entries of lists in one JSON document, numbered from 0 as in the lists; the document is one line for its reader."""

    noun = "entry"

    def place(self, number: int) -> tuple[str, int]:
        return f"entry {number}: ", 1


def _summed_up(first: Mistake, later: list[int], count: int, noun: str) -> Mistake:
    """The first mistake of a kind, with the numbers of some further lines that have it."""
    if count == 1:
        return first
    numbers = ", ".join(map(str, later)) + (", ..." if count - 1 > len(later) else "")
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    more = f"likewise on {noun} {numbers}" if count == 2 else f"likewise on {count - 1:,} more {plural} ({numbers})"
    return first._replace(message=f"{first.message}; {more}")
