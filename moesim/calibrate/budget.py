"""Owns the time a calibration may take: a budget in seconds, and the fastest of many turns within it.

Must not know what is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

__all__ = ["Budget", "fastest"]

Clock = Callable[[], float]


class Budget:
    """Seconds that may be spent from now on; `tick` is called whenever the rest is read."""

    def __init__(self, seconds: float, clock: Clock = time.perf_counter, tick: Callable[[], None] | None = None) -> None:
        self.seconds = seconds
        self.clock = clock
        self._tick = tick
        self._begin = clock()

    @property
    def left(self) -> float:
        """Seconds not spent yet; never below 0."""
        if self._tick is not None:
            self._tick()
        return max(0.0, self._begin + self.seconds - self.clock())

    def part(self, share: float) -> Budget:
        """A budget of its own, `share` of what is left."""
        return Budget(share * self.left, self.clock, self._tick)


def fastest(calls: Sequence[Callable[[], object]], budget: Budget, *, least: int = 1, turns: int = 200) -> list[float]:
    """[calls] seconds of the fastest of several turns of each; infinite for those that the budget did not reach.

    All calls take their turn before any is repeated, so that a slow spell of a shared machine does not fall on one of them, and
    the first `least` are made whatever the budget is. From the third turn on, a call that has had three times its share of the
    budget, or would outlast what is left, is passed over.
    """
    best, spent = [math.inf] * len(calls), [0.0] * len(calls)
    share = 3.0 * budget.seconds / max(1, len(calls))
    for turn in range(turns):
        rounds = 0
        for index, call in enumerate(calls):
            left = budget.left
            if left <= 0.0 and (turn > 0 or index >= least):
                return best
            if turn > 0 and (best[index] > left or (turn > 1 and spent[index] + best[index] > share)):
                continue
            begin = budget.clock()
            call()
            seconds = budget.clock() - begin
            best[index], spent[index] = min(best[index], seconds), spent[index] + seconds
            rounds += 1
        if not rounds:
            break
    return best
