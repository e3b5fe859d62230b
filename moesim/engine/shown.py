"""What a policy is shown, found when it looks: times of a visit, and what waits in copy queues.

Most policies look at few of these; finding all of them at every visit would cost as much as their decisions.
"""

from __future__ import annotations

from typing import Any

from moesim.arrays import BoolArray, IntArray
from moesim.contract import Foreseen, View, Visit
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import ExpertTimes

__all__ = ["MachineView", "ShownVisit"]


class ShownVisit(Visit):
    """A visit that copies its times from those of the pass, which hold later layers too, when they are looked at."""

    __slots__ = ("_row", "_times")

    def __init__(
        self, number: tuple[int, str], row: int | slice, place: tuple[Any, Any], counts: IntArray, times: ExpertTimes,
        resident: BoolArray, foreseen: Foreseen | None,
    ) -> None:  # fmt: skip
        """`number`: index and phase of the pass; `row`: of the visit in it; `place`: its layer and tokens."""
        self.index, self.phase = number
        self.layer, self.tokens = place
        self.counts, self.resident, self.foreseen = counts, resident, foreseen
        self._times, self._row = times, row

    def __getattr__(self, name: str) -> Any:
        if name not in ("gpu", "cpu", "local", "copy"):
            raise AttributeError(name)
        values = getattr(self._times, name)[self._row].copy()
        setattr(self, name, values)
        return values


class MachineView(View):
    """The view of a machine, which looks into its queues when it is asked for the `backlog`."""

    machine: Machine
    slot: float
    """Bytes of an expert, as the model's are on average."""

    def look(self, free_bytes: float) -> None:
        """Shows this moment, with so many bytes of GPU memory free."""
        self.now = self.machine.now / 1e12
        self.free_bytes, self.free_slots = free_bytes, int(free_bytes // self.slot)
        self.__dict__.pop("backlog", None)

    def __getattr__(self, name: str) -> Any:
        if name != "backlog":
            raise AttributeError(name)
        self.backlog = self.machine.backlog()
        return self.backlog
