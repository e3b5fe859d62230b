"""What each lane of a visit already has to do: the queues that section 3.3 of CXL-Expert weighs an expert against.

Knows one visit; what is weighed how is for `cxl_expert_kernel`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem, View, Visit
from moesim.policies.near_data import cxl_expert_kernel as k
from moesim.policies.near_data.cxl_tiers import cxl_rates

__all__ = ["HelperCosts", "Lanes"]

_EACH, _COMPILING = 5e-6, 1.5
"""Seconds that plain Python takes to weigh an expert, and that compiling takes."""


class HelperCosts(NamedTuple):
    """What a CPU or a near-data unit costs beside the experts' own time, in seconds."""

    fixed: float
    """Once per visit: hand-over, launch of a fused call, set-up of the activations' copies."""
    call: float
    """Per expert, where calls are not fused."""
    token: float
    """Activations of one token there and back."""
    gpu_call: float
    """Per call to the GPU, where the helper's thread launches it."""

    @classmethod
    def of(cls, problem: Problem, name: str, activation_compression: float, *, packed: bool = False) -> HelperCosts:
        """Of device `name`, with activations so many times smaller, which takes time if `packed`."""
        calls, memory = problem.costs.calls(name), problem.memory_of(name)
        ways = problem.costs.path(problem.gpu_tier, memory), problem.costs.path(memory, problem.gpu_tier)
        fixed = calls.hand_over + calls.once + sum(way.setup for way in ways)
        token = problem.model.expert_token_bytes / activation_compression * sum(1.0 / way.rate for way in ways)
        token += 2.0 * problem.costs.requantise(activation_compression if packed else 1.0, name)
        return cls(fixed, calls.per_call, token, calls.before)


