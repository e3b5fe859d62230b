"""What `dispatch` answered for some visits, stacked and checked: [V, E] arrays, None where no visit says anything.

Reads answers; knows no machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Dispatch
from moesim.errors import PolicyError

__all__ = ["Answers", "batched", "stacked"]


class Answers(NamedTuple):
    """The dispatches of V visits; fields as in `Dispatch`."""

    device: IntArray
    order: IntArray | None = None
    load: BoolArray | None = None
    counts: IntArray | None = None
    nbytes: FloatArray | None = None
    stale: IntArray | None = None
    source: IntArray | None = None
    """[V, E] host tier that each expert is read from, -1 for its home."""
    moves: BoolArray | None = None
    """[V] visits that set off background moves."""


def stacked(dispatches: list[Dispatch], routed: IntArray, stored: FloatArray) -> Answers:
    """The answers to visits with `routed` [V, E] tokens, of experts whose stored copies have `stored` [V, E] bytes.

    Raises PolicyError where an answer breaks the contract of `Dispatch`.
    """
    if len(dispatches) == 1 and _plain(dispatches[0]) and dispatches[0].device.shape == routed.shape[1:]:
        answer = dispatches[0]
        return Answers(answer.device[None], None if answer.order is None else answer.order[None])
    for answer in dispatches:
        if answer.device.shape != routed.shape[1:]:
            raise PolicyError(f"dispatch returned device of shape {answer.device.shape}, not [E] = {routed.shape[1:]}")
    device = np.stack([answer.device for answer in dispatches])
    order = load = counts = nbytes = stale = source = moves = None
    if any(answer.order is not None for answer in dispatches):
        by_id = np.arange(routed.shape[1])
        order = np.stack([by_id if answer.order is None else answer.order for answer in dispatches])
    if any(answer.load is not None for answer in dispatches):
        nothing = np.zeros(routed.shape[1], dtype=np.bool_)
        load = np.stack([nothing if answer.load is None else answer.load for answer in dispatches])
    if any(answer.counts is not None for answer in dispatches):
        counts = _counts(dispatches, routed)
    if any(answer.nbytes is not None for answer in dispatches):
        nbytes = _nbytes(dispatches, stored)
    if any(answer.stale is not None for answer in dispatches):
        stale = np.stack([np.zeros_like(routed[0]) if answer.stale is None else answer.stale for answer in dispatches])
        if (stale < 0).any() or (stale > (routed if counts is None else counts)).any():
            raise PolicyError("dispatch calls more tokens of an expert stale than it computes")
    if any(answer.source is not None for answer in dispatches):
        source = np.stack([np.full_like(routed[0], -1) if answer.source is None else answer.source for answer in dispatches])
    if any(answer.moves is not None for answer in dispatches):
        moves = np.array([answer.moves is not None for answer in dispatches])
    return Answers(device, order, load, counts, nbytes, stale, source, moves)


def batched(dispatch: Dispatch, routed: IntArray) -> Answers:
    """The answers to visits with `routed` [V, E] tokens that a policy gave in one; PolicyError as `stacked`."""
    if dispatch.device.shape != routed.shape:
        raise PolicyError(f"dispatch returned device of shape {dispatch.device.shape}, not [V, E] = {routed.shape}")
    if any(part is not None for part in dispatch[3:]):
        raise PolicyError("a batched policy gives devices, an order and experts to load, and nothing else")
    return Answers(dispatch.device, dispatch.order, dispatch.load)


def _counts(dispatches: list[Dispatch], routed: IntArray) -> IntArray:
    counts = np.stack([row if answer.counts is None else answer.counts for answer, row in zip(dispatches, routed, strict=True)])
    if counts.dtype.kind != "i" or (counts < 0).any():
        raise PolicyError("dispatch.counts are token counts: integers of 0 or more")
    if (counts.sum(axis=1) > routed.sum(axis=1)).any():
        raise PolicyError("dispatch.counts holds more tokens than the router gave out")
    return counts


def _nbytes(dispatches: list[Dispatch], stored: FloatArray) -> FloatArray:
    nbytes = np.stack([row if answer.nbytes is None else answer.nbytes for answer, row in zip(dispatches, stored, strict=True)])
    if not ((nbytes > 0) & (nbytes <= stored * (1 + 1e-12))).all():
        raise PolicyError("dispatch.nbytes lies outside (0, bytes of the stored copy]")
    return nbytes


def _plain(dispatch: Dispatch) -> bool:
    """Whether it says no more than devices and an order."""
    return all(part is None for part in dispatch[2:])
