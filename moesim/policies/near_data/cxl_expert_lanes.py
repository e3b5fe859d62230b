"""What each lane of a visit already has to do: the queues that section 3.3 of CXL-Expert weighs an expert against.

Knows visits, one or all of a pass; what is weighed how is for `cxl_expert_kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moesim import jit
from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem, View, Visit
from moesim.policies.near_data import cxl_expert_kernel as k
from moesim.policies.near_data.cxl_tiers import cxl_rates

__all__ = ["HelperCosts", "Lanes"]

_EACH, _COMPILING = 5e-6, 2.0
"""Seconds that plain Python takes to weigh an expert, and that compiling takes."""
_INTS = (k.AT_ORDER, k.AT_HELPER, k.AT_USED, k.AT_HOME, k.AT_QUEUE, k.AT_COUNTS)
"""Parts of `M`; the others are of `F`."""


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
    """Seconds of work by lane, and what each expert would add: the buffers of the kernel, for visits shown together."""

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
        visits = problem.least_visits
        compiled = jit.native(k) if jit.repaid(k, visits * problem.experts * _EACH, _COMPILING) else None
        self.arrays, self._kernel = compiled is not None, compiled or k.PLAIN
        """Whether the kernel is compiled, so that its buffers are arrays."""
        self._shared_of: dict[int, float] = {}
        self._rows = 0
        """Visits that there is room for."""

    def _lay_out(self, rows: int) -> None:
        """Makes room for the numbers of so many visits."""
        experts, helpers, tiers = self._problem.experts, len(self._costs), len(self._rates)
        sizes = {k.AT_ORDER: experts, k.AT_HELPER: experts, k.AT_USED: helpers}
        floats = {k.AT_FIXED: helpers, k.AT_READY: helpers, k.AT_CALLS: helpers}
        floats |= {k.AT_LINKS: len(self._links), k.AT_DRAWN: 2 * tiers}
        widths = dict.fromkeys((k.AT_HOME, k.AT_QUEUE, k.AT_COUNTS, k.AT_COPY, k.AT_GPU), experts)
        widths |= {k.AT_BESIDE: helpers * experts, k.AT_READS: tiers * experts, k.AT_BEGIN: 1}
        for part, width in widths.items():
            (sizes if part <= k.AT_COUNTS else floats)[part] = rows * width
        places, ends = {}, {}
        for start, parts in ((k.M_HEADER, sizes), (k.F_HEADER, floats)):
            at = start
            for part, size in parts.items():
                places[part] = slice(at, at + size)
                at += size
            ends[start] = at
        self._places, self._rows = places, rows
        ints, reals = ends[k.M_HEADER], ends[k.F_HEADER]
        self.M: Any = np.zeros(ints, dtype=np.int64) if self.arrays else [0] * ints
        self.F: Any = np.zeros(reals) if self.arrays else [0.0] * reals
        self.M[k.EXPERTS], self.M[k.HELPERS], self.M[k.TIERS] = experts, helpers, tiers
        for part, place in places.items():
            self.M[part] = place.start
        for part, width in widths.items():
            self.M[part + k.PARTS], self.M[part + 2 * k.PARTS] = places[part].start, width
        self._put(k.AT_FIXED, np.array([cost.fixed for cost in self._costs.values()]))
        self._put(k.AT_CALLS, np.array([cost.gpu_call for cost in self._costs.values()]))

    def _put(self, part: int, values: Any) -> None:
        """Writes the first numbers of a part."""
        buffer, start = self.M if part in _INTS else self.F, self._places[part].start
        buffer[start : start + values.size] = values.ravel() if self.arrays else values.ravel().tolist()

    def show(self, visits: Visit, view: View, here: BoolArray, sizes: FloatArray) -> None:
        """A visit, or all V of a pass, whose experts `here` [..., E] need no upload; `sizes` [L, E] stored bytes."""
        layers, home = visits.layer, view.home[visits.layer]
        rows = 1 if home.ndim == 1 else len(home)
        if rows > self._rows:
            self._lay_out(rows)
        self._put(k.AT_HOME, self._far[home])
        self._put(k.AT_QUEUE, self._link_of[home])
        self._put(k.AT_COUNTS, visits.counts)
        self._put(k.AT_COPY, visits.copy)
        self._put(k.AT_GPU, visits.gpu + self._gpu.apart)
        self._put(k.AT_BEGIN, self._resident(visits, here & (visits.counts > 0)))
        if self._costs:
            self._put(k.AT_BESIDE, np.stack(self._beside(visits, home), axis=-2))
        if self._rates:
            self._put(k.AT_READS, np.stack([sizes[layers] / rate for _, rate in self._rates], axis=-2))

    def _resident(self, visits: Visit, ready: BoolArray) -> FloatArray:
        """[V] seconds of the GPU for the experts that are `ready` [..., E], and for shared ones."""
        rows = ready.reshape(-1, ready.shape[-1])
        pairs = zip(visits.gpu.reshape(rows.shape), rows, strict=True)
        seconds = np.array([float(gpu[mask].sum()) for gpu, mask in pairs])
        seconds += [self._shared(tokens) for tokens in np.atleast_1d(visits.tokens).tolist()]
        calls = np.count_nonzero(rows, axis=1)
        seconds += self._gpu.once * np.minimum(calls, 1)
        seconds += self._gpu.per_call * calls
        return seconds

    def meet(self, row: int, backlog: Mapping[str, float]) -> None:
        """Turns to visit number `row` of those shown, with so many seconds of work in copy queues."""
        self.queue(backlog)
        self._kernel.meet(self.M, self.F, row)

    def queue(self, backlog: Mapping[str, float]) -> None:
        """Links have so many seconds of work already."""
        place = self._places[k.AT_LINKS]
        self.F[place] = [backlog.get(link, 0.0) for link in self._links]

    def _shared(self, tokens: int) -> float:
        """Seconds of the shared experts of a visit."""
        if tokens not in self._shared_of:
            self._shared_of[tokens] = float(self._problem.costs.shared(tokens))
        return self._shared_of[tokens]

    def _beside(self, visits: Visit, home: IntArray) -> list[FloatArray]:
        """[..., E] seconds on each helper, activations included; inf where it cannot reach an expert."""
        alone = [visits.cpu if unit < 0 else np.where(home == unit, visits.local, np.inf) for unit in self._units]
        return [time + cost.call + cost.token * visits.counts for time, cost in zip(alone, self._costs.values(), strict=True)]

    def assign(self, missing: IntArray, high: float, low: float) -> IntArray:
        """[E] device of each expert: of those `missing` [n] by the thresholds in tokens and the queues, of others the GPU."""
        at = self._places[k.AT_ORDER].start
        self.M[at : at + len(missing)] = missing if self.arrays else missing.tolist()
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
