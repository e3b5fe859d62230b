"""MoE-CXL's Algorithm 1, how its answer differs from today's placement (as moves, and as swaps where a device is full), and its
further copies: where the CXL devices have room to spare, and which copy each request is routed to.

Knows frequencies, devices and who holds what; knows no visit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.policies.kit.migration import Terms
from moesim.policies.near_data.moe_cxl_devices import Devices

__all__ = ["Mapping", "algorithm_1", "crowded", "difference", "route", "spare_copies"]


class Mapping(NamedTuple):
    """M: where each expert is used from; flat [N] over (layer, expert)."""

    resident: BoolArray
    """Experts in GPU memory."""
    home: IntArray
    """Tier of the master copy, -1 where no tier has room."""


def algorithm_1(frequency: FloatArray, slots: int, devices: Devices, free: FloatArray, *, inclusive: bool = False) -> Mapping:
    """Algorithm 1 of MoE-CXL: sort the experts by F, fill GPU memory, then the CXL devices, then CPU memory, then storage.

    `frequency` [N]: F. `slots`: experts that GPU memory holds. `free` [T]: experts that each host tier holds. Among the CXL
    devices with room an expert goes where cost(e, d) = F_e * (latency_d + W / B_d) + queue_d is least (ties by hash), and the
    queue grows by what it keeps the device busy. Experts in GPU memory have a master copy in the host: `inclusive`, where their
    F puts it; otherwise where the others leave room, for a master copy is not read while its expert is in GPU memory.
    """
    order = np.argsort(-frequency, kind="stable")
    mapping = Mapping(np.zeros(len(order), dtype=np.bool_), np.full(len(order), -1, dtype=np.int64))
    mapping.resident[order[:slots]] = True
    order = order if inclusive else np.concatenate([order[slots:], order[:slots]])
    left = np.floor(free).astype(np.int64)
    chosen = _among_devices(order.tolist(), frequency.tolist(), devices, left.tolist())
    mapping.home[order[: len(chosen)]] = chosen
    begin = len(chosen)
    for tier in devices.other_tiers:
        end = begin + max(int(left[tier]), 0)
        mapping.home[order[begin:end]] = tier
        begin = min(end, len(order))
    return mapping


def _among_devices(order: list[int], frequency: list[float], devices: Devices, left: list[int]) -> list[int]:
    """CXL device of each expert in `order`, of the one of least cost first, until all devices are full; `left` [T] places."""
    with_room = [device for device in devices.cxl_tiers if left[device] >= 1]
    occupied, access, queue, chosen = devices.occupied.tolist(), devices.access.tolist(), [0.0] * len(left), list[int]()
    for expert in order:
        if len(with_room) < 2:  # all that are left, in order
            break
        used, fixed = frequency[expert], None if devices.scores is None else devices.scores[expert]
        best, least = with_room[0], math.inf
        for device in with_room:
            cost = used * access[device] + queue[device] if fixed is None else fixed[device]
            if cost < least or (cost == least and devices.shard[expert, device] < devices.shard[expert, best]):
                best, least = device, cost
        chosen.append(best)
        queue[best] += used * occupied[best]
        left[best] -= 1
        if left[best] < 1:
            with_room.remove(best)
    for device in with_room[:1]:
        chosen += [device] * min(left[device], len(order) - len(chosen))
    return chosen


def difference(
    frequency: FloatArray, doubt: FloatArray, home: IntArray, target: IntArray, devices: Devices, free: FloatArray, terms: Terms
) -> list[tuple[int, int]]:
    """(expert, tier) of the changes of home that lead from `home` to `target` [N], most gain first; swaps stand in pairs.

    An expert that would move to a faster tier takes a free place (`free` [T] experts), else the place of the expert of least
    F that would leave that tier for a slower one (or another tier faster than its own, where nobody leaves that one): the one
    that leaves stands first. Worth it if
    (F_e dt_e - F_x dt_x) * horizon > (1 + h) * (copy_e + copy_x), and F_e is above F_x by the `doubt` [N] of both, so that
    noise does not exchange equals. What is not worth its copy is left where it is.
    """
    access, move, factor = devices.access, devices.move, 1.0 + terms.hysteresis
    gain = np.where(target >= 0, frequency * (access[home] - access[target]), 0.0)
    rising = np.flatnonzero(gain > 0)
    falling = (target >= 0) & (access[target] > access[home])
    leaving = {d: _coldest(frequency, np.flatnonzero(falling & (home == d))) for d in set(home[falling].tolist())}
    left, changes = free.copy(), []
    for e in rising[np.argsort(-gain[rising], kind="stable")].tolist():
        here, there = int(home[e]), int(target[e])
        if left[there] >= 1:
            if gain[e] * terms.horizon > factor * move[here, there]:
                changes.append((e, there))
                left[there] -= 1
            continue
        if not leaving.get(there):
            there = _given_up(leaving, access, here)
        if there < 0:
            continue
        x = leaving[there][-1]
        copies = move[here, there] + move[there, int(target[x])]
        won = float(frequency[e] * (access[here] - access[there]))
        sure = frequency[e] > frequency[x] + doubt[e] + doubt[x]
        if sure and (won + gain[x]) * terms.horizon > factor * copies:
            changes += [(x, int(target[x])), (e, there)]
            leaving[there].pop()
    return changes


def _given_up(leaving: dict[int, list[int]], access: FloatArray, here: int) -> int:
    """The fastest tier, faster than `here`, that an expert would leave; -1 for none."""
    faster = [d for d, experts in leaving.items() if experts and access[d] < access[here]]
    return min(faster, key=lambda d: float(access[d]), default=-1)


def _coldest(frequency: FloatArray, experts: IntArray) -> list[int]:
    """`experts` [n], the one of least F last."""
    ordered: list[int] = experts[np.argsort(-frequency[experts], kind="stable")].tolist()
    return ordered


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
