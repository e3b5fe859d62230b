"""The least time of one visit, over all ways to share its experts among the devices, with residents given: exact search.

Knows times of one visit and the machine's crossings; decides nothing about residence. Times in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Deployment, Problem, View, Visit
from moesim.hardware import Path

__all__ = ["Layer", "Machine", "least"]

_SLACK = 1e-12
"""Seconds by which a choice must be better to count as better: the clock's tick."""


@dataclass(frozen=True)
class _Side:
    """A device beside the GPU."""

    index: int
    fixed: float
    """Seconds per visit in which it computes anything."""
    per_call: float
    """Seconds per expert beyond its own time."""
    out: Path
    back: Path
    tier: int
    """Tier that it computes from; -1 for any host tier."""


class Machine:
    """What does not change from visit to visit."""

    def __init__(self, problem: Problem, deployment: Deployment) -> None:
        self.gpu = problem.attending_index
        self.calls = problem.costs.calls(problem.system.attending_gpu)
        self.shared = problem.costs.shared if problem.model.shared_bytes else None
        self.staging = max(deployment.plan.staging, 1)
        self.token_bytes = problem.model.expert_token_bytes / deployment.activation_compression
        self.id_bytes = 4.0 * problem.model.top_k
        costs = problem.costs
        self.down = costs.path(problem.gpu_tier, problem.main_memory) if problem.system.host_tiers else None
        self.ends, self.floors = 0.0, 0.0
        """Seconds of all visits as chosen, and the seconds that no choice goes below as far as the searches have proven."""
        tier_of = {device: tier for tier, device in problem.ndp_index.items()}
        self.sides = [
            self._side(problem, index, tier_of.get(index, -1))
            for index in range(len(problem.devices))
            if index in tier_of or index == problem.cpu_index
        ]

    def _side(self, problem: Problem, index: int, tier: int) -> _Side:
        name = problem.devices[index]
        calls, memory = problem.costs.calls(name), problem.memory_of(name)
        out, back = problem.costs.path(problem.gpu_tier, memory), problem.costs.path(memory, problem.gpu_tier)
        return _Side(index, calls.hand_over + calls.once, calls.per_call, out, back, tier)


class Layer:
    """One visit: its n active experts, longest first, and the end of any choice of devices for them.

    Uploads follow each other in Johnson's order (best for two machines in a row), beside what the GPU holds; the sides get
    their activations one after another and send results back over the way of the uploads, ahead of the next copy. That
    is what the engine does where no flow shares its bandwidth with another.
    """

    def __init__(self, machine: Machine, visit: Visit, view: View) -> None:
        self._machine, self._tokens = machine, visit.tokens
        active = np.flatnonzero(visit.counts)
        copy = np.where(visit.resident, 0.0, visit.copy)[active]
        home = view.home[visit.layer, active]
        columns = [visit.gpu[active]]
        for side in machine.sides:
            alone = visit.cpu[active] if side.tier < 0 else np.where(home == side.tier, visit.local[active], np.inf)
            columns.append(alone + side.per_call)
        times = np.stack(columns, axis=1)
        longest = np.argsort(-np.min(times + np.pad(copy[:, None], ((0, 0), (0, len(columns) - 1))), axis=1), kind="stable")
        self.experts = active[longest]
        """[n] ids."""
        self.times = times[longest]
        """[n, 1 + sides] seconds of each expert on the GPU (weights there) and on each side; inf where it can't."""
        self.copy: FloatArray = copy[longest]
        """[n] seconds of its upload, 0 for residents."""
        self.counts = visit.counts[self.experts].tolist()
        self._rows, self._copies = self.times.tolist(), self.copy.tolist()
        self._held = view.resident[visit.layer, self.experts].tolist()
        gpu = self.times[:, 0]
        first = self.copy <= gpu
        self.johnson: list[int] = np.lexsort((np.where(first, self.copy, -gpu), ~first)).tolist()
        """[n] order of uploads: copies that are shorter than their GPU time, shortest first, then longest GPU time first."""
        self.shared = float(machine.shared(visit.tokens)) if machine.shared is not None else 0.0
        self._known = float(machine.down.seconds(visit.tokens * machine.id_bytes)) if machine.down is not None else 0.0

    def devices(self, where: Sequence[int]) -> list[int]:
        """[n] device indices of columns of `times`."""
        names = [self._machine.gpu, *(side.index for side in self._machine.sides)]
        return [names[column] for column in where]

    def end(self, where: Sequence[int]) -> float:
        """Seconds until every expert is done, `where` [n] being columns of `times`."""
        machine = self._machine
        held = [self._rows[i][0] for i, column in enumerate(where) if column == 0 and self._held[i]]
        gpu = self.shared + sum(held) + (machine.calls.once if held else 0.0) + machine.calls.per_call * len(held)
        uploads = [i for i in self.johnson if where[i] == 0 and not self._held[i]]
        results = self._results(where)
        free = self._known if uploads or results else 0.0
        end, computed = gpu, [0.0] * len(uploads)
        for number, i in enumerate(uploads):
            start = free if number < machine.staging else max(free, computed[number - machine.staging])
            while results and results[0][0] <= start:
                free = max(free, results[0][0]) + results.pop(0)[1]
                end, start = max(end, free), max(start, free)
            free = start + self._copies[i]
            computed[number] = gpu = max(gpu, free) + self._rows[i][0] + machine.calls.apart
        for ready, back in results:
            free = max(free, ready) + back
            end = max(end, free)
        return float(max(end, gpu))

    def _results(self, where: Sequence[int]) -> list[tuple[float, float]]:
        """(when a side is done, seconds that its results take back), in that order."""
        done, sent = [], self._known
        for column, side in enumerate(self._machine.sides, start=1):
            mine = [i for i, chosen in enumerate(where) if chosen == column]
            if mine:
                nbytes = min(sum(self.counts[i] for i in mine), self._tokens) * self._machine.token_bytes
                sent += float(side.out.seconds(nbytes))
                done.append((sent + side.fixed + sum(self._rows[i][column] for i in mine), float(side.back.seconds(nbytes))))
        return sorted(done)

    def floor(self, gpu: float, copies: float, sides: Sequence[float]) -> float:
        """No choice ends sooner than this, which has given `gpu` and `copies` seconds to the GPU and its link, and so on."""
        machine = self._machine
        end = self.shared + gpu
        if copies:
            end = max(end, self._known + copies)
        for side, work in zip(machine.sides, sides, strict=True):
            if work:
                end = max(end, self._known + side.fixed + work)
        return end


