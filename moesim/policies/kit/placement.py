"""Where experts live before a run: ranking, choice of residents, filling of host tiers, and `place`, which does it all.

Knows capacities and scores; knows neither visits nor time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import BatchPlan, Deployment, Homes, Policy, Problem
from moesim.contract.homes import HERE
from moesim.errors import InputError, Mistake
from moesim.policies.kit.sizing import Sizing, gpu_room, host_order, host_room, portions, too_large
from moesim.spec import GIVEN, Unread
from moesim.units import Share, format_bytes, format_exact, format_sum

__all__ = [
    "Choice",
    "GpuKvPolicy",
    "Groups",
    "SizedPolicy",
    "device_cost",
    "everywhere",
    "fill",
    "fitting",
    "host_order",
    "nothing",
    "overall",
    "place",
    "place_on_gpus",
    "portions",
    "quota",
    "ranking",
    "ranks",
    "read_rate",
    "require_cpu",
    "storage_first",
]

Choice = Callable[[float, FloatArray], BoolArray]
"""Chooses residents: (bytes of GPU memory to fill, [L, E] bytes of each expert) -> [L, E] experts that live there."""
Groups = Sequence[Sequence[str]]
"""Groups of host tiers, filled one after another; the tiers of one group are filled side by side."""
Cost = Callable[[float, int, float], float]
"""Cost of a home: (uses of the expert, number of the device in its group, seconds of work it has already got)."""


def ranking(scores: FloatArray) -> IntArray:
    """[L * E] flat indices (layer * E + expert), highest score first; ties by layer, then by expert id.

    Without ties, permuting the labels of experts permutes the ranking with them.
    """
    return np.argsort(-scores.ravel(), kind="stable")


def ranks(scores: FloatArray) -> IntArray:
    """[L, E] place of each expert within its layer, 0 for the highest score; ties by expert id."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), axis=1)
    return places


def fitting(order: IntArray, sizes: FloatArray, budget: float) -> BoolArray:
    """[L, E] the longest beginning of `order` [n] (flat indices) whose `sizes` [L, E] stay within `budget` bytes."""
    count = int(np.searchsorted(np.cumsum(sizes.ravel()[order]), budget, side="right"))
    chosen = np.zeros(sizes.size, dtype=np.bool_)
    chosen[order[:count]] = True
    return chosen.reshape(sizes.shape)


def quota(scores: FloatArray, limit: int | None = None) -> Choice:
    """Equally many experts of every layer, its highest scores; `limit` is the most per layer.

    What is left over after equal shares goes to the layers whose next expert scores highest.
    """
    places = ranks(scores)

    def choose(budget: float, sizes: FloatArray) -> BoolArray:
        order = np.lexsort((-scores.ravel(), places.ravel()))  # by place in the layer first, then by score
        chosen = fitting(order, sizes, budget)
        return chosen if limit is None else chosen & (places < limit)

    return choose


def overall(scores: FloatArray, limit: int | None = None) -> Choice:
    """The highest scores of all layers together, which leaves layers uneven; `limit` is the most in all."""
    order = ranking(scores)[:limit]
    return lambda budget, sizes: fitting(order, sizes, budget)


def nothing(budget: float, sizes: FloatArray) -> BoolArray:
    """No residents."""
    return np.zeros(sizes.shape, dtype=np.bool_)


def require_cpu(problem: Problem) -> None:
    """InputError on a machine without a CPU that computes."""
    if problem.cpu_index < 0:
        raise InputError(Mistake("this policy computes experts on the CPU; the machine has no CPU that computes"))


def everywhere(problem: Problem) -> list[list[str]]:
    """Every host tier as a group of its own, best home first."""
    return [[tier] for tier in host_order(problem)]


def storage_first(problem: Problem) -> Groups:
    """Storage, then what is left of the host, the memory that is copied from slowest first."""
    order = host_order(problem)[::-1]
    return [[tier] for tier in sorted(order, key=lambda tier: problem.system.tiers[tier].kind != "nvme")]


