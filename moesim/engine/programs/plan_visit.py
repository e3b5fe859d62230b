"""What dispatches mean in work where layers overlap: uploads, GPU experts, helpers (CPU, near-data units).

The kernel finds and books it; arrays over V visits and E experts; times in ps. Decides nothing and times nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.engine.dispatches import Answers
from moesim.engine.kernel import kernel as k
from moesim.engine.kernel.visit_tables import Helper, VisitTables, crossing
from moesim.engine.programs.durations import ExpertTimes, IntTimes

__all__ = ["HelperWork", "VisitWork", "work_of_visits"]


class HelperWork(NamedTuple):
    """What one helper does in V visits; all [V]."""

    helper: Helper
    tokens: IntArray
    """(token, expert) pairs computed there."""
    nbytes: FloatArray
    """Activation bytes sent there; as many come back."""
    out: IntTimes
    work: IntTimes
    back: IntTimes
    runs: BoolArray
    """[V, E] the experts that run there, by id."""


@dataclass(frozen=True, slots=True)
class VisitWork:
    """The work of V visits. Upload arrays are [V, E] in dispatch order and 0 where nothing is uploaded."""

    up: BoolArray
    """[V, E] by expert id: uploaded in this visit."""
    order: IntArray | None
    """[V, E] expert ids in dispatch order; None for by id."""
    copy: IntTimes
    gpu_after: IntTimes
    """GPU time of each uploaded expert once it is there."""
    gpu_first: IntTimes
    """[V] GPU time of shared and resident experts."""
    helpers: list[HelperWork]
    """Of those that have any."""
    ids: IntTimes
    """[V] time in which the host reads the routing back: nothing that depends on it can leave the host before."""


def work_of_visits(
    tables: VisitTables,
    measured: IntArray,
    counts: IntArray,
    tokens: IntArray,
    answers: Answers,
    up: BoolArray,
    times: ExpertTimes,
) -> VisitWork:
    """The work of visits with `counts` [V, E] of `tokens` [V] tokens, dispatched by `answers`, as the kernel `measured` it.

    `up` [V, E]: experts that are uploaded.
    """
    device, order = answers.device, answers.order
    copy = np.where(up, times.copy_ps, 0)
    gpu_after = np.where(up & (counts > 0), times.gpu_ps + int(tables.T[k.T_APART]), 0)
    if order is not None:
        copy, gpu_after = np.take_along_axis(copy, order, 1), np.take_along_axis(gpu_after, order, 1)
    helpers = []
    for number, helper in enumerate(tables.helpers):
        pairs, work = measured[:, k.W_SIDES + 2 * number :][:, :2].T
        if pairs.any():
            nbytes = np.minimum(pairs, tokens) * tables.token_bytes
            ways = crossing(helper.out, nbytes), crossing(helper.back, nbytes)
            runs = (counts > 0) & (device == helper.index)
            helpers.append(HelperWork(helper, pairs, nbytes, ways[0], work, ways[1], runs))
    return VisitWork(up, order, copy, gpu_after, measured[:, k.W_FIRST], helpers, measured[:, k.W_IDS])
