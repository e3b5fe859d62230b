"""Owns the reading of small CSV tables: columns by name, numbers checked, every mistake with its line.

Knows nothing of what the numbers mean, except for popularity: one number for each layer and expert.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.workload.table import FloatArray

__all__ = ["read_columns", "read_popularity"]

_VALUES = ("count", "fraction", "share", "fraction_of_activations", "popularity")


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            yield from csv.reader(file)
    except FileNotFoundError:
        raise InputError(Mistake("no such file", file=str(path))) from None
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise InputError(Mistake(f"cannot be read as CSV: {error}", file=str(path))) from None


def read_columns(path: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> dict[str, FloatArray]:
    """Named columns of a CSV file with a header line as floats; `optional` ones only where the file has them.

    Raises InputError with every missing column, or with every cell that is no finite number.
    """
    rows = _rows(path)
    header = [name.strip() for name in next(rows, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        known = ", ".join(header) or "nothing"
        raise InputError(
            *(Mistake(f"no column '{name}'; it has {known}.{did_you_mean(name, header)}", file=str(path)) for name in missing)
        )
    wanted = [name for name in (*columns, *optional) if name in header]
    places = [header.index(name) for name in wanted]
    values: list[list[float]] = []
    mistakes: list[Mistake] = []
    for number, row in enumerate(rows, start=2):
        if row:
            values.append([_number(row, place, number, str(path), mistakes) for place in places])
    if mistakes:
        raise InputError(*mistakes)
    if not values:
        raise InputError(Mistake("has no rows below its header", file=str(path)))
    table = np.array(values, dtype=np.float64)
    return {name: table[:, index] for index, name in enumerate(wanted)}


def _number(row: list[str], place: int, line: int, file: str, mistakes: list[Mistake]) -> float:
    text = row[place] if place < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        mistakes.append(Mistake(f"'{text}' is no number", file=file, line=line, column=place + 1))
    return value


def read_popularity(path: Path, layers: int, experts: int) -> FloatArray:
    """[L, E] numbers of a CSV file with the columns layer, expert and one of count, fraction, share or popularity.

    Layers are taken in ascending order, whatever the first one is called (a model whose first layer is dense counts
    from 1); there must be `layers` of them, or the first `layers` are used if the job simulates fewer. Rows for the same
    layer and expert add up (one for each data set, say).
    """
    found = read_columns(path, ("layer", "expert"), optional=_VALUES)
    value = next((name for name in _VALUES if name in found), None)
    if value is None:
        raise InputError(Mistake(f"has no column with a popularity; one of {', '.join(_VALUES)} is needed", file=str(path)))
    names, layer = np.unique(found["layer"], return_inverse=True)
    expert = found["expert"].astype(np.int64)
    mistakes = []
    if len(names) < layers:
        mistakes.append(Mistake(f"has {len(names)} layers; the model has {layers} with experts", file=str(path)))
    outside = (expert < 0) | (expert >= experts) | (expert != found["expert"])
    if outside.any():
        line = int(outside.argmax())
        told = f"expert {found['expert'][line]:g} is none of the model's {experts} (0 to {experts - 1})"
        mistakes.append(Mistake(told, file=str(path), line=line + 2, column=1))
    if (found[value] < 0).any():
        line = int((found[value] < 0).argmax())
        mistakes.append(Mistake("a popularity is below zero", file=str(path), line=line + 2, column=1))
    if mistakes:
        raise InputError(*mistakes)
    table = np.zeros((len(names), experts))
    np.add.at(table, (layer, expert), found[value])
    return table[:layers]
