"""A lane: a device that serves first come, first served, one job at a time, and takes whole vectors of jobs in one call.

Knows only ready and service times; what a job is, is its caller's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.clock import within

__all__ = ["serve"]


def serve(ready: NDArray[np.int64], service: NDArray[np.int64], free_at: Any = 0) -> NDArray[np.int64]:
    """Finish times [..., N] of jobs served in order along the last axis by a lane that is free at `free_at` [..., 1] or int.

    Lindley's recursion f_i = max(f_(i-1), r_i) + s_i, unrolled: f = S + running max of (max(r, free) - S before i), S being
    the cumulated service. Source: Lindley, Proc. Cambridge Phil. Soc. 48 (1952). Valid: ready times in serving order need
    not be sorted; a job that is ready early waits for those before it.
    """
    done = np.cumsum(service, axis=-1)
    finish = np.asarray(done + np.maximum.accumulate(np.maximum(ready, free_at) - (done - service), axis=-1))
    within(
        min(int(done.min(initial=0)), int(finish.min(initial=0))), "a queue of operations"
    )  # a sum that wraps turns negative
    return finish
