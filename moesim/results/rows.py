"""What grows with the steps of a run: rows of whole numbers, those of a long run in a file.

Knows integers and names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from moesim.results.long.spill import SpilledRows

__all__ = ["PHASES", "BusyRows", "PassRow", "PassRows"]

PHASES = ("prefill", "decode")
"""Phase of a pass by its number in a column."""


@dataclass(frozen=True, slots=True)
class PassRow:
    """One forward pass of a batch through all layers; times in ps, `hits` and `activations` in (token, expert) pairs."""

    index: int
    phase: str
    start: int
    end: int
    sequences: int
    tokens: int
    activations: int
    hits: int
    uploads: int


_FIELDS = [field.name for field in fields(PassRow)]
_WIDTH = len(_FIELDS)
_fields_of = attrgetter(*_FIELDS)
_PHASE = _FIELDS.index("phase")


class PassRows:
    """The passes of a run in order, as a sequence of `PassRow`."""

    def __init__(self, rows: Iterable[PassRow] = ()) -> None:
        self._values = SpilledRows(_WIDTH)
        for row in rows:
            self.append(row)

    def append(self, row: PassRow) -> None:
        """Adds a pass."""
        values = list(_fields_of(row))
        values[_PHASE] = PHASES.index(row.phase)
        self._values.append(values)

    def extend(self, columns: NDArray[np.int64]) -> None:
        """Adds passes [n, fields of `PassRow`], whose phase is 0 for prefill and 1 for decode."""
        self._values.extend(columns)

    def columns(self, rows: slice) -> dict[str, NDArray[np.int64]]:
        """Name -> [n] a field of some passes that follow each other, `phase` as in `extend`."""
        return dict(zip(_FIELDS, self._values.rows(*rows.indices(len(self))[:2]).T, strict=True))

    def parts(self) -> Iterator[dict[str, NDArray[np.int64]]]:
        """The columns of all passes, of some at a time."""
        return (dict(zip(_FIELDS, part.T, strict=True)) for part in self._values.parts())

    def column(self, name: str) -> NDArray[np.int64]:
        """[n] a field of all passes."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(part[name] for part in self.parts())])

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[PassRow]:
        return (_row(values) for part in self._values.parts() for values in part.tolist())

    @overload
    def __getitem__(self, place: int) -> PassRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[PassRow]: ...
    def __getitem__(self, place: int | slice) -> PassRow | list[PassRow]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        first = place % len(self)
        return _row(self._values.rows(first, first + 1)[0].tolist())

    def __eq__(self, rival: object) -> bool:
        return isinstance(rival, PassRows) and len(self) == len(rival) and list(self) == list(rival)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PassRows({list(self)!r})"


def _row(values: list[Any]) -> PassRow:
    values[_PHASE] = PHASES[values[_PHASE]]
    return PassRow(*values)


class BusyRows:
    """Lane -> ps at work from the start of the run to the end of each pass. A lane that comes later was idle before."""

    def __init__(self) -> None:
        self._lanes: list[str] = []
        self._stretches: list[SpilledRows] = []
        """Passes that follow each other, in which so many of the first `_lanes` had come as a row is wide."""

    def append(self, busy: Mapping[str, int]) -> None:
        """Adds a pass."""
        rows = self._rows_for(busy)
        rows.append([busy.get(lane, 0) for lane in self._lanes])

    def extend(self, busy: Mapping[str, NDArray[np.int64]], passes: int) -> None:
        """Adds passes: lane -> [passes] ps."""
        rows, idle = self._rows_for(busy), np.zeros(passes, dtype=np.int64)
        rows.extend(np.stack([busy.get(lane, idle) for lane in self._lanes], axis=1))

    def _rows_for(self, busy: Iterable[str]) -> SpilledRows:
        """Where rows of all lanes that there are now belong."""
        fresh = [lane for lane in busy if lane not in self._lanes]
        if fresh or not self._stretches:
            self._lanes += fresh
            self._stretches.append(SpilledRows(len(self._lanes)))
        return self._stretches[-1]

    def __len__(self) -> int:
        return sum(map(len, self._stretches))

    def __getitem__(self, place: int) -> dict[str, int]:
        return dict(zip(self._lanes, self._rows(place, place + 1)[0].tolist(), strict=True))

    def worked(self) -> list[str]:
        """Lanes that worked, in the order of their names."""
        ever = np.zeros(len(self._lanes), dtype=np.bool_)
        for stretch in self._stretches:
            for part in stretch.parts():
                ever[: stretch.width] |= part.any(axis=0)
        return sorted(np.array(self._lanes, dtype=object)[ever].tolist())

    def within(self, lanes: Sequence[str], rows: slice) -> NDArray[np.int64]:
        """[n, lanes] ps at work of each lane in each of some passes."""
        table = self._rows(max(rows.start - 1, 0), rows.stop)[:, [self._lanes.index(lane) for lane in lanes]]
        return np.diff(table, axis=0) if rows.start else np.diff(table, axis=0, prepend=0)

    def _rows(self, first: int, last: int) -> NDArray[np.int64]:
        """[n, lanes] ps at work until the end of some passes."""
        parts = [np.zeros((0, len(self._lanes)), dtype=np.int64)]
        for stretch in self._stretches:
            rows = stretch.rows(max(first, 0), last)
            parts.append(np.pad(rows, ((0, 0), (0, len(self._lanes) - stretch.width))))
            first, last = first - len(stretch), last - len(stretch)
        return np.concatenate(parts)
