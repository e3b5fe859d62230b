"""The work of many steps, kept as numbers of tokens, FLOP and bytes, and entered into the books of the run all at once.

Adds up; decides and times nothing that the clock sees.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import IntArray
from moesim.engine.books.operations import Operations
from moesim.engine.books.work_done import WorkTally
from moesim.engine.programs.gpu_steps import Parts
from moesim.hardware.device import Phase

__all__ = ["StepBooks"]

_MOST = 4096
"""Steps that are kept before they are entered."""


class StepBooks:
    """Steps in which the GPU attends alone, by phase."""

    def __init__(self, operations: Operations, tally: WorkTally, layers: IntArray) -> None:
        """`layers` [K]: decoder layers of each kind of attention."""
        self._operations, self._tally, self._layers = operations, tally, layers
        self._kept: dict[Phase, list[tuple[Parts, IntArray]]] = {"prefill": [], "decode": []}
        self._numbers: dict[Phase, IntArray] = {phase: np.zeros(0, dtype=np.int64) for phase in self._kept}
        self._steps = 0

    def add(self, phase: Phase, parts: Parts, micro_batches: IntArray, counts: IntArray) -> None:
        """Adds n steps that go by `phase`, with `counts` [n, L, E] tokens per expert, of `micro_batches` [n, m] tokens."""
        self._kept[phase].append((parts, micro_batches.ravel()))
        before = self._numbers[phase]
        numbers = np.bincount(counts.ravel(), minlength=len(before))
        numbers[: len(before)] += before
        self._numbers[phase] = numbers
        self._steps += len(parts.tokens)
        if self._steps >= _MOST:
            self.close()

    def close(self) -> None:
        """Enters what is kept."""
        for phase, collected in self._kept.items():
            if collected:
                parts = Parts(*map(np.concatenate, zip(*(parts for parts, _ in collected), strict=True)))
                self._operations.steps(phase, parts, np.concatenate([pieces for _, pieces in collected]), self._layers)
                self._tally.steps(phase, parts, self._layers, self._numbers[phase])
                self._kept[phase], self._numbers[phase] = [], np.zeros(0, dtype=np.int64)
        self._steps = 0
