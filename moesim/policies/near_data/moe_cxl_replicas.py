"""MoE-CXL's further copies: where the CXL devices have room to spare, and which copy each request is routed to.

Knows who holds what and what waits at a device; places no master copy.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.policies.near_data.moe_cxl_devices import Devices

__all__ = ["crowded", "route", "spare_copies"]


def route(copies: BoolArray, home: IntArray, delay: FloatArray) -> IntArray | None:
    """Each request to the copy with the least queueing delay: [E] tier, -1 for the home; None where every home is best.

    `copies` [T, E]: who has a further copy; `delay` [T]: seconds of a copy from each tier, what waits there included.
    """
    if not copies.any():
        return None
    offered = np.where(copies, delay[:, None], np.inf)
    best = offered.argmin(axis=0)
    sooner = offered[best, np.arange(len(home))] < delay[home]
    return np.where(sooner, best, -1) if sooner.any() else None


def spare_copies(
    frequency: FloatArray, resident: BoolArray, home: IntArray, devices: Devices, room: FloatArray, most: int
) -> BoolArray:
    """[T, N] up to `most` further copies of each expert outside GPU memory, hottest first, in the `room` [T] of CXL devices.

    Sharding: an expert's next copy goes to the first device in the order of its hash that has room and none of its copies.
    """
    copies = np.zeros((len(room), len(home)), dtype=np.bool_)
    order = np.argsort(-frequency, kind="stable")
    order, left = order[~resident[order]], np.floor(room).astype(np.int64)
    tiers = np.array(devices.cxl_tiers, dtype=np.int64)
    if not len(tiers):
        return copies
    ranked = tiers[np.argsort(devices.shard[:, tiers], axis=1, kind="stable")]
    count = np.zeros(len(home), dtype=np.int64)
    for choice in ranked.T:
        for tier in devices.cxl_tiers:
            chosen = order[(choice[order] == tier) & (home[order] != tier) & (count[order] < most)][: max(int(left[tier]), 0)]
            copies[tier, chosen] = True
            count[chosen] += 1
            left[tier] -= len(chosen)
    return copies


def crowded(replicas: BoolArray, frequency: FloatArray, over: FloatArray) -> list[tuple[int, int]]:
    """(expert, tier) of the further copies [T, N] that make room: the coldest of each tier, `over` [T] of them."""
    given_up = []
    for tier in np.flatnonzero(over > 0).tolist():
        there = np.flatnonzero(replicas[tier])
        coldest = there[np.argsort(frequency[there], kind="stable")][: int(over[tier])]
        given_up += [(expert, tier) for expert in coldest.tolist()]
    return given_up