def device_cost(problem: Problem, group: Sequence[str]) -> tuple[Cost, FloatArray]:
    """Cost of an expert on each device of a multi-device tier, and [D] seconds that one use occupies the device.

    cost = uses * (latency + W / min(device, path to the GPU)) + queue; the queue grows by uses * (latency + W / device), so
    devices that a shared link makes equally fast share the experts in proportion to their own bandwidth.
    Source: MoE-CXL ("frequency and device profile"); the formula is inferred.
    """
    size, costs = problem.model.expert_bytes, problem.costs
    access = [float(costs.copy(size, tier, problem.gpu_tier)) for tier in group]
    latency = [costs.path(tier, problem.gpu_tier).setup for tier in group]
    occupied = np.array([t + size / read_rate(problem, tier) for t, tier in zip(latency, group, strict=True)])
    return lambda uses, device, queue: uses * access[device] + queue, occupied


def read_rate(problem: Problem, tier: str) -> float:
    """B/s that a host tier reads at; of a set of tiers, what its path to the GPU carries."""
    resources = problem.system.resources()
    return resources.get(f"{tier}:read") or problem.costs.path(tier, problem.gpu_tier).rate


def fill(
    problem: Problem,
    order: IntArray,
    sizes: FloatArray,
    groups: Groups,
    room: dict[str, float],
    uses: FloatArray | None = None,
) -> IntArray:
    """[L, E] tier indices: experts in `order` [n] (flat indices) fill the groups of tiers one after another, -1 for no room.

    Within a group of several tiers each expert goes where `device_cost` is least (`uses` [L, E], default 1 each). `room`
    (tier -> bytes) is reduced by what is placed.
    """
    flat, homes = sizes.ravel(), np.full(sizes.size, -1, dtype=np.int64)
    for group in groups:
        if len(group) == 1:
            tier = group[0]
            used = np.cumsum(flat[order])
            count = int(np.searchsorted(used, room[tier], side="right"))
            homes[order[:count]] = problem.tiers.index(tier)
            room[tier] -= float(used[count - 1]) if count else 0.0
            order = order[count:]
        else:
            weights = np.ones(flat.size) if uses is None else uses.ravel()
            order = _spread(problem, order, flat, group, room, weights, homes)
    return homes.reshape(sizes.shape)


def _spread(
    problem: Problem,
    order: IntArray,
    sizes: FloatArray,
    group: Sequence[str],
    room: dict[str, float],
    uses: FloatArray,
    homes: IntArray,
) -> IntArray:
    """Places what fits on the devices of `group`; returns the rest of `order`. A loop: each choice changes the queues."""
    cost, occupied = device_cost(problem, group)
    left, queue, index = [room[tier] for tier in group], [0.0] * len(group), [problem.tiers.index(tier) for tier in group]
    experts = zip(order.tolist(), sizes[order].tolist(), uses[order].tolist(), strict=True)
    for position, (expert, size, demand) in enumerate(experts):
        open_devices = [d for d in range(len(group)) if left[d] >= size]
        if not open_devices:
            order = order[position:]
            break
        best = min(open_devices, key=lambda d: cost(demand, d, queue[d]))
        homes[expert] = index[best]
        left[best] -= size
        queue[best] += demand * float(occupied[best])
    else:
        order = order[:0]
    room.update(zip(group, left, strict=True))
    return order


class HomeOrder(NamedTuple):
    """Where master copies of experts go, and who is first."""

    groups: Groups | None = None
    """Groups of host tiers, the first as long as it has room; `everywhere` if not given."""
    classes: Sequence[tuple[BoolArray, Groups]] | None = None
    """Sets of experts ([L, E] masks that cover all of them) with groups of their own, in place of `groups`."""
    scores: FloatArray | None = None
    """[L, E], the highest first; the profile if not given."""


def place(
    problem: Problem,
    *,
    resident: Choice | BoolArray | None = None,
    homes: HomeOrder | None = None,
    expert_bytes: FloatArray | None = None,
    cut: BatchPlan | None = None,
    movable: bool = False,
    reserve: float = 0.0,
) -> Deployment:
    """A whole deployment from what a policy cares about; the rest is filled in.

    `resident`: a [L, E] array or one of `quota(scores)`, `overall(scores)`, `nothing` (default); `reserve` bytes of GPU memory
    stay free. Every expert gets a home by `homes`, those that the GPU does not hold ahead of those it holds. A resident whose
    master copy finds no room in the host lives in GPU memory alone, which `movable` (residents may be evicted later) forbids.
    Raises InputError when something has no place.
    """
    groups, classes, scores = homes or HomeOrder()
    cut = cut or portions(problem, movable=movable)
    sizes = problem.expert_bytes(alike=movable) if expert_bytes is None else expert_bytes
    if (free := problem.gpu_free(cut) - reserve) < 0:
        raise too_large(problem, cut, float(sizes.mean()), reserve=reserve, masters=movable)
    held = np.asarray(resident) if isinstance(resident, np.ndarray) else (resident or nothing)(free, sizes)
    if float(sizes[held].sum()) > free:
        raise _too_many(problem, cut, int(held.sum()), float(sizes[held].sum()), reserve)
    uses = problem.popularity if scores is None else scores
    classes = classes or [(np.ones(held.shape, dtype=np.bool_), everywhere(problem) if groups is None else groups)]
    home = _homes(problem, cut, held, uses, sizes, classes)
    homeless = home < 0
    if homeless.any() and (movable or bool((homeless & ~held).any())):
        raise too_large(problem, cut, float(sizes.mean()), reserve=reserve, masters=movable)
    home[homeless] = problem.gpu_tier_index
    return Deployment(home, held, sizes, cut)


