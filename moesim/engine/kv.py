"""Which sequences hold how many tokens in the KV cache, step by step, and that they fit.

Counts tokens and bytes; where the cache lies is the deployment's choice, who may hold some the scheduler's.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import IntArray, distinct
from moesim.contract import Problem, Series, StepPlan
from moesim.errors import MoesimError
from moesim.model.windows import Groups
from moesim.units import format_exact

__all__ = ["KvBook"]

_MOST = 256
"""Steps that are counted together at most."""
_MISCOUNTED = "a scheduler counts other tokens in the KV cache than the steps before have left there"


class KvBook:
    """The tokens that each request has in the cache; a request leaves it when it is done or loses its place."""

    def __init__(self, problem: Problem, room: float) -> None:
        """`room`: bytes that the cache may take."""
        self._model, self._job, self._room = problem.model, problem.job, room
        self._tokens: IntArray = np.zeros(problem.job.requests, dtype=np.int64)
        self.peak = 0.0
        """Most bytes held during a step."""
        self._passed: list[tuple[Series, IntArray]] = []
        """Series with the numbers of their steps that have passed and are not counted yet."""
        self._steps = 0

    def enter(self, plan: StepPlan) -> None:
        """A step begins: its new tokens take their places. MoesimError if there are none, or if the plan counts otherwise."""
        self.settle()
        self._tokens[plan.dropped] = 0
        if plan.from_prefix is not None:
            self._tokens[plan.requests] += plan.from_prefix
        if (self._tokens[plan.requests] != plan.before).any():
            raise MoesimError(_MISCOUNTED)
        self._tokens[plan.requests] += plan.new_tokens
        if self._job.attention:
            self._hold(self._model.kv_total(self._tokens[self._tokens > 0]))

    def _hold(self, nbytes: float) -> None:
        self.peak = max(self.peak, nbytes)
        if nbytes > self._room * (1 + 1e-12):
            message = f"a step needs {format_exact(nbytes)} of KV cache, and {format_exact(self._room)} are set aside for it"
            raise MoesimError(f"{message}; a scheduler must not begin it")

    def pass_through(self, series: Series, step: IntArray) -> None:
        """Steps begin and end one after another: those of a series, whose sequences are in its step number `step` [N].

        MoesimError as `enter`, at the latest from `settle`.
        """
        if len(series.dropped):
            self.settle()
            self._tokens[series.dropped] = 0
        self._passed.append((series, step + self._steps))
        self._steps += len(series.sizes)
        if self._steps >= _MOST:
            self.settle()

    def settle(self) -> None:
        """Counts the steps that have passed."""
        if not self._passed:
            return
        passed, steps = self._passed, self._steps
        self._passed, self._steps = [], 0
        names = ("requests", "new_tokens", "before", "prefix_tokens", "yields")
        requests, new, before, cached, yields = (
            np.concatenate([getattr(series, name) for series, _ in passed]) for name in names
        )
        step, lengths = np.concatenate([of for _, of in passed]), self._job.prompt + self._job.output
        there = distinct(np.concatenate([np.flatnonzero(self._tokens > 0), requests]))
        place = np.searchsorted(there, requests)
        grown = np.zeros((steps, len(there)), dtype=np.int64)
        grown[step, place] = new + cached
        left = np.zeros_like(grown)
        left[step, place] = yields & (before + new + 1 == lengths[requests])
        held = self._tokens[there] + np.cumsum(grown, axis=0)
        if (held[step, place] - new != before).any():
            raise MoesimError(_MISCOUNTED)
        ended = np.cumsum(left, axis=0)
        held = np.where(ended > left, 0, held)
        self._tokens[there] = np.where(ended[-1] > 0, 0, held[-1])
        if self._job.attention:
            of = np.repeat(np.arange(steps), len(there))
            self._hold(float(self._model.kv_totals(held.ravel(), Groups(of, steps)).max()))

    def leave(self, requests: IntArray) -> None:
        """`requests` are done."""
        self._tokens[requests] = 0
