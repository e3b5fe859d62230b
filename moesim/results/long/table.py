"""Tables of many rows, one for each step, request or lane, made when they are asked for: those of a long run would fill memory.

Knows columns by name only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LongTable", "Table", "by_rows", "parts", "whole"]

Columns = dict[str, NDArray[Any]]
Table = Mapping[str, NDArray[Any]]
_MOST = 1 << 12
"""Rows up to which a table is made at once, and that a part of a longer one holds."""


class LongTable(Mapping[str, NDArray[Any]]):
    """Columns of `rows` rows, of which `part` makes those of a slice: the same as all at once."""

    def __init__(self, rows: int, part: Callable[[slice], Columns]) -> None:
        self.rows, self.part = rows, part
        self._names = list(part(slice(0, 0)))

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return np.concatenate([columns[name] for columns in parts(self)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (whole(self),)


def by_rows(rows: int, part: Callable[[slice], Columns]) -> Table:
    """Columns of `rows` rows, at once or, of many, when they are asked for; `part`: as of `LongTable`."""
    return part(slice(0, rows)) if rows <= _MOST else LongTable(rows, part)


def parts(table: Table) -> Iterator[Columns]:
    """The rows of a table, some at a time; at least one part."""
    if isinstance(table, LongTable):
        for first in range(0, max(table.rows, 1), _MOST):
            yield table.part(slice(first, min(first + _MOST, table.rows)))
        return
    rows = max((len(column) for column in table.values()), default=0)
    for first in range(0, max(rows, 1), _MOST):
        yield {name: column[first : first + _MOST] for name, column in table.items()}


def whole(table: Table) -> Columns:
    """All rows as plain columns."""
    return table.part(slice(0, table.rows)) if isinstance(table, LongTable) else dict(table)