def _too_many(problem: Problem, cut: BatchPlan, count: int, needed: float, reserve: float) -> InputError:
    """`count` residents of `needed` bytes, and what GPU memory has left for them, every share to the byte."""
    taken = {**problem.gpu_shares(cut), "kept free by the policy": reserve}
    room = {f"'{problem.gpu_tier}'": problem.usable(problem.gpu_tier), **{name: -nbytes for name, nbytes in taken.items()}}
    free = format_bytes(problem.gpu_free(cut) - reserve)
    text = f"{count} resident experts need {format_bytes(needed)}, GPU memory has {free} left for them"
    return InputError(Mistake(f"{text}: {format_exact(needed)} of {format_sum(room)}"))


def _homes(
    problem: Problem,
    cut: BatchPlan,
    held: BoolArray,
    uses: FloatArray,
    sizes: FloatArray,
    classes: Sequence[tuple[BoolArray, Groups]],
) -> IntArray:
    """[L, E] tier indices, -1 where nothing had room; master copies of residents come last, they are read least."""
    room = {tier: max(bytes_left, 0.0) for tier, bytes_left in {**gpu_room(problem, cut), **host_room(problem, cut)}.items()}
    order, home = ranking(uses), np.full(held.shape, -1, dtype=np.int64)
    for group in (~held, held):
        for members, groups in classes:
            part = order[(members & group).ravel()[order]]
            home = np.maximum(home, fill(problem, part, sizes, groups, room, uses))
    return home


def place_on_gpus(problem: Problem, choice: Choice, cut: BatchPlan, scores: FloatArray | None = None) -> Deployment:
    """The experts of `choice` in the memories of all GPUs, the rest in the host; with one GPU as `place` does it.

    `choice` fills the room of all GPUs together. Each expert, those of the first places of all layers first, goes to the GPU
    that would be done with its layer soonest: the one that attends has the shared experts to run, another one gets activations
    and sends results back. `scores` [L, E], the profile if not given, say how often an expert is used.
    Raises InputError when something has no place.
    """
    order = HomeOrder(scores=scores)
    if not problem.system.further_gpus:
        return place(problem, resident=choice, homes=order, cut=cut)
    sizes, room = problem.expert_bytes(), gpu_room(problem, cut)
    chosen = choice(sum(room.values()), sizes)
    if not chosen.any():  # a dense model has none to choose
        return place(problem, homes=order, cut=cut)
    tier = _SpreadOverGpus(problem, cut, room, problem.popularity if scores is None else scores).tiers(chosen, sizes)
    groups = [
        (tier == problem.tiers.index(name), [[name]] if name != problem.gpu_tier else everywhere(problem)) for name in room
    ]
    classes = [*groups, (tier < 0, everywhere(problem))]
    return place(problem, resident=tier == problem.gpu_tier_index, homes=HomeOrder(classes=classes, scores=scores), cut=cut)


