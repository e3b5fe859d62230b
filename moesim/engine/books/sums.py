"""Sums over visits, by phase: who computed what, what moved, what was hit; flat arrays that the kernel adds to.

Knows the layout of `B`; what the sums mean in bytes is for `work_done.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.arrays import IntArray
from moesim.engine.kernel import kernel as k
from moesim.hardware.device import PHASES, Phase

__all__ = ["VisitBooks"]


class VisitBooks:
    """Running sums of one run over L layers, E experts, D devices of which S stand beside the GPU, and kinds of copies."""

    def __init__(self, layers: int, experts: int, helpers: int, devices: int, arrays: bool) -> None:
        self._shape, self._helpers, self._devices, self._arrays = (layers, experts), helpers, devices, arrays
        self.all: Any = []
        """The books of each phase."""
        self.B: Any = []
        """Those of the phase at hand."""
        self._phase = 0
        self._places: list[tuple[int, int]] = []
        self._kinds = 0
        self._lay_out(1)
        self._fill_met()

    def turn_to(self, phase: Phase) -> None:
        """What is added and taken from now on is of `phase`."""
        self._phase = PHASES.index(phase)
        self.B = self.all[self._phase]

    def _lay_out(self, kinds: int) -> None:
        """Room for `kinds` kinds of copies; sums stay."""
        layers, experts = self._shape
        pairs, sides = layers * experts, self._helpers + 1
        sizes = [
            *[layers] * 5, pairs, pairs, pairs, sides * pairs, kinds, sides * kinds, 3, k.SIDE_BOOKS * self._helpers,
            2 * self._devices, 2 * layers, 2 * layers * k.MOST_LANES, k.MOST_LANES,
        ]  # fmt: skip
        starts = k.B_HEADER + np.concatenate([[0], np.cumsum(sizes)])
        places = [(int(start), int(size)) for start, size in zip(starts, sizes, strict=False)]
        size = int(starts[-1])
        fresh: Any = np.zeros((len(PHASES), size), dtype=np.int64) if self._arrays else [[0] * size for _ in PHASES]
        for phase, sums in enumerate(fresh):
            if self._places:
                self.B = self.all[phase]
            for number, (start, _) in enumerate(places):
                sums[number] = start
                if self._places:
                    before = self.part(number)
                    if number in (k.B_ODD_COPIES, k.B_ODD_RUNS):
                        before = _widened(before.reshape(-1, self._kinds), kinds)
                    sums[start : start + len(before)] = before if self._arrays else before.tolist()
        self.all, self._places, self._kinds = fresh, places, kinds
        self.B = self.all[self._phase]

    def for_kinds(self, kinds: int) -> None:
        """There are so many kinds of copies now; fewer than before only while none is counted."""
        if kinds != self._kinds:
            self._lay_out(kinds)

    def part(self, number: int) -> IntArray:
        """A copy of the sums of one sort (`k.B_...`), flat."""
        start, size = self._places[number]
        return np.array(self.B[start : start + size], dtype=np.int64)

    def take(self, *numbers: int) -> list[IntArray]:
        """Sums of some sorts, which start again from zero."""
        taken = [self.part(number) for number in numbers]
        for number in numbers:
            start, size = self._places[number]
            self.B[start : start + size] = np.zeros(size, dtype=np.int64) if self._arrays else [0] * size
        return taken

    def add(self, number: int, values: IntArray) -> None:
        """Adds to the sums of a sort, all of them flat, or as many of the first as there are `values`."""
        start, _ = self._places[number]
        total = self.part(number)[: values.size] + values.ravel()
        self.B[start : start + values.size] = total if self._arrays else total.tolist()

    def _fill_met(self) -> None:
        start, size = self._places[k.B_MET]
        for sums in self.all:
            for place in range(start, start + size):
                sums[place] = -1

    def met(self) -> dict[int, tuple[int, int]]:
        """Device -> fewest and most tokens per expert that it computed."""
        start, size = self._places[k.B_MET]
        pairs = np.array([sums[start : start + size] for sums in self.all], dtype=np.int64).reshape(len(PHASES), -1, 2)
        seen = [[(int(low), int(high)) for low, high in of_device if low >= 0] for of_device in pairs.transpose(1, 0, 2)]
        return {
            device: (min(low for low, _ in ends), max(high for _, high in ends)) for device, ends in enumerate(seen) if ends
        }


def _widened(sums: IntArray, kinds: int) -> IntArray:
    """Sums [n, kinds before] for another number of kinds, flat."""
    fresh = np.zeros((len(sums), kinds), dtype=np.int64)
    common = min(kinds, sums.shape[1])
    fresh[:, :common] = sums[:, :common]
    return fresh.ravel()
