"""What grows with the steps of a run, kept as columns of whole numbers: some 100 bytes a step instead of a thousand.

Knows integers and names only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import overload

import numpy as np
from numpy.typing import NDArray

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
_PHASE = _FIELDS.index("phase")


class PassRows:
    """The passes of a run in order, as a sequence of `PassRow`."""

    def __init__(self, rows: Iterable[PassRow] = ()) -> None:
        self._values = array("q")
        for row in rows:
            self.append(row)

    def append(self, row: PassRow) -> None:
        """Adds a pass."""
        values = list(astuple(row))
        values[_PHASE] = PHASES.index(row.phase)
        self._values.extend(values)

    def extend(self, columns: NDArray[np.int64]) -> None:
        """Adds passes [n, fields of `PassRow`], whose phase is 0 for prefill and 1 for decode."""
        self._values.frombytes(np.ascontiguousarray(columns, dtype=np.int64).tobytes())

    def column(self, name: str, rows: slice = slice(None)) -> NDArray[np.int64]:
        """[n] a field of all passes, or of some, `phase` as in `extend`."""
        return np.asarray(self._values).reshape(-1, _WIDTH)[rows, _FIELDS.index(name)].copy()

    def __len__(self) -> int:
        return len(self._values) // _WIDTH

    def __iter__(self) -> Iterator[PassRow]:
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> PassRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[PassRow]: ...
    def __getitem__(self, place: int | slice) -> PassRow | list[PassRow]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        first = place % len(self) * _WIDTH
        values: list[int | str] = list(self._values[first : first + _WIDTH])
        values[_PHASE] = PHASES[int(values[_PHASE])]
        return PassRow(*values)  # type: ignore[arg-type]

    def __eq__(self, rival: object) -> bool:
        return isinstance(rival, PassRows) and self._values == rival._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PassRows({list(self)!r})"


class BusyRows:
    """Lane -> ps at work from the start of the run to the end of each pass. A lane that comes later was idle before."""

    def __init__(self) -> None:
        self._lanes: dict[str, array[int]] = {}
        self._rows = 0

    def append(self, busy: Mapping[str, int]) -> None:
        """Adds a pass."""
        for lane, time in busy.items():
            times = self._lanes.get(lane)
            if times is None:
                times = self._lanes[lane] = array("q", bytes(8 * self._rows))
            times.append(time)
        self._rows += 1
        for times in self._lanes.values():
            if len(times) < self._rows:
                times.append(0)

    def extend(self, busy: Mapping[str, NDArray[np.int64]], passes: int) -> None:
        """Adds passes: lane -> [passes] ps."""
        for lane, times in busy.items():
            before = self._lanes.setdefault(lane, array("q", bytes(8 * self._rows)))
            before.frombytes(np.ascontiguousarray(times, dtype=np.int64).tobytes())
        self._rows += passes
        for before in self._lanes.values():
            before.frombytes(bytes(8 * (self._rows - len(before))))

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, place: int) -> dict[str, int]:
        return {lane: times[place] for lane, times in self._lanes.items()}

    def worked(self) -> list[str]:
        """Lanes that worked, in the order of their names."""
        return sorted(lane for lane, times in self._lanes.items() if any(times))

    def within(self, lanes: Sequence[str], rows: slice) -> NDArray[np.int64]:
        """[n, lanes] ps at work of each lane in each of some passes."""
        before = slice(max(rows.start - 1, 0), rows.stop)
        sums = [np.asarray(self._lanes[lane])[before] for lane in lanes]
        table = np.stack(sums, axis=1) if sums else np.zeros((rows.stop - before.start, 0), dtype=np.int64)
        return np.diff(table, axis=0) if rows.start else np.diff(table, axis=0, prepend=0)