@dataclass
class _SpreadOverGpus:
    """How far each GPU is with each layer as experts are dealt out."""

    problem: Problem
    cut: BatchPlan
    room: dict[str, float]
    """Memory of a GPU -> bytes left for experts."""
    scores: FloatArray
    """[L, E]"""

    @cached_property
    def chance(self) -> FloatArray:
        """[L, E] share of decode steps in which each expert has tokens, for independent ones."""
        share = self.scores / self.scores.sum(axis=1, keepdims=True)
        return np.asarray(1.0 - (1.0 - np.minimum(self.problem.model.top_k * share, 1.0)) ** self.cut.batch)

    def tiers(self, chosen: BoolArray, sizes: FloatArray) -> IntArray:
        """[L, E] the tier of each of the `chosen` [L, E] experts of `sizes` [L, E] bytes, -1 for others and for no room."""
        experts, memories = chosen.shape[1], list(self.room)
        tiers = np.full(chosen.size, -1, dtype=np.int64)
        index, left = [self.problem.tiers.index(name) for name in memories], [self.room[name] for name in memories]
        seconds, ends = self._each(memories), np.repeat(self._first(memories)[:, None], chosen.shape[0], axis=1)
        places = (-np.where(chosen, self.scores, -np.inf)).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        flat = np.flatnonzero(chosen)
        for expert in flat[np.lexsort((flat, places.ravel()[flat]))].tolist():
            layer, size = expert // experts, float(sizes.ravel()[expert])
            work = self.chance.ravel()[expert] * seconds
            free = [gpu for gpu in range(len(memories)) if left[gpu] >= size]
            if free:
                best = min(free, key=lambda gpu: float(ends[gpu, layer] + work[gpu]))
                tiers[expert] = index[best]
                left[best] -= size
                ends[best, layer] += work[best]
        return tiers.reshape(chosen.shape)

    def _each(self, memories: list[str]) -> FloatArray:
        """[G] seconds of an expert with tokens on each GPU, its call included."""
        problem, costs = self.problem, self.problem.costs
        tokens = max(self.cut.batch * problem.model.top_k / max(float(self.chance.sum(axis=1).mean()), 1e-9), 1.0)
        devices = [costs.local_of.get(name, problem.system.attending_gpu) for name in memories]
        times = [costs.gpu(tokens) if name == problem.gpu_tier else costs.local(tokens, name) for name in memories]
        return np.array([float(time) + costs.calls(device).per_call for time, device in zip(times, devices, strict=True)])

    def _first(self, memories: list[str]) -> FloatArray:
        """[G] seconds of a decode layer before the first expert, or besides them: shared experts, activations out and back."""
        problem, costs = self.problem, self.problem.costs
        sent = self.cut.batch * problem.model.expert_token_bytes
        ways = {name: costs.copy(sent, problem.gpu_tier, name) + costs.copy(sent, name, problem.gpu_tier) for name in memories}
        return np.array([float(costs.shared(self.cut.batch) if n == problem.gpu_tier else ways[n]) for n in memories])


class SizedPolicy(Policy):
    """Parameters that most policies share: how the job is cut. Everything left out is chosen by `portions`."""

    unread: ClassVar[tuple[Unread, ...]] = (Unread(("spare",), when={"kv": GIVEN}),)
    all_gpus: ClassVar[bool] = False
    """Whether experts live in the memories of all GPUs of the machine; else the one that attends is the only one that works."""

    batch: int | None = Field(None, ge=1)
    """Sequences decoded together; the largest number that fits if not given."""
    micro_batch: int | None = Field(None, ge=1)
    """Sequences per attention micro-batch."""
    kv: str | None = None
    """Tier of the KV cache."""
    core: str | None = None
    """Device of the attention core in decode."""
    staging: int | None = Field(None, ge=1)
    """Expert slots in GPU memory that uploads land in."""
    spare: Share = 0.2
    """Share of GPU memory that must remain for experts, else the KV cache goes to a host tier."""

    def cut(
        self,
        problem: Problem,
        *,
        movable: bool = False,
        nbytes: float | None = None,
        needed: float = 0.0,
        staging: int | None = None,
        chunk: int = 0,
        homes: Homes = HERE,
    ) -> BatchPlan:
        """The job cut by this policy's parameters; `nbytes` and `needed` as in `portions`, `staging` if none is given, `chunk`
        and `homes` as in `Sizing`."""
        slots = staging if self.staging is None else self.staging
        sizing = Sizing(self.batch, self.micro_batch, self.kv, self.core, slots, self.spare, chunk, homes, self.all_gpus)
        return portions(problem, sizing, movable=movable, nbytes=nbytes, needed=needed)


class GpuKvPolicy(SizedPolicy):
    """Those whose program keeps the KV cache in GPU memory as long as it fits there, whatever that leaves for experts."""

    spare: Share = 0.0
    """Share of GPU memory that must remain for experts, else the KV cache goes to a host tier; none, as in the program."""
