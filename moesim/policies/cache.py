"""A cache of experts in GPU memory per layer, least recently used first out: the bookkeeping that `adapt` needs.

Knows one layer at a time; moves nothing itself.
"""

from __future__ import annotations

import numpy as np

from moesim.policies.base import NO_MOVES, BoolArray, IntArray, Moves, Step

__all__ = ["LayerLru"]

_TIE = 1 << 24
"""Room for a token count below one tick of the clock."""


class LayerLru:
    """LRU with a capacity per layer.

    All experts of a visit are used at once; among them, the one with more tokens counts as used later (then the higher id).
    A victim is never one that the running layer uses, so a layer that uses more experts than fit keeps the ones it had and
    fills what is left with the missing experts that got the most tokens.
    """

    def __init__(self, capacity: IntArray, layers: int, experts: int) -> None:
        self.capacity = capacity
        """[L] experts of each layer that stay in GPU memory."""
        self.last_use = np.zeros((layers, experts), dtype=np.int64)
        """[L, E] when each expert was last used: clock, then tokens."""
        self._clock = 0

    def warm(self, scores: IntArray) -> None:
        """Orders experts that have not been used yet: `scores` [L, E], the lowest is the first to go."""
        self.last_use = scores.astype(np.int64)
        self._clock = 1

    def after_layer(self, step: Step, resident: BoolArray) -> Moves:
        """Keeps and evictions after a visit; `resident` [E]: copies of that layer in GPU memory."""
        self._clock += 1
        recency, used = self.last_use[step.layer], step.counts > 0
        np.copyto(recency, step.counts + self._clock * _TIE, where=used)
        if not len(step.uploaded):
            return NO_MOVES
        idle = np.flatnonzero(resident & ~used)
        free = int(self.capacity[step.layer]) - int(np.count_nonzero(resident))
        new = step.uploaded[used[step.uploaded]]
        if len(new) > free + len(idle):
            new = np.sort(new)  # ties go by expert id, whatever order the uploads had
            new = new[np.argsort(recency[new], kind="stable")[len(new) - max(free + len(idle), 0) :]]
        surplus = len(new) - free
        if surplus <= 0:
            return Moves(keep=new)
        victims = idle[np.argsort(recency[idle], kind="stable")[:surplus]]
        return Moves(keep=new, evict=np.column_stack((np.full(len(victims), step.layer), victims)))
