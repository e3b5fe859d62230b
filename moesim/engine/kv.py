"""Which sequences hold how many tokens in the KV cache, step by step, and that they fit.

Counts tokens and bytes; where the cache lies is the deployment's choice, who may hold some the scheduler's.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.contract import Problem, Series, StepPlan
from moesim.errors import MoesimError
from moesim.model.windows import Groups
from moesim.units import format_exact

__all__ = ["KvBook"]

_MISCOUNTED = "a scheduler counts other tokens in the KV cache than the steps before have left there"


class KvBook:
    """The tokens that each request has in the cache; a request leaves it when it is done or loses its place."""

    def __init__(self, problem: Problem, room: float) -> None:
        """`room`: bytes that the cache may take."""
        self._model, self._attention, self._room = problem.model, problem.job.attention, room
        self._tokens: IntArray = np.zeros(problem.job.requests, dtype=np.int64)
        self.peak = 0.0
        """Most bytes held during a step."""

    def enter(self, plan: StepPlan) -> None:
        """A step begins: its new tokens take their places. MoesimError if there are none, or if the plan counts otherwise."""
        self._tokens[plan.dropped] = 0
        if plan.found is not None:
            self._tokens[plan.requests] += plan.found
        if (self._tokens[plan.requests] != plan.before).any():
            raise MoesimError(_MISCOUNTED)
        self._tokens[plan.requests] += plan.new_tokens
        if self._attention:
            self._hold(self._model.kv_total(self._tokens[self._tokens > 0]))

    def _hold(self, nbytes: float) -> None:
        self.peak = max(self.peak, nbytes)
        if nbytes > self._room * (1 + 1e-12):
            told = f"a step needs {format_exact(nbytes)} of KV cache, and {format_exact(self._room)} are set aside for it"
            raise MoesimError(f"{told}; a scheduler must not begin it")

    def pass_through(self, series: Series, step: IntArray, ending: BoolArray) -> None:
        """Steps begin and end one after another: those numbered `step` [N] of a series, whose sequences `ending` [N] are done.

        MoesimError as `enter`.
        """
        self._tokens[series.dropped] = 0
        there = np.union1d(np.flatnonzero(self._tokens > 0), series.requests)
        place, steps = np.searchsorted(there, series.requests), len(series.sizes)
        grown = np.zeros((steps, len(there)), dtype=np.int64)
        grown[step, place] = series.new_tokens if series.found is None else series.new_tokens + series.found
        left = np.zeros_like(grown)
        left[step, place] = ending
        held = self._tokens[there] + np.cumsum(grown, axis=0)
        if (held[step, place] - series.new_tokens != series.before).any():
            raise MoesimError(_MISCOUNTED)
        gone = np.cumsum(left, axis=0)
        held = np.where(gone > left, 0, held)
        self._tokens[there] = np.where(gone[-1] > 0, 0, held[-1])
        if self._attention:
            of = np.repeat(np.arange(steps), len(there))
            self._hold(float(self._model.kv_totals(held.ravel(), Groups(of, steps)).max()))

    def leave(self, requests: IntArray) -> None:
        """`requests` are done."""
        self._tokens[requests] = 0
