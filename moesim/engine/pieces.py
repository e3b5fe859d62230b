"""Experts that cross in pieces: service times of pieces and chunks, and when the GPU is done with parts that run as they land.

Pure arithmetic on ps; knows neither queues nor visits.
"""

from __future__ import annotations

import numpy as np

from moesim.engine.lanes import serve
from moesim.engine.tables import IntTimes

__all__ = ["computed", "ends_of", "parted"]


def parted(times: IntTimes, parts: IntTimes | int) -> IntTimes:
    """[sum of parts] `times` [N] cut into `parts` ([N], or one number) equal ones each; the last takes the rounding."""
    if isinstance(parts, int):
        if parts == 1:
            return times
        parts = np.full(len(times), parts)
    each = np.repeat(times // parts, parts)
    each[np.cumsum(parts) - 1] += times % parts
    return each


def ends_of(chunks: IntTimes, pieces: int) -> IntTimes:
    """[N * pieces] index of the last chunk of every piece of copies that cross in `chunks` [N] chunks each."""
    return np.cumsum(np.repeat(chunks // pieces, pieces)) - 1


def computed(landed: IntTimes, service: IntTimes, free: int, pieces: int) -> IntTimes:
    """[N] when a lane that is free at `free` is done with experts of which each part runs when its piece has landed.

    `landed` and `service` [N * pieces]: landing and GPU time of every part, in order.
    """
    return serve(landed, service, free)[pieces - 1 :: pieces]
