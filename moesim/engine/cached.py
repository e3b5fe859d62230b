"""Residents that follow from the rule of a cache alone, for many visits at once.

Knows the books of GPU memory; times nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.contract import Uses
from moesim.engine.context import Context
from moesim.engine.dispatches import Answers
from moesim.errors import PolicyError

__all__ = ["Snapshot", "cached_residents", "check_cached"]


def cached_residents(context: Context, visited: IntArray, counts: IntArray, alike: Sequence[slice]) -> BoolArray:
    """[V, E] copies in GPU memory at each visit of MoE layers `visited` [V], as the rule of the cache leaves them.

    `alike`: visits of different layers, one set behind another.
    """
    cache, pool, books = context.deployment.cache, context.deployment.pool, context.residency
    if pool is not None:
        resident = books.resident.copy()
        before, more = pool.walk(visited, counts, resident)
        books.follow(resident, more * np.float64(context.problem.model.expert_bytes))
        return before
    assert cache is not None
    before, resident = np.empty(counts.shape, dtype=np.bool_), books.resident.copy()
    gained = np.empty(len(counts))
    alone = [slice(row, row + 1) for row in range(len(counts))]
    for rows in alone if cache.ordered else alike:
        layers = visited[rows]
        here = before[rows] = resident[layers]
        clock = cache.clock + 1 + np.arange(len(counts))[rows]
        stay, leave = cache.after(Uses(layers, clock, counts[rows], (counts[rows] > 0) & ~here, here))
        resident[layers] = here & ~leave | stay
        nbytes = books.bytes[layers]
        gained[rows] = np.where(stay, nbytes, 0.0).sum(axis=1) - np.where(leave, nbytes, 0.0).sum(axis=1)
    cache.clock += len(counts)
    books.follow(resident, gained)
    return before


def check_cached(context: Context, answers: Answers, counts: IntArray) -> None:
    """PolicyError where a policy with a cache does not upload whatever is used and not there."""
    uploads = (answers.device == context.problem.attending_index) | (counts == 0)
    if not uploads.all() or answers.load is not None:
        raise PolicyError("a batched policy with a cache gives all experts with tokens, and no others, to the GPU")


class Snapshot:
    """A cache and its copies at a moment: visits may be taken back that were prepared and not made."""

    def __init__(self, context: Context) -> None:
        books = context.residency
        self._rule, self._books = context.deployment.cache or context.deployment.pool, books
        self._state = copy.deepcopy(vars(self._rule))
        self._resident, self._held, self._peak = books.resident.copy(), books.held, dict(books.peak)

    def restore(self) -> None:
        """All as it was."""
        vars(self._rule).update(self._state)
        self._books.resident[:] = self._resident
        self._books.held, self._books.peak = self._held, self._peak
