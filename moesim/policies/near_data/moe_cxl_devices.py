"""What MoE-CXL knows of the devices of its middle tier, and how experts are spread over them and moved between them.

Knows profiles, homes and frequencies; knows no visit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem
from moesim.policies.kit.history import hashed
from moesim.policies.kit.placement import device_cost, host_order
from moesim.policies.near_data.cxl_tiers import cxl_tiers
from moesim.portable import logarithms

__all__ = ["Devices", "Shard", "Spread", "johnson", "steal"]

Spread = Literal["profile", "fastest", "hash", "weighted_hash", "round_robin"]
"""How experts are spread over the devices of the CXL tier: by cost with queues, by cost without, by hash, by a hash weighted by
bandwidth, or in turn."""
Shard = Literal["hash", "weighted_hash"]
"""Order of the devices of an expert where their costs tie, and for its further copies: by a hash, or one weighted by
bandwidth."""
_TRIES = 64
"""Experts that stealing looks at, at most."""
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
    """[T, T] seconds of a copy between host tiers; 0 into the backup."""
    room: FloatArray
    """[T] bytes for experts, empty; -inf where none can live."""
    cxl: BoolArray
    """[T] devices of the CXL tier."""
    queues: tuple[tuple[str, int], ...]
    """(copy queue, tier) of every path that leads from a host tier to the GPU or to another host tier."""
    cxl_tiers: list[int]
    """Devices of the CXL tier, fastest first."""
    other_tiers: list[int]
    """Every other host tier, fastest first."""
    shard: FloatArray
    """[N, T] order of the devices of each expert by sharding, least first."""
    scores: FloatArray | None = None
    """[N, T] fixed order of the devices of each expert, least first, where they are not chosen by cost."""

    @classmethod
    def of(cls, problem: Problem, room: dict[str, float], backup: str | None, spread: Spread, shard: Shard = "hash") -> Devices:
        """Of the machine; `room`: host tier -> bytes for experts."""
        size, tiers, costs, cxl = problem.model.expert_bytes, problem.tiers, problem.costs, cxl_tiers(problem)
        access, occupied, empty = np.full(len(tiers), _NEVER), np.zeros(len(tiers)), np.full(len(tiers), -np.inf)
        move, queues, hosts = np.zeros((len(tiers), len(tiers))), set(), host_order(problem)
        busy = device_cost(problem, hosts)[1]
        for number, tier in enumerate(hosts):
            index = tiers.index(tier)
            access[index] = float(costs.copy(size, tier, problem.gpu_tier))
            occupied[index], empty[index] = busy[number], room[tier]
            queues.add((costs.path(tier, problem.gpu_tier).queue or f"{tier}>{problem.gpu_tier}", index))
            for host in hosts:
                queues.add((costs.path(tier, host).queue or f"{tier}>{host}", index))
                move[index, tiers.index(host)] = 0.0 if host == backup else float(costs.copy(size, tier, host))
        devices, plain_hosts = ([tiers.index(tier) for tier in hosts if (tier in cxl) == far] for far in (True, False))
        is_cxl = np.isin(np.arange(len(tiers)), devices)
        rate = 1.0 / np.maximum(occupied, 1e-300)
        scores, lots = (_scores(problem, devices, rate, how) for how in (spread, shard))
        assert lots is not None
        return cls(access, occupied, move, empty, is_cxl, tuple(sorted(queues)), devices, plain_hosts, lots, scores)

    def backlog(self, waiting: Mapping[str, float]) -> FloatArray:
        """[T] seconds of copies that wait to be read from each tier; `waiting`: copy queue -> seconds."""
        seconds = np.zeros(len(self.access))
        if any(waiting.values()):
            for queue, tier in self.queues:
                seconds[tier] += waiting.get(queue, 0.0)
        return seconds

    def free(self, home: IntArray, size: float, down: BoolArray) -> FloatArray:
        """[T] experts for which each tier still has room beside those at `home` [N]; none in those that are `down` [T]."""
        room = (self.room - size * np.bincount(home, minlength=len(self.room))) / size
        return np.where(down, 0.0, np.maximum(np.floor(room + 1e-9), 0.0))

    def slots(self, size: float, down: BoolArray) -> FloatArray:
        """[T] experts that each tier holds in all."""
        return np.where(down, 0.0, np.maximum(np.floor(self.room / size + 1e-9), 0.0))


def _scores(problem: Problem, devices: list[int], rate: FloatArray, spread: Spread) -> FloatArray | None:
    """[N, T] order of the devices by hash, in turn or by speed.

    Rendezvous hashing, the largest log(u(layer, expert, device)), divided by the bandwidth if `weighted_hash`: a device that
    comes or goes moves its own experts and no other.
    """
    count, tiers = problem.layers * problem.experts, len(problem.tiers)
    if spread == "profile":
        return None
    if spread == "fastest":
        return np.tile(1.0 / rate, (count, 1))
    if spread == "round_robin":
        turns = np.zeros((count, tiers))
        hottest = np.argsort(np.argsort(-problem.popularity.ravel(), kind="stable"), kind="stable")
        for place, device in enumerate(devices):
            turns[:, device] = (place - hottest) % len(devices)
        return turns
    lots = -logarithms(np.maximum(hashed(count, tiers), 1e-300))
    return lots / rate if spread == "weighted_hash" else lots


def steal(
    frequency: FloatArray,
    home: IntArray,
    devices: Devices,
    room: FloatArray,
    movable: BoolArray,
    margin: float,
    partner: Callable[[int], int],
) -> list[tuple[int, int]]:
    """(flat index, tier) of what the idlest CXL device takes from the busiest: an expert, and what is used together with it.

    `frequency`, `home`, `movable`: flat [N]; `room` [T] experts; `partner`: the expert activated most often with another, -1
    for none. Work of a device: F * seconds per use over the experts that live there. It takes the hottest expert, with its
    partner where both live on the other device, that leaves it below the other's work by `margin` (a share), from a device
    whose copies are no faster than its own by that margin: an idle device that is slow would lengthen every use.
    """
    work = np.bincount(home[movable], (frequency * devices.occupied[home])[movable], minlength=len(room))
    thieves = np.flatnonzero(devices.cxl & (room >= 1))
    busy = np.flatnonzero(devices.cxl)
    if not len(thieves) or len(busy) < 2:
        return []
    thief, victim = int(thieves[np.argmin(work[thieves])]), int(busy[np.argmax(work[busy])])
    if thief == victim or devices.access[thief] > (1.0 + margin) * devices.access[victim]:
        return []
    there = np.flatnonzero(movable & (home == victim) & (frequency > 0))
    after = work[thief] + frequency[there] * devices.occupied[thief]
    fits = there[after * (1.0 + margin) < work[victim]]
    for expert in fits[np.argsort(-frequency[fits], kind="stable")][:_TRIES].tolist():
        follower = partner(expert)
        group = [expert, follower] if follower >= 0 and movable[follower] and home[follower] == victim else [expert]
        taken = work[thief] + float(frequency[group].sum()) * devices.occupied[thief]
        if len(group) <= room[thief] and taken * (1.0 + margin) < work[victim]:
            return [(member, thief) for member in group]
    return []


def johnson(copy: FloatArray, gpu: FloatArray, uploaded: BoolArray, order: IntArray) -> IntArray:
    """[E] `order` with the experts `uploaded` [E] rearranged so that copy engine and GPU, in a row, are done soonest.

    Those whose copy is shorter than their GPU time go first, shortest copy first; the others follow, longest GPU time first:
    Johnson's rule, the optimum of a flow shop of two machines (Johnson 1954). `copy` and `gpu`: [E] seconds.
    """
    places = np.flatnonzero(uploaded[order])
    experts = order[places]
    short = copy[experts] < gpu[experts]
    key = np.where(short, copy[experts], -gpu[experts])
    sequence = order.copy()
    sequence[places] = experts[np.lexsort((key, ~short))]
    return sequence
