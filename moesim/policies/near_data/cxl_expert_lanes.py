"""What each lane of a visit already has to do: the queues that section 3.3 of CXL-Expert weighs an expert against.

Knows one visit; decides no device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray
from moesim.contract import Problem, View, Visit
from moesim.policies.near_data.cxl_tiers import cxl_rates

__all__ = ["HelperCosts", "Lanes"]


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
    def of(cls, problem: Problem, name: str, activation_compression: float) -> HelperCosts:
        """Of device `name`, with activations so many times smaller."""
        calls, memory = problem.costs.calls(name), problem.memory_of(name)
        ways = problem.costs.path(problem.gpu_tier, memory), problem.costs.path(memory, problem.gpu_tier)
        fixed = calls.hand_over + calls.once + sum(way.setup for way in ways)
        token = problem.model.expert_token_bytes / activation_compression * sum(1.0 / way.rate for way in ways)
        return cls(fixed, calls.each, token, calls.before)


@dataclass
class Lanes:
    """Seconds of work by lane, and what each expert would add; lists are [E] by expert id."""

    copy: list[float]
    gpu: list[float]
    beside: dict[int, list[float]]
    """Device beside the GPU -> seconds of each expert out of its home, activations included; inf where it cannot reach it."""
    queue: list[str]
    """Copy queue of an upload from the expert's home."""
    home: list[int]
    reads: dict[int, list[float]]
    """CXL tier -> seconds that a read of each expert keeps the device busy."""
    links: dict[str, float]
    """Copy queue -> seconds until it is empty."""
    ready: dict[int, float]
    """Device -> seconds until it has done what it has been given so far."""
    costs: dict[int, HelperCosts]
    gpu_index: int
    drawn: dict[tuple[bool, int], float] = field(default_factory=dict)
    """(by the GPU, CXL tier) -> seconds of the device that the side draws."""

    @classmethod
    def of(cls, visit: Visit, view: View, here: BoolArray, costs: dict[int, HelperCosts], sizes: FloatArray) -> Lanes:
        """Lanes at the start of a visit whose experts `here` [E] need no upload; `sizes` [E] stored bytes."""
        problem, home, active = view.problem, view.home[visit.layer], visit.counts > 0
        gpu, ready = problem.costs.calls(problem.system.gpu_name), int(np.count_nonzero(here & active))
        resident = float(visit.gpu[here & active].sum()) + float(problem.costs.shared(visit.tokens))
        queues = [problem.costs.path(tier, problem.gpu_tier).queue or tier for tier in problem.tiers]
        return cls(
            copy=visit.copy.tolist(),
            gpu=(visit.gpu + gpu.apart).tolist(),
            beside={device: _beside(visit, view, device, cost).tolist() for device, cost in costs.items()},
            queue=[queues[tier] for tier in home.tolist()],
            home=home.tolist(),
            reads={tier: (sizes / rate).tolist() for tier, rate in cxl_rates(problem)},
            links=dict(view.backlog),
            ready={problem.gpu_index: resident + gpu.once * min(ready, 1) + gpu.each * ready},
            costs=costs,
            gpu_index=problem.gpu_index,
        )

    def upload_ends(self, expert: int) -> float:
        """Seconds until the GPU has run `expert`, uploaded behind what its link already carries."""
        landed = self.links.get(self.queue[expert], 0.0) + self.copy[expert]
        return max(landed, self.ready[self.gpu_index]) + self.gpu[expert]

    def in_place_ends(self, expert: int, device: int) -> float:
        """Seconds until `device` has run `expert` where it lives; inf if it cannot."""
        if device not in self.beside:
            return float("inf")
        return self.ready.get(device, self.costs[device].fixed) + self.beside[device][expert]

    def upload(self, expert: int) -> int:
        """Gives `expert` to the GPU; returns its index."""
        queue = self.queue[expert]
        self.ready[self.gpu_index] = self.upload_ends(expert)
        self.links[queue] = self.links.get(queue, 0.0) + self.copy[expert]
        self._draw(True, expert)
        for device, cost in self.costs.items():
            if cost.gpu_call:
                self.ready[device] = self.ready.get(device, cost.fixed) + cost.gpu_call
        return self.gpu_index

    def in_place(self, expert: int, device: int) -> int:
        """Gives `expert` to `device`; returns its index."""
        self.ready[device] = self.in_place_ends(expert, device)
        self._draw(False, expert)
        return device

    def _draw(self, gpu: bool, expert: int) -> None:
        tier = self.home[expert]
        if tier in self.reads:
            self.drawn[gpu, tier] = self.drawn.get((gpu, tier), 0.0) + self.reads[tier][expert]

    def sides(self) -> tuple[float, float]:
        """Seconds until (the GPU with its uploads, CPU and near-data units) are done, the CXL devices they read included.

        A device is busy for all that both draw from it: where both wait for it they end together.
        """
        gpu = self.ready[self.gpu_index]
        others = max((end for device, end in self.ready.items() if device != self.gpu_index), default=0.0)
        for tier in self.reads:
            mine, theirs = self.drawn.get((True, tier), 0.0), self.drawn.get((False, tier), 0.0)
            gpu, others = max(gpu, mine + theirs if mine else 0.0), max(others, mine + theirs if theirs else 0.0)
        return gpu, others


def _beside(visit: Visit, view: View, device: int, cost: HelperCosts) -> FloatArray:
    """[E] seconds on `device`, activations included."""
    problem = view.problem
    unit = {index: tier for tier, index in problem.ndp_index.items()}.get(device)
    alone = visit.cpu if unit is None else np.where(view.home[visit.layer] == unit, visit.ndp, np.inf)
    return np.asarray(alone + cost.call + cost.token * visit.counts)
