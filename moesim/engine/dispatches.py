"""What `dispatch` answered for some visits, stacked and checked: [V, E] arrays, None where no visit says anything.

Reads answers; knows no machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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

    def routed_on(self, gpu: int) -> bool:
        """Whether they say beside an order and moves where uploads come from, and no more: `gpu` computes everything."""
        usual = self.load is None and self.counts is None and self.nbytes is None and self.stale is None
        return self.source is not None and usual and bool((self.device == gpu).all())


_MOVES: BoolArray = np.ones(1, dtype=np.bool_)
"""A single visit that sets off moves."""


def stacked(dispatches: list[Dispatch], routed: IntArray, layers: IntArray, stored: FloatArray) -> Answers:
    """The answers to visits of `layers` [V] with `routed` [V, E] tokens, of experts whose stored copies have `stored` [L, E]
    bytes.

    Raises PolicyError where an answer breaks the contract of `Dispatch`.
    """
    if len(dispatches) == 1 and _plain(dispatches[0]) and dispatches[0].device.shape == routed.shape[1:]:
        return _lone(dispatches[0])
    for answer in dispatches:
        if answer.device.shape != routed.shape[1:]:
            raise PolicyError(f"dispatch returned device of shape {answer.device.shape}, not [E] = {routed.shape[1:]}")
    filled = {name for answer in dispatches for name, part in zip(Dispatch._fields, answer, strict=True) if part is not None}
    counts = _counts(dispatches, routed) if "counts" in filled else None
    return Answers(
        np.stack([answer.device for answer in dispatches]),
        _rows(dispatches, "order", np.arange(routed.shape[1])) if "order" in filled else None,
        _rows(dispatches, "load", np.zeros(routed.shape[1], dtype=np.bool_)) if "load" in filled else None,
        counts,
        _nbytes(dispatches, stored[layers]) if "nbytes" in filled else None,
        _stale(dispatches, routed if counts is None else counts) if "stale" in filled else None,
        _rows(dispatches, "source", np.full_like(routed[0], -1)) if "source" in filled else None,
        np.array([answer.moves is not None for answer in dispatches]) if "moves" in filled else None,
    )


def _rows(dispatches: list[Dispatch], name: str, default: Any) -> Any:
    """[V, E] a part of the answers, `default` [E] where an answer has none."""
    return np.stack([default if (part := getattr(answer, name)) is None else part for answer in dispatches])


def _stale(dispatches: list[Dispatch], computed: IntArray) -> IntArray:
    stale: IntArray = _rows(dispatches, "stale", np.zeros_like(computed[0]))
    if (stale < 0).any() or (stale > computed).any():
        raise PolicyError("dispatch calls more tokens of an expert stale than it computes")
    return stale


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


def _lone(answer: Dispatch) -> Answers:
    """The answer to a single visit that says no more than devices, an order, where uploads come from and moves."""
    order, source = (None if part is None else part[None] for part in (answer.order, answer.source))
    return Answers(answer.device[None], order, source=source, moves=None if answer.moves is None else _MOVES)


def _plain(dispatch: Dispatch) -> bool:
    """Whether it says no more than devices, an order, where uploads come from and moves."""
    _, _, load, counts, nbytes, stale, _, _ = dispatch
    return load is None and counts is None and nbytes is None and stale is None
