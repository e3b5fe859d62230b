"""The record of steps that were walked many at once: kept, and entered a few thousand at a time.

Adds up and stamps; decides and times nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.contract import Series
from moesim.engine.kernel import kernel as k
from moesim.results.recorder import Recorder
from moesim.workload.table import Job

__all__ = ["Walked", "WalkedSteps"]

_MOST = 4096
"""Steps that are kept before they are entered."""


class Walked(NamedTuple):
    """n steps that were walked one right after another."""

    series: Series
    of: IntArray
    """[N] number of the step of each sequence."""
    tokens: IntArray
    """[n]"""
    decodes: BoolArray
    """[n] whether the step goes by the plan of decode."""
    begin: int
    """ps"""
    done: IntArray
    """[n, STEP_WIDTH] what the kernel says of each."""
    laps: IntArray
    """[n, lanes] ps at work of each lane at its end."""

    @property
    def starts(self) -> IntArray:
        """[n] ps"""
        return np.concatenate([[self.begin], self.done[:-1, k.STEP_END]])


class WalkedSteps:
    """Steps that the record does not hold yet."""

    def __init__(self, recorder: Recorder, job: Job, named: Callable[[IntArray], dict[str, IntArray]]) -> None:
        """`named`: lane -> [n] ps, of [lanes, n] ps."""
        self._recorder, self._job, self._named = recorder, job, named
        self._kept: list[Walked] = []
        self._steps = 0

    def add(self, walked: Walked) -> None:
        """Adds what came next."""
        self._kept.append(walked)
        self._steps += len(walked.done)
        if self._steps >= _MOST:
            self.enter()

    def enter(self) -> None:
        """Enters what is kept, in order."""
        if not self._kept:
            return
        series, self._kept, self._steps = self._kept, [], 0
        rows = ((walked.done, walked.starts, walked.decodes, walked.series.sizes, walked.tokens) for walked in series)
        done, starts, decodes, sizes, tokens = (np.concatenate(column) for column in zip(*rows, strict=True))
        ends, first = done[:, k.STEP_END], len(self._recorder.passes)
        self._stamp(series, ends)
        numbers = np.arange(first, first + len(done))
        columns = (numbers, decodes, starts, ends, sizes, tokens, *done[:, k.STEP_ACTIVATIONS : k.STEP_WIDTH].T)
        self._recorder.passes.extend(np.stack(columns, axis=1))
        for _, alike in groupby((walked.laps for walked in series), key=lambda laps: laps.shape[1]):  # lanes come to be used
            laps = np.concatenate(list(alike))
            self._recorder.breakdown.laps.extend(self._named(laps.T), len(laps))

    def _stamp(self, series: Sequence[Walked], ends: IntArray) -> None:
        """First and last tokens come out at the `ends` [n] of their steps."""
        numbers = np.cumsum([0, *(len(walked.done) for walked in series)])
        step = np.concatenate([walked.of + number for walked, number in zip(series, numbers[:-1].tolist(), strict=True)])
        parts = (walked.series for walked in series)
        rows = ((part.requests, part.before, part.new_tokens, part.yields) for part in parts)
        requests, before, new, yields = (np.concatenate(column) for column in zip(*rows, strict=True))
        generated = before + new - self._job.prompt[requests] + 1
        first, ending = yields & (generated == 1), yields & (generated == self._job.output[requests])
        self._recorder.first_token[requests[first]] = ends[step[first]]
        self._recorder.finish[requests[ending]] = ends[step[ending]]
