"""What MoE-CXL knows of the devices of its middle tier, and how experts are spread over them and moved between them.

Knows profiles, homes and frequencies; knows no visit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem
from moesim.policies.history import hashed
from moesim.policies.placement import Groups, device_cost, host_order

__all__ = ["Devices", "Spread", "johnson", "shares_of", "spread_over", "steal", "tier_groups"]

Spread = Literal["profile", "fastest", "hash", "round_robin"]
"""How experts are spread over the devices of the CXL tier: by cost with queues, by cost without, by hash, or in turn."""
_NEVER = 1e9
"""Seconds of a use from a tier where no expert can live: finite, because it is multiplied by frequencies of zero."""


@dataclass
class Devices:
    """Device profiles and what follows from them; [T] by tier index."""

    access: FloatArray
    """[T] seconds of one use from a tier: latency + W / rate to the GPU."""
    occupied: FloatArray
    """[T] seconds that one use keeps the tier busy."""
    move: FloatArray
    """[T, T] seconds of a copy between host tiers."""
    room: FloatArray
    """[T] bytes for experts, empty; -inf where none can live."""
    cxl: BoolArray
    """[T] devices of the CXL tier."""
    queues: tuple[str, ...]
    """[T] copy queue of the path from each tier to the GPU."""

    @classmethod
    def of(cls, problem: Problem, room: dict[str, float]) -> Devices:
        """Of the machine; `room`: host tier -> bytes for experts."""
        size, tiers, costs = problem.model.expert_bytes, problem.tiers, problem.costs
        access, occupied, empty = np.full(len(tiers), _NEVER), np.zeros(len(tiers)), np.full(len(tiers), -np.inf)
        move, queues = np.zeros((len(tiers), len(tiers))), [""] * len(tiers)
        hosts = [tier for group in tier_groups(problem) for tier in group]
        busy = device_cost(problem, hosts)[1]
        for number, tier in enumerate(hosts):
            index = tiers.index(tier)
            access[index] = float(costs.copy(size, tier, problem.gpu_tier))
            occupied[index], empty[index] = busy[number], room[tier]
            queues[index] = costs.path(tier, problem.gpu_tier).queue or ""
            for other in hosts:
                move[index, tiers.index(other)] = float(costs.copy(size, tier, other))
        cxl = np.array([problem.system.tiers[tier].kind == "cxl" for tier in tiers])
        return cls(access, occupied, move, empty, cxl, tuple(queues))


def tier_groups(problem: Problem) -> Groups:
    """All CXL devices side by side, then every other host tier, fastest first."""
    order = host_order(problem)
    devices = [tier for tier in order if problem.system.tiers[tier].kind == "cxl"]
    others = [[tier] for tier in order if tier not in devices]
    return [devices, *others] if devices else others


def shares_of(problem: Problem, devices: list[str]) -> FloatArray:
    """[D] share of the experts that each device gets by its bandwidth, as the GPU sees it alone: 1 / occupied."""
    rate = 1.0 / device_cost(problem, devices)[1]
    shares: FloatArray = rate / rate.sum()
    return shares


def spread_over(
    problem: Problem, devices: list[str], order: IntArray, room: dict[str, float], how: Literal["hash", "round_robin"]
) -> IntArray:
    """[L, E] number of the device in `devices`, -1 for none: experts in `order` [n] (flat indices) while there is room.

    `hash`: weighted rendezvous hashing, the largest log(u(layer, expert, device)) / bandwidth: a device that comes or goes
    moves its own experts and no other. `round_robin`: one to each in turn. A full device is passed over.
    """
    size, (layers, experts) = problem.model.expert_bytes, problem.popularity.shape
    slots = np.array([max(int(room[tier] // size), 0) for tier in devices])
    placed = np.full(layers * experts, -1, dtype=np.int64)
    if how == "hash":
        lots = hashed(layers * experts, len(problem.tiers))[:, [problem.tiers.index(tier) for tier in devices]]
        score = np.log(np.maximum(lots, 1e-300)) / shares_of(problem, devices)
        wishes = np.argsort(-score, axis=1, kind="stable")
    else:
        turns = np.arange(len(order))[:, None] + np.arange(len(devices))
        wishes = np.zeros((layers * experts, len(devices)), dtype=np.int64)
        wishes[order] = turns % len(devices)
    for expert in order.tolist():
        for device in wishes[expert].tolist():
            if slots[device] > 0:
                slots[device] -= 1
                placed[expert] = device
                break
    return placed.reshape(layers, experts)


def steal(
    frequency: FloatArray, home: IntArray, devices: Devices, room: FloatArray, size: float, movable: BoolArray, margin: float
) -> tuple[int, int] | None:
    """(flat index, tier): the expert that the idlest CXL device takes from the busiest, or None.

    `frequency`, `home`, `movable`: flat [N]; `room` [T] free bytes. Work of a device: F * seconds per use over the experts that
    live there. It takes the hottest expert that leaves it below the other's work by `margin` (a share), from a device whose
    copies are no faster than its own by that margin: an idle device that is slow would lengthen every use.
    """
    work = np.bincount(home[movable], (frequency * devices.occupied[home])[movable], minlength=len(room))
    thieves = np.flatnonzero(devices.cxl & (room >= size))
    busy = np.flatnonzero(devices.cxl)
    if not len(thieves) or len(busy) < 2:
        return None
    thief, victim = int(thieves[np.argmin(work[thieves])]), int(busy[np.argmax(work[busy])])
    if thief == victim or devices.access[thief] > (1.0 + margin) * devices.access[victim]:
        return None
    there = np.flatnonzero(movable & (home == victim) & (frequency > 0))
    after = work[thief] + frequency[there] * devices.occupied[thief]
    fits = there[after * (1.0 + margin) < work[victim]]
    return (int(fits[np.argmax(frequency[fits])]), thief) if len(fits) else None


def johnson(copy: FloatArray, gpu: FloatArray, uploaded: BoolArray, order: IntArray) -> IntArray:
    """[E] `order` with the experts `uploaded` [E] rearranged so that copy engine and GPU, in a row, are done soonest.

    Those whose copy is shorter than their GPU time go first, shortest copy first; the others follow, longest GPU time first:
    Johnson's rule, the optimum of a flow shop of two machines (Johnson 1954). `copy` and `gpu`: [E] seconds.
    """
    places = np.flatnonzero(uploaded[order])
    experts = order[places]
    short = copy[experts] < gpu[experts]
    key = np.where(short, copy[experts], -gpu[experts])
    made = order.copy()
    made[places] = experts[np.lexsort((key, ~short))]
    return made
