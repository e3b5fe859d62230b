"""Who computes the experts of a visit: shared rules, each a handful of array operations.

Knows one visit, or several at once ([..., E]), and where copies are; keeps nothing. Every rule gives experts in the memory of a
GPU (or on their way there) to that GPU, and orders the rest so that no job waits behind one that is not needed sooner:
residents first, then most tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Dispatch, View, Visit

__all__ = [
    "Misses",
    "by_misses",
    "by_tokens",
    "cpu_missing",
    "hot_by_rank",
    "in_gpu_memory",
    "in_order",
    "ranks",
    "threshold",
    "to_cpu_where",
    "upload_missing",
]

Misses = Literal["upload", "cpu", "threshold"]
"""Who computes an expert that is not in GPU memory: the GPU, the CPU, or whichever is sooner."""

_MANY = 1 << 40
"""More tokens than any visit has."""


def in_gpu_memory(visit: Visit, view: View) -> BoolArray:
    """[..., E] experts of this layer that need no upload: resident, already on their way, or with another GPU."""
    here: BoolArray = visit.resident | view.in_flight[visit.layer]
    return here | (_gpus(view, visit) != view.problem.attending_index) if view.problem.system.further_gpus else here


def _gpus(view: View, visit: Visit) -> IntArray:
    """[..., E] the GPU of each expert: the one that has a copy, else the one that attends."""
    problem = view.problem
    if not problem.system.further_gpus:
        return np.full(visit.resident.shape, problem.attending_index)
    return np.where(visit.resident, problem.attending_index, problem.gpu_at[view.home[visit.layer]])


@lru_cache(maxsize=64)
def _ids(experts: int) -> IntArray:
    """[E] expert ids, read-only."""
    ids = np.arange(experts)
    ids.flags.writeable = False
    return ids


def by_tokens(counts: IntArray) -> IntArray:
    """[..., E] most tokens first, ties by expert id."""
    # distinct keys give one order under any sort, and the plain one is twice as fast as a stable one
    experts = counts.shape[-1]
    order: IntArray = (_ids(experts) - counts * experts).argsort()
    return order


def ranks(counts: IntArray) -> IntArray:
    """[..., E] place of each expert by tokens: 0 for the one with most."""
    order = by_tokens(counts)
    places = np.empty_like(order)
    np.put_along_axis(places, order, _ids(counts.shape[-1]), axis=-1)
    return places


def in_order(counts: IntArray, resident: BoolArray) -> IntArray:
    """[..., E] residents first, then most tokens first, ties by expert id.

    A device's queue is first come, first served, so an expert that waits for its weights must not stand before one that is
    there.
    """
    return by_tokens(counts + resident * _MANY)


def upload_missing(visit: Visit, view: View, *, whole_layer: bool = False) -> Dispatch:
    """Everything runs on a GPU; what no GPU has is uploaded (`whole_layer`: with or without tokens)."""
    load = ~in_gpu_memory(visit, view) if whole_layer else None
    return Dispatch(_gpus(view, visit), in_order(visit.counts, visit.resident), load)


def cpu_missing(visit: Visit, view: View) -> Dispatch:
    """Experts in the memory of a GPU run there, the rest on the CPU in place; on the GPU where no CPU can reach them."""
    on_cpu = ~in_gpu_memory(visit, view) & np.isfinite(visit.cpu)
    return to_cpu_where(on_cpu, visit, view)


def threshold(visit: Visit, view: View) -> Dispatch:
    """A missing expert runs on the CPU where that takes no longer than to upload and compute it: cpu(c) <= copy + gpu(c).

    Each expert is judged alone, queues are not looked at. Of all subsets that the CPU could take, this one has the least sum of
    times. Source: Fiddler, arXiv:2402.07033, algorithm 1.
    """
    on_cpu = ~in_gpu_memory(visit, view) & (visit.cpu <= visit.copy + visit.gpu)
    return to_cpu_where(on_cpu, visit, view)


def by_misses(misses: Misses, visit: Visit, view: View) -> Dispatch:
    """The rule called `misses`."""
    if misses == "upload":
        return upload_missing(visit, view)
    return cpu_missing(visit, view) if misses == "cpu" else threshold(visit, view)


def to_cpu_where(on_cpu: BoolArray, visit: Visit, view: View) -> Dispatch:
    """The CPU for experts `on_cpu` [..., E], their GPU for the rest."""
    device = np.where(on_cpu, view.problem.cpu_index, _gpus(view, visit))
    return Dispatch(device, in_order(visit.counts, visit.resident))


def hot_by_rank(scores: FloatArray | IntArray, percentile: float) -> BoolArray:
    """[..., E] experts above the percentile (0 to 1), by rank: exactly round(E * (1 - percentile)) of them.

    A threshold on the counts themselves would let ties inflate the set (a quarter of 128 experts becomes 35 to 40); ties here
    go to the lower expert id.
    """
    experts = scores.shape[-1]
    count = round(experts * (1.0 - percentile))
    order = np.argsort(-scores, axis=-1, kind="stable")
    hot = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(hot, order[..., :count], True, axis=-1)
    return hot
