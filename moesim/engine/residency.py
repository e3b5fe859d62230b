"""Which experts are in GPU memory, on their way there, and where their master copies lie; never more bytes than a tier has.

Keeps the books only: moving bytes is for `movers.py`, deciding for policies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray, distinct
from moesim.contract import Deployment, Overlap, PhasePlan, Problem, Serial
from moesim.engine.kernel.kernel import FULLEST, HELD
from moesim.errors import CapacityError, InputError, Mistake, PolicyError
from moesim.units import format_count, format_exact, format_sum

__all__ = ["Residency"]


class Residency:
    """The state of all copies. `resident` and `in_flight` are [L, E]; both count against GPU memory."""

    def __init__(self, problem: Problem, deployment: Deployment, backup: str | None = None) -> None:
        self.problem = problem
        self.bytes = deployment.expert_bytes
        self.copy_bytes: FloatArray = deployment.expert_bytes.copy()
        """[L, E] bytes of the copy in GPU memory or on its way there; the stored copy's for others."""
        self.mixed = False
        """Copies smaller than the stored ones are or were in GPU memory."""
        self.home: IntArray = deployment.home.astype(np.int64, copy=True)
        self.resident: BoolArray = deployment.resident.copy()
        self.in_flight: BoolArray = np.zeros_like(self.resident)
        self.pinned: BoolArray = self.home == problem.gpu_tier_index
        """[L, E] experts whose only copy is in GPU memory."""
        self._any_pinned = bool(self.pinned.any())
        self._check_shapes(deployment)
        self.backup = -1 if backup is None else problem.tiers.index(backup)
        """Tier that keeps a copy of every expert, -1 for none."""
        tiers = len(problem.tiers)
        none = np.zeros((tiers, *self.home.shape), dtype=np.bool_)
        self.replicas: BoolArray = none if deployment.replicas is None else deployment.replicas.copy()
        """[T, L, E] copies in host tiers beside the masters; a migration that has landed is one until its pass ends."""
        self._check_replicas()
        self.arrived: dict[int, int] = {}
        """Tier -> ps at which the last copy landed in it."""
        self.down: BoolArray = np.zeros(len(problem.tiers), dtype=np.bool_)
        """[T] tiers that have failed."""
        self.beside = problem.gpu_shares(deployment.plan)
        """What GPU memory holds beside resident experts, in words -> bytes."""
        self.aside = problem.host_shares(deployment.plan)
        """Host tier -> what it holds beside routed experts, in words -> bytes."""
        self.fixed = problem.usable(problem.gpu_tier) - problem.gpu_free(deployment.plan)
        """GPU bytes that are not resident experts: other weights, KV cache, activations, slots for copies that come and go."""
        self.limit = problem.usable(problem.gpu_tier)
        held = float(self.bytes[self.resident].sum())
        self.sums: FloatArray = np.array([held, held, self.limit * (1 + 1e-12) - self.fixed])
        """`KF` of the kernel: GPU bytes of resident experts and of those on their way; that at the fullest, and at most."""
        self.host = self._host_bytes()
        self.peak = {problem.gpu_tier: self.fixed + self.held, **self.host}
        self._check_start()

    def _check_shapes(self, deployment: Deployment) -> None:
        shape = (self.problem.layers, self.problem.experts)
        for name in ("home", "resident", "expert_bytes"):
            if getattr(deployment, name).shape != shape:
                raise PolicyError(f"deploy returned {name} of shape {getattr(deployment, name).shape}, not [L, E] = {shape}")
        if (self.home < 0).any() or (self.home >= len(self.problem.tiers)).any():
            raise PolicyError("deploy gave an expert a home that is not a tier of the machine")
        for plan in (deployment.plan.prefill, deployment.plan.decode):
            self._check_attention(plan, deployment.plan.kv)
        if not isinstance(deployment.plan.prefill.pipeline, Overlap | Serial):
            raise PolicyError(
                f"deploy gave prefill the pipeline {deployment.plan.prefill.pipeline}; it knows Overlap and Serial"
            )
        homes = deployment.plan.homes
        if unknown := set(homes.tiers) - set(self.problem.system.host_tiers):
            raise PolicyError(f"deploy gave weights a home that is not a host tier: {', '.join(sorted(unknown))}")
        if homes.elsewhere and not self.problem.job.attention:
            raise PolicyError("the weights of a lone MoE layer other than routed experts stay in GPU memory")
        if homes.attends is not None and (homes.attention is None or homes.attends not in self.problem.devices):
            raise PolicyError(f"deploy has '{homes.attends}' attend without a home of its weights, or it is not a device")
        requests, order = self.problem.job.requests, deployment.order
        if order is not None and not np.array_equal(np.sort(order), np.arange(requests)):
            raise PolicyError(f"deploy returned an order that is not a permutation of the {requests} requests")
        if (self.pinned & ~self.resident).any():
            raise PolicyError("deploy gave an expert its home in GPU memory but did not make it resident")

    def _check_attention(self, plan: PhasePlan, kv: str) -> None:
        """The GPU that attends, or the CPU, runs it, over a cache in the memory of that GPU or in the host."""
        system, cached_here = self.problem.system, kv == self.problem.gpu_tier
        if cached_here and plan.core != system.attending_gpu:
            raise PolicyError(f"deploy put the KV cache into GPU memory and the attention core on '{plan.core}'")
        unfit = set(system.further_gpus) & {plan.projections, plan.core, plan.output}
        if unfit or (system.is_gpu_memory(kv) and not cached_here):
            place = f"'{min(unfit)}'" if unfit else f"KV cache in '{kv}'"
            raise PolicyError(f"deploy put attention on another GPU ({place}) than '{system.attending_gpu}', which attends")

    def _check_replicas(self) -> None:
        shape = (len(self.problem.tiers), *self.home.shape)
        if self.replicas.shape != shape or self.replicas.dtype != np.bool_:
            raise PolicyError(f"deploy returned replicas of shape {self.replicas.shape}, not bool [T, L, E] = {shape}")
        if self.replicas[self.problem.gpu_tier_index].any() or np.take_along_axis(self.replicas, self.home[None], 0).any():
            raise PolicyError("deploy put a replica into GPU memory or beside its master copy")

    @property
    def held(self) -> float:
        """GPU bytes of resident experts and of those on their way."""
        return float(self.sums[HELD])

    @held.setter
    def held(self, nbytes: float) -> None:
        self.sums[HELD] = nbytes

    def holds(self, tiers: IntArray, layers: IntArray, experts: IntArray) -> BoolArray:
        """[n] whether each tier has a copy of its expert."""
        masters = self.home[layers, experts] == tiers
        return np.asarray(self.replicas[tiers, layers, experts] | masters | (tiers == self.backup))

    def _host_bytes(self) -> dict[str, float]:
        """Tier -> bytes of master copies, and of what else lies there."""
        host = {}
        for index, tier in enumerate(self.problem.tiers):
            if tier != self.problem.gpu_tier:
                here = self.bytes if index == self.backup else self.bytes[(self.home == index) | self.replicas[index]]
                host[tier] = float(here.sum())
        for tier, shares in self.aside.items():
            host[tier] += sum(shares.values())
        return host

    def _check_start(self) -> None:
        mistakes = []
        if self.fixed + self.held > self.limit * (1 + 1e-12):
            shares = {**self.beside, format_count(int(self.resident.sum()), "resident expert"): self.held}
            mistakes.append(self._too_much(self.problem.gpu_tier, shares))
        for tier, used in self.host.items():
            if used > self.problem.usable(tier) * (1 + 1e-12):
                mistakes.append(self._too_much(tier, self._host_shares(tier)))
        if mistakes:
            raise InputError(*mistakes)

    def _host_shares(self, tier: str) -> dict[str, float]:
        index, aside = self.problem.tiers.index(tier), self.aside.get(tier, {})
        count = self.home.size if index == self.backup else int(((self.home == index) | self.replicas[index]).sum())
        return {format_count(count, "expert"): self.host[tier] - sum(aside.values()), **aside}

    def _too_much(self, tier: str, shares: Mapping[str, float]) -> Mistake:
        there = format_exact(self.problem.usable(tier))
        return Mistake(f"the placement needs {format_sum(shares)} of tier '{tier}', which has {there} to give")

    def levels(self) -> dict[str, float]:
        """Tier -> bytes in it now."""
        return {self.problem.gpu_tier: self.fixed + self.held, **self.host}

    @property
    def free_bytes(self) -> float:
        """Bytes of GPU memory that nothing holds."""
        return self.limit - self.fixed - self.held

    def serving(self, held: BoolArray, layers: IntArray | slice, nbytes: FloatArray | None) -> BoolArray:
        """[V, E] which copies of `held` [V, E] in GPU memory serve visits that ask for `nbytes` [V, E] (None: any)."""
        return held if nbytes is None else held & ~(nbytes > self.copy_bytes[layers])

    def size(self, layer: int | IntArray, experts: IntArray, nbytes: FloatArray | None) -> None:
        """Notes how large the copies are that GPU memory gets."""
        if nbytes is not None:
            self.copy_bytes[layer, experts] = nbytes
            self.mixed = self.mixed or bool((nbytes != self.bytes[layer, experts]).any())
        elif self.mixed:
            self.copy_bytes[layer, experts] = self.bytes[layer, experts]

    def hold(self, layer: int, experts: IntArray) -> None:
        """Takes GPU memory for copies that are to stay."""
        self.held += float(self.copy_bytes[layer, experts].sum())
        self.within()

    def within(self, held: float | None = None) -> None:
        """CapacityError where GPU memory has no room for `held` bytes of experts, or for those that it holds."""
        held = self.held if held is None else held
        used = self.fixed + held
        if used > self.limit * (1 + 1e-12):
            shares = {**self.beside, "resident experts and those on their way": held}
            raise CapacityError(f"{self._too_much(self.problem.gpu_tier, shares)}; the policy must evict first")
        self.peak[self.problem.gpu_tier] = max(self.peak[self.problem.gpu_tier], used)

    def note_fullest(self) -> None:
        """How full GPU memory was while the kernel kept the books."""
        self.within(float(self.sums[FULLEST]))

    def keep(self, layer: int, experts: IntArray, nbytes: FloatArray | None = None) -> None:
        """Makes experts [n] resident that a visit has just uploaded, in copies of `nbytes` [n]; smaller ones are replaced."""
        old = self.resident[layer, experts]
        if nbytes is None:
            experts = experts[~old]
        else:
            self.held -= float(self.copy_bytes[layer, experts[old]].sum())
        self.size(layer, experts, nbytes)
        self.hold(layer, experts)
        self.resident[layer, experts] = True

    def follow(self, resident: BoolArray, gained: FloatArray) -> None:
        """The copies `resident` [L, E] are there after visits that each made GPU memory hold `gained` [V] more bytes."""
        held = self.held + np.cumsum(gained)
        self.within(float(held.max(initial=self.held)))
        self.held = float(held[-1])
        self.resident[:] = resident

    def evict(self, layers: IntArray, experts: IntArray) -> None:
        """Drops copies [n] from GPU memory: the master copies stay, or what leaves is in a slot set aside for it."""
        self.drop(layers * self.resident.shape[1] + experts)

    def drop(self, places: IntArray) -> None:
        """As `evict`, of experts at `places` [n] in [L, E] laid flat."""
        if self._any_pinned and (pinned := self.pinned.ravel()[places]).any():
            layer, expert = divmod(int(places[pinned][0]), self.resident.shape[1])
            raise PolicyError(f"expert {expert} of MoE layer {layer} has no copy outside GPU memory and can't be evicted")
        places, resident = np.sort(places), self.resident.reshape(-1)
        if (places[1:] == places[:-1]).any():
            places = distinct(places)
        places = places[resident[places]]
        resident[places] = False
        self.held -= float(self.copy_bytes.ravel()[places].sum())

    def cancel(self, layers: IntArray, experts: IntArray) -> None:
        """The copies [n] will not be made."""
        self.in_flight[layers, experts] = False
        for nbytes in self.copy_bytes[layers, experts].tolist():
            self.held -= nbytes

    def room(self, tier: int) -> float:
        """Bytes that a host tier has to spare; without end in the backup, which has a copy of everything."""
        name = self.problem.tiers[tier]
        return float("inf") if tier == self.backup else self.problem.usable(name) - self.host[name]

    def reserve(self, tier: int, nbytes: float) -> None:
        """Takes host memory for a copy on its way there."""
        if tier == self.backup:
            return
        name = self.problem.tiers[tier]
        self.host[name] += nbytes
        if self.host[name] > self.problem.usable(name) * (1 + 1e-12):
            cache = sum(self.aside.get(name, {}).values())
            shares = {"experts, those on their way too": self.host[name] - cache, "KV cache": cache}
            raise CapacityError(str(self._too_much(name, shares)))
        self.peak[name] = max(self.peak[name], self.host[name])

    def release(self, tier: int, nbytes: float) -> None:
        """Gives host memory back."""
        if tier == self.backup:
            return
        self.host[self.problem.tiers[tier]] -= nbytes

    def settle(self, layer: int, expert: int, tier: int) -> None:
        """A copy in `tier` is the master from now on; the one that was is given up."""
        self.release(int(self.home[layer, expert]), float(self.bytes[layer, expert]))
        self.replicas[tier, layer, expert] = False
        self.home[layer, expert] = tier

    def retire(self, rows: IntArray) -> None:
        """Gives further copies [n, 3] (layer, expert, tier) up, those that are there."""
        layers, experts, tiers = rows.T
        for layer, expert, tier in rows[self.replicas[tiers, layers, experts]].tolist():
            self.replicas[tier, layer, expert] = False
            self.release(tier, float(self.bytes[layer, expert]))

    def fail(self, tier: int) -> BoolArray:
        """A tier is lost: a replica takes the place of each master there, else the backup. [L, E] those that have no
        replica."""
        lost = self.home == tier
        self.release(tier, float(self.bytes[lost | self.replicas[tier]].sum()))
        self.replicas[tier] = False
        self.down[tier] = True
        spare = lost & self.replicas.any(axis=0)
        self.home[lost] = self.backup
        self.home[spare] = self.replicas.argmax(axis=0)[spare]
        layers, experts = np.nonzero(spare)
        self.replicas[self.home[spare], layers, experts] = False
        return np.asarray(lost & ~spare)
