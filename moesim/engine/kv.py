"""Which sequences hold how many tokens in the KV cache, step by step, and that they fit.

Counts tokens and bytes; where the cache lies is the deployment's choice, who may hold some the scheduler's.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Problem
from moesim.contract.steps import StepPlan
from moesim.errors import MoesimError
from moesim.units import format_exact

__all__ = ["KvBook"]


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
            raise MoesimError("a scheduler counts other tokens in the KV cache than the steps before have left there")
        self._tokens[plan.requests] += plan.new_tokens
        if not self._attention:
            return
        nbytes = self._model.kv_total(self._tokens[self._tokens > 0])
        self.peak = max(self.peak, nbytes)
        if nbytes > self._room * (1 + 1e-12):
            told = f"a step needs {format_exact(nbytes)} of KV cache, and {format_exact(self._room)} are set aside for it"
            raise MoesimError(f"{told}; a scheduler must not begin it")

    def leave(self, requests: IntArray) -> None:
        """`requests` are done."""
        self._tokens[requests] = 0
