"""Steps that decode one token of each running sequence and nothing else: what is sure of them, and passing many at once.

Knows sequences and blocks; no clock.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from moesim.arrays import IntArray
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.sequence import Sequence

__all__ = ["Joiner", "Steady", "SteadyRun"]


class Joiner(NamedTuple):
    """A request that is guessed to arrive during steady steps, and to be admitted at once with its whole prompt."""

    sequence: Sequence
    step: int
    """Number of the steady step that reads its prompt, and of the step, composed ones included, in which it arrives."""
    arrival: int
    """ps"""
    until: int | None
    """When (ps) the next one arrives."""


class Steady(NamedTuple):
    """Steps that decode one token of each running sequence to its end, and nothing else but what joiners bring."""

    sequences: list[Sequence]
    """[S] in the order of a step."""
    computed: IntArray
    """[S] tokens that the steps before have computed."""
    remaining: IntArray
    """[S] steps that each is in, from the first on."""
    steps: int
    """How many are sure."""
    joiners: tuple[Joiner, ...] = ()

    @property
    def numbers(self) -> IntArray:
        """[S + J] requests, those of the joiners last."""
        joining = [joiner.sequence for joiner in self.joiners]
        return np.array([sequence.number for sequence in (*self.sequences, *joining)], dtype=np.int64)

    def taking_part(self, steps: int) -> tuple[IntArray, IntArray]:
        """Step and place of each sequence that is in one of the first `steps` steps, [N] each, step by step."""
        number = np.arange(steps)[:, None]
        there = number < self.remaining
        if self.joiners:
            first, output = np.array([(joiner.step, joiner.sequence.output) for joiner in self.joiners]).T
            there = np.hstack([there, (number >= first) & (number < first + output)])
        step, place = np.nonzero(there)
        return step, place


class SteadyRun:
    """`steps` steady steps behind `ahead` composed ones. Step j is composed when j + 1 steps have ended in all.

    Sequences count their tokens when `settle` is called; blocks are taken, and known to the prefix cache, when they would be.
    """

    def __init__(self, steady: Steady, steps: int, ahead: int, pool: BlockPool) -> None:
        self._pool, self._ahead, self._steps = pool, ahead, steps
        self._remaining, self._computed = steady.remaining.tolist(), steady.computed.tolist()
        self.sequences = steady.sequences
        self._sampled: list[int] = []
        self._settled = False
        step, place = steady.taking_part(steps)
        self.in_step: list[int] = np.bincount(step, minlength=steps).tolist()
        """Sequences of each step."""
        self._ending: dict[int, list[int]] = defaultdict(list)
        for number, remaining in enumerate(self._remaining):
            self._ending[remaining - 1].append(number)
        self._blocks: dict[int, list[int]] = defaultdict(list)
        met = (steady.computed[place] + step + 1) % pool.size <= 1 % pool.size  # a block is complete, or the next one begins
        for row, number in zip(step[met].tolist(), place[met].tolist(), strict=True):
            self._blocks[row].append(number)

    def begin(self) -> None:
        """The composed steps have ended."""
        self._sampled = [sequence.sampled for sequence in self.sequences]

    def compose(self, step: int) -> None:
        """Composes a step: sequences take the blocks that they need for it."""
        ended = step + 1 - self._ahead
        for place in self._blocks.get(step, ()):
            sequence = self.sequences[place]
            if ended >= 0:
                sequence.sampled = self._sampled[place] + ended
            self._pool.extend(sequence, self._computed[place] + step + 1)

    def yields(self, step: int) -> list[Sequence]:
        """The sequences that a step which ends has still to yield: those that end with it, or, once they count, all of it."""
        if self._settled:
            return [sequence for sequence, left in zip(self.sequences, self._remaining, strict=True) if left > step]
        ending = self._ending.get(step, [])
        for place in ending:
            self._set(place, self._remaining[place], step)
        return [self.sequences[place] for place in ending]

    def settle(self, ended: int) -> None:
        """From now on sequences count their tokens themselves: all steps are composed and `ended` of them have ended."""
        if not self._settled:
            self._settled = True
            for place, remaining in enumerate(self._remaining):
                if remaining > ended:
                    self._set(place, min(remaining, self._steps), ended)

    def _set(self, place: int, composed: int, ended: int) -> None:
        sequence = self.sequences[place]
        sequence.computed, sequence.sampled = self._computed[place] + composed, self._sampled[place] + ended
        sequence.pending = composed - ended
