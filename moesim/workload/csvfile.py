"""Owns the reading of small CSV tables: columns by name, numbers checked, one message for each kind of mistake with its line.

Knows nothing of what the numbers mean, except for popularity: one number for each layer and expert.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moesim import files
from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean, excerpt

__all__ = ["LARGEST", "Table", "column_names", "read_columns", "read_popularity"]

LARGEST = 1e18
"""No number is above it, here as in scenarios."""
_VALUES = ("count", "fraction", "share", "fraction_of_activations", "popularity")


class Table(NamedTuple):
    """Columns of a CSV file."""

    columns: dict[str, FloatArray]
    """Name -> [rows]."""
    lines: IntArray
    """[rows] where each row ends in the file, from 1."""
    path: Path

    def refuse(self, wrong: np.ndarray[tuple[int], np.dtype[np.bool_]], column: str, complaint: str) -> list[Mistake]:
        """One mistake where rows are `wrong`; `complaint` follows the value of `column` in the first of them."""
        if not wrong.any():
            return []
        first, rows = int(wrong.argmax()), int(np.count_nonzero(wrong))
        more = f" (and {rows - 1:,} more rows)" if rows > 1 else ""
        line = int(self.lines[first])
        return [
            Mistake(f"{column} {self.columns[column][first]:g} {complaint}{more}", file=str(self.path), line=line, column=1)
        ]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line from 1, fields) of every row that is not empty."""
    reader = csv.reader(f"{line}\n" for _, line in files.read_lines(path))
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise InputError(Mistake(f"not CSV: {error}", file=str(path), line=reader.line_num, column=1)) from None


def column_names(path: Path) -> list[str]:
    """The header of a CSV file."""
    return [name.strip() for name in next(_rows(path), (1, []))[1]]


def read_columns(path: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] = (), tolerant: bool = False) -> Table:
    """Named columns of a CSV file with a header line as floats; `optional` ones only where the file has them.

    Raises InputError with every missing column, or for each column with its first cell that is not a number up to `LARGEST`;
    if `tolerant`, such cells are NaN.
    """
    rows = _rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    missing = [name for name in columns if name not in header]
    if missing:
        known = f"among the {len(header)} that its first line names"  # not what they are: it may be another file altogether
        raise InputError(
            *(Mistake(f"no column '{name}' {known}.{did_you_mean(name, header)}", file=str(path)) for name in missing)
        )
    present = [name for name in (*columns, *optional) if name in header]
    places = [header.index(name) for name in present]
    values, lines = array("d"), array("q")
    wrong: dict[int, tuple[int, str, int]] = {}
    for line, row in rows:
        lines.append(line)
        for place in places:
            text = row[place] if place < len(row) else ""
            values.append(_number(text))
            if math.isnan(values[-1]):
                wrong[place] = (*wrong.get(place, (line, text))[:2], wrong.get(place, (0, "", 0))[2] + 1)
    if wrong and not tolerant:
        raise InputError(*(_cell_mistake(path, place, header[place], *wrong[place]) for place in sorted(wrong)))
    if not lines:
        raise InputError(Mistake("has no rows below its header", file=str(path)))
    table = np.frombuffer(values, dtype=np.float64).reshape(-1, len(present))
    return Table({name: table[:, index] for index, name in enumerate(present)}, np.frombuffer(lines, dtype=np.int64), path)


def _number(text: str) -> float:
    """The number that `text` is; NaN for what is none, and for those out of range."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if abs(value) <= LARGEST else math.nan


def _cell_mistake(path: Path, place: int, name: str, line: int, text: str, cells: int) -> Mistake:
    more = f" (and {cells - 1:,} more in the column '{excerpt(name)}')" if cells > 1 else ""
    message = f"'{excerpt(text)}' is not a number up to {LARGEST:g}{more}"
    return Mistake(message, file=str(path), line=line, column=place + 1)


def read_popularity(path: Path, layers: int, experts: int) -> FloatArray:
    """[L, E] numbers of a CSV file with the columns layer, expert and one of count, fraction, share or popularity.

    Layers are taken in ascending order, whatever the first one is called (a model whose first layer is dense counts
    from 1); there must be `layers` of them, or the first `layers` are used if the job simulates fewer. Rows for the same
    layer and expert add up (one for each data set, say).
    """
    table = read_columns(path, ("layer", "expert"), optional=_VALUES)
    value = next((name for name in _VALUES if name in table.columns), None)
    if value is None:
        raise InputError(Mistake(f"has no column with a popularity; one of {', '.join(_VALUES)} is needed", file=str(path)))
    names, layer = np.unique(table.columns["layer"], return_inverse=True)
    expert = table.columns["expert"]
    mistakes = []
    if len(names) < layers:
        mistakes.append(Mistake(f"has {len(names)} layers; the model has {layers} with experts", file=str(path)))
    outside = (expert < 0) | (expert >= experts) | (expert != np.rint(expert))
    mistakes += table.refuse(outside, "expert", f"is not one of the model's {experts} (0 to {experts - 1})")
    mistakes += table.refuse(table.columns[value] < 0, value, "is below zero")
    if mistakes:
        raise InputError(*mistakes)
    popularity = np.zeros((len(names), experts))
    np.add.at(popularity, (layer, expert.astype(np.int64)), table.columns[value])
    return popularity[:layers]