def least(layer: Layer, starts: Sequence[Sequence[int]], nodes: int) -> tuple[list[int], float]:
    """(columns [n] with the earliest end, seconds below which no choice ends), by branch and bound from the best of `starts`.

    Experts that are alike (same times, same copy) take columns in falling order, which spares permutations of them. At most
    `nodes` partial choices are looked at; where that was enough, the second number is the end of the first.
    """
    best = min(starts, key=layer.end)
    search = _Search(layer, list(best), layer.end(best), nodes)
    search.branch(0, 0.0, 0.0, [0.0] * (layer.times.shape[1] - 1))
    return search.best, min(search.end, search.open)


class _Search:
    """Depth first, the soonest column first."""

    def __init__(self, layer: Layer, best: list[int], end: float, nodes: int) -> None:
        self.layer, self.best, self.end, self.left = layer, best, end, nodes
        self._rows, self._copies = layer.times.tolist(), layer.copy.tolist()
        self._alike = [
            i > 0 and self._rows[i] == self._rows[i - 1] and self._copies[i] == self._copies[i - 1]
            for i in range(len(self._rows))
        ]
        self._chosen = [0] * len(self._rows)
        self._rest = np.append(np.cumsum(layer.times.min(axis=1)[::-1])[::-1], 0.0).tolist()
        """[n + 1] least seconds of work, on whatever device, of expert i and those after it."""
        self.open = np.inf
        """No choice that was left unseen ends sooner than this."""

    def branch(self, i: int, gpu: float, copies: float, sides: list[float]) -> None:
        """Tries every column for expert `i` and those after it."""
        if i == len(self._rows):
            end = self.layer.end(self._chosen)
            if end < self.end - _SLACK:
                self.best, self.end = self._chosen.copy(), end
            return
        row = self._rows[i]
        highest = self._chosen[i - 1] if self._alike[i] else len(row) - 1
        for column in range(min(highest, len(row) - 1), -1, -1):
            if row[column] == np.inf:
                continue
            if self.left <= 0:
                even = (gpu + sum(sides) + self._rest[i]) / len(row)  # all lanes busy to the end
                self.open = min(self.open, max(self.layer.floor(gpu, copies, sides), even))
                return
            self.left -= 1
            more = sides.copy()
            if column:
                more[column - 1] += row[column]
            g, c = (gpu, copies) if column else (gpu + row[0], copies + self._copies[i])
            if self.layer.floor(g, c, more) < self.end - _SLACK:
                self._chosen[i] = column
                self.branch(i + 1, g, c, more)