class Lanes:
    """Seconds of work by lane, and what each expert would add: the buffers of the kernel for one visit after another."""

    def __init__(self, problem: Problem, costs: dict[int, HelperCosts]) -> None:
        self._problem, self._costs = problem, costs
        self._gpu = problem.costs.calls(problem.system.attending_gpu)
        self._rates = cxl_rates(problem)
        queues = [problem.costs.path(tier, problem.gpu_tier).queue or tier for tier in problem.tiers]
        self._links = list(dict.fromkeys(queues))
        self._link_of: IntArray = np.array([self._links.index(queue) for queue in queues])
        """[T] number of the copy queue of an upload from each tier."""
        self._far: IntArray = np.full(len(queues), -1, dtype=np.int64)
        """[T] number of each tier among those of CXL memory, -1 for others."""
        for number, (tier, _) in enumerate(self._rates):
            self._far[tier] = number
        units = {device: tier for tier, device in problem.ndp_index.items()}
        self._units = [units.get(device, -1) for device in costs]
        self.devices: IntArray = np.array([*costs, problem.attending_index])
        """Device of each helper; the GPU's is last, so that -1 finds it."""
        visits = (1 + int(problem.job.output.max(initial=1))) * problem.layers
        compiled = jit.native(k) if jit.repaid(k, visits * problem.experts * _EACH, _COMPILING) else None
        self._arrays, self._kernel = compiled is not None, compiled or k.PLAIN
        self._shared_of: dict[int, float] = {}
        self._reads_of: dict[int, list[FloatArray]] = {}
        self._fresh: dict[int, Any] = {
            k.AT_HELPER: np.full(problem.experts, -1),
            k.AT_USED: np.zeros(len(costs), dtype=np.int64),
            k.AT_READY: np.array([cost.fixed for cost in costs.values()]),
            k.AT_DRAWN: np.zeros(2 * len(self._rates)),
        }
        """Part of a buffer -> what it begins a visit with."""
        self._lay_out()

    def _lay_out(self) -> None:
        experts, helpers, tiers = self._problem.experts, len(self._costs), len(self._rates)
        sizes = {
            k.AT_ORDER: experts, k.AT_HOME: experts, k.AT_QUEUE: experts, k.AT_COUNTS: experts, k.AT_HELPER: experts,
            k.AT_USED: helpers,
        }  # fmt: skip
        floats = {
            k.AT_READY: helpers, k.AT_CALLS: helpers, k.AT_LINKS: len(self._links), k.AT_DRAWN: 2 * tiers, k.AT_COPY: experts,
            k.AT_GPU: experts, k.AT_BESIDE: helpers * experts, k.AT_READS: tiers * experts,
        }  # fmt: skip
        places = {}
        for start, parts in ((k.M_HEADER, sizes), (k.F_HEADER, floats)):
            at = start
            for part, size in parts.items():
                places[part] = slice(at, at + size)
                at += size
        self._places = places
        ints, reals = places[k.AT_USED].stop, places[k.AT_READS].stop
        self.M: Any = np.zeros(ints, dtype=np.int64) if self._arrays else [0] * ints
        self.F: Any = np.zeros(reals) if self._arrays else [0.0] * reals
        self.M[k.EXPERTS], self.M[k.HELPERS], self.M[k.TIERS] = experts, helpers, tiers
        for part, place in places.items():
            self.M[part] = place.start
        self._put(self.F, k.AT_CALLS, np.array([cost.gpu_call for cost in self._costs.values()]))

    def _put(self, buffer: Any, part: int, values: Any) -> None:
        buffer[self._places[part]] = values if self._arrays else values.ravel().tolist()

    def meet(self, visit: Visit, view: View, here: BoolArray, layer_sizes: FloatArray) -> None:
        """Lanes at the start of a visit whose experts `here` [E] need no upload; `layer_sizes` [L, E] stored bytes."""
        home, F, fresh = view.home[visit.layer], self.F, self._fresh
        ready = here & (visit.counts > 0)
        calls = int(np.count_nonzero(ready))
        resident = float(visit.gpu[ready].sum()) + self._shared(visit.tokens)
        F[k.GPU_READY] = resident + self._gpu.once * min(calls, 1) + self._gpu.per_call * calls
        self._put(self.M, k.AT_HOME, self._far[home])
        self._put(self.M, k.AT_QUEUE, self._link_of[home])
        self._put(self.M, k.AT_COUNTS, visit.counts)
        for part, values in fresh.items():
            self._put(self.M if part in (k.AT_HELPER, k.AT_USED) else F, part, values)
        self._put(F, k.AT_LINKS, np.array([view.backlog.get(link, 0.0) for link in self._links]))
        self._put(F, k.AT_COPY, visit.copy)
        self._put(F, k.AT_GPU, visit.gpu + self._gpu.apart)
        for part, rows in ((k.AT_BESIDE, self._beside(visit, home)), (k.AT_READS, self._reads(visit.layer, layer_sizes))):
            if rows:
                self._put(F, part, rows[0] if len(rows) == 1 else np.concatenate(rows))

    def _shared(self, tokens: int) -> float:
        """Seconds of the shared experts of a visit."""
        if tokens not in self._shared_of:
            self._shared_of[tokens] = float(self._problem.costs.shared(tokens))
        return self._shared_of[tokens]

    def _reads(self, layer: int, layer_sizes: FloatArray) -> list[FloatArray]:
        """[E] seconds that each CXL device takes to give an expert of a layer."""
        if layer not in self._reads_of:
            self._reads_of[layer] = [layer_sizes[layer] / rate for _, rate in self._rates]
        return self._reads_of[layer]

    def _beside(self, visit: Visit, home: IntArray) -> list[FloatArray]:
        """[E] seconds on each helper, activations included; inf where it cannot reach an expert."""
        alone = [visit.cpu if unit < 0 else np.where(home == unit, visit.local, np.inf) for unit in self._units]
        return [time + cost.call + cost.token * visit.counts for time, cost in zip(alone, self._costs.values(), strict=True)]

    def assign(self, missing: IntArray, high: float, low: float) -> IntArray:
        """[E] device of each expert: of those `missing` [n] by the thresholds in tokens and the queues, of others the GPU."""
        at = self._places[k.AT_ORDER].start
        self.M[at : at + len(missing)] = missing if self._arrays else missing.tolist()
        self.M[k.MISSING], self.F[k.HIGH], self.F[k.LOW] = len(missing), high, low
        self._kernel.assign(self.M, self.F)
        return np.asarray(self.devices[self.M[self._places[k.AT_HELPER]]])

    def give(self, expert: int, device: int) -> None:
        """Gives an expert to a device."""
        if device == self._problem.attending_index:
            self._kernel.upload(self.M, self.F, expert)
        else:
            self._kernel.in_place(self.M, self.F, list(self._costs).index(device), expert)

    @property
    def hot(self) -> int:
        """Experts that `assign` has uploaded because no other place would do."""
        return int(self.M[k.HOT])

    @property
    def thawed(self) -> int:
        """Experts in CXL memory that `assign` has uploaded because that ends sooner (rule 2)."""
        return int(self.M[k.THAWED])

    @property
    def next_hot(self) -> tuple[float, float]:
        """(tokens, seconds until the GPU has run them all) of the experts that become hot next as the threshold falls."""
        return float(self.F[k.NEXT_TOKENS]), float(self.F[k.NEXT_UPLOAD])

    @property
    def cold_upload(self) -> float:
        """Seconds until the GPU would have run the first of the cold experts in place, had it been uploaded behind all."""
        return float(self.F[k.COLD_UPLOAD])

    @property
    def ends(self) -> tuple[float, float]:
        """Seconds until (the GPU with its uploads, CPU and near-data units) are done as `assign` has left them."""
        return float(self.F[k.GPU_ENDS]), float(self.F[k.OTHERS_END])

    def sides(self) -> tuple[float, float]:
        """Seconds until (the GPU with its uploads, CPU and near-data units) are done, the CXL devices they read included."""
        self._kernel.sides(self.M, self.F)
        return self.ends
