"""Experts striped over memory modules or confined to one: which is which, and who computes whom where modules compute, too.

Knows homes, times and loads of one layer; moves nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem
from moesim.hardware.memory import Interleaved
from moesim.policies.near_data.units import near_data_tiers

__all__ = ["Layout", "Modules", "modules_of", "shared_out"]

_MOST_MOVES = 16
"""Moves off the busiest device that `shared_out` tries at most."""


class Modules(NamedTuple):
    """The memory of a machine whose modules compute."""

    tiers: IntArray
    """[U] tier of each module with a unit inside."""
    units: IntArray
    """[U] device index of its unit."""
    striped: int
    """Tier that is striped over the modules; -1 without one: then all experts are confined."""


def modules_of(problem: Problem) -> Modules:
    """Tiers with near-data units, and the set of tiers that consists of them; InputError without a unit."""
    names, striped = near_data_tiers(problem), -1
    for index, name in enumerate(problem.tiers):
        tier = problem.system.tiers[name]
        if isinstance(tier, Interleaved) and set(tier.of) <= set(names):
            striped = index
    tiers = [problem.tiers.index(name) for name in names]
    return Modules(np.array(tiers), np.array([problem.ndp_index[tier] for tier in tiers]), striped)


class Layout:
    """Which experts of a layer are striped, and which module holds each of the others."""

    def __init__(self, problem: Problem, modules: Modules) -> None:
        self._problem, self._modules = problem, modules
        self._cpu_tier = problem.tiers[modules.striped if modules.striped >= 0 else modules.tiers[0]]
        self._unit_tier = problem.tiers[modules.tiers[0]]

    def times(self, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        """([E] seconds on the CPU from all modules, [E] seconds on one unit) of experts with `tokens` [E]."""
        costs = self._problem.costs
        return costs.cpu(tokens, self._cpu_tier), costs.local(tokens, self._unit_tier)

    def cold(self, tokens: FloatArray, apart: BoolArray) -> BoolArray:
        """[E] the experts with fewest tokens, so many that units and CPU would end together; none of those `apart`.

        Inferred: the limit between warm and cold, which the source does not give.
        """
        cpu, unit = self.times(np.maximum(tokens, 1.0))
        order = np.argsort(np.where(apart, np.inf, tokens), kind="stable")[: int(np.count_nonzero(~apart))]
        units_end = np.cumsum(unit[order]) / len(self._modules.units)
        cpu_end = cpu[order].sum() - np.cumsum(cpu[order])
        cold = np.zeros(len(tokens), dtype=np.bool_)
        cold[order[: int(np.searchsorted(units_end - cpu_end, 0.0)) + 1]] = True
        return cold

    def homes(self, tokens: FloatArray, apart: BoolArray) -> IntArray:
        """[E] tier of each expert: cold ones on the modules in turn, most tokens first, the others striped."""
        cold = self.cold(tokens, apart) if self._modules.striped >= 0 else np.ones(len(tokens), dtype=np.bool_)
        home = np.full(len(tokens), self._modules.striped, dtype=np.int64)
        order = np.flatnonzero(cold)[np.argsort(-tokens[cold], kind="stable")]
        turns = np.arange(len(order)) % (2 * len(self._modules.tiers))
        # there and back again, so that no module gets the larger one of every turn
        home[order] = self._modules.tiers[np.minimum(turns, 2 * len(self._modules.tiers) - 1 - turns)]
        return home

    def changes(self, tokens: FloatArray, apart: BoolArray, home: IntArray, margin: float, limit: int) -> IntArray:
        """[n, 2] (expert, tier): at most `limit` changes of layout, then of module, that `tokens` [E] ask for.

        An expert becomes striped, or confined to the module with least work, when its tokens pass the limit between cold and
        warm by `margin`; the module with most work gives an expert to the one with least if that lowers the larger of both.
        """
        cold = self.cold(tokens, apart)
        border = float(tokens[cold].max()) if cold.any() else 0.0
        striped = home == self._modules.striped
        warm = ~apart & ~striped & (tokens > (1.0 + margin) * border)
        confine = ~apart & striped & (tokens * (1.0 + margin) < border)
        loads, unit = self._loads(tokens, home, apart), self.times(np.maximum(tokens, 1.0))[1]
        moves: list[tuple[int, int]] = []
        for expert in np.argsort(-np.abs(tokens - border), kind="stable").tolist():
            if len(moves) == limit:
                break
            if warm[expert]:
                moves.append((expert, self._modules.striped))
            elif confine[expert]:
                least = int(loads.argmin())
                loads[least] += unit[expert]
                moves.append((expert, int(self._modules.tiers[least])))
        if len(moves) < limit:
            moves += self._balanced(loads, unit, home, apart, margin)
        return np.array(moves, dtype=np.int64).reshape(-1, 2)

    def _loads(self, tokens: FloatArray, home: IntArray, apart: BoolArray) -> FloatArray:
        """[U] seconds that each unit would take for the experts that it holds."""
        unit = np.where(apart, 0.0, self.times(np.maximum(tokens, 1.0))[1])
        return np.array([unit[home == tier].sum() for tier in self._modules.tiers])

    def _balanced(
        self, loads: FloatArray, unit: FloatArray, home: IntArray, apart: BoolArray, margin: float
    ) -> list[tuple[int, int]]:
        most, least = int(loads.argmax()), int(loads.argmin())
        held = np.flatnonzero((home == self._modules.tiers[most]) & ~apart)
        gap = loads[most] - loads[least]
        fitting = held[unit[held] * (1.0 + margin) < gap]
        if not len(fitting):
            return []
        best = fitting[np.argmin(np.abs(unit[fitting] - gap / 2.0))]
        return [(int(best), int(self._modules.tiers[least]))]


def shared_out(times: FloatArray, reads: FloatArray, hosts: int, *, refine: bool) -> IntArray:
    """[n] column of `times` [n, D] that computes each expert, most tokens first; inf where it cannot.

    The first `hosts` columns read weights from the modules, which are the others: `reads` [n, hosts, D] are seconds for which
    that keeps each column. Experts go where their own column ends first; then (`refine`) the expert leaves the busiest column,
    reads included, whose move brings the end forward most, until none does.
    Source: TriMoE, arXiv:2603.01058 (greedy, then bottleneck-aware refinement). Inferred: the order of moves, their number.
    """
    jobs, columns = times.shape
    loads, chosen = [0.0] * columns, np.zeros(jobs, dtype=np.int64)
    for job, row in enumerate(times.tolist()):
        ends = [load + time for load, time in zip(loads, row, strict=True)]
        best = min(range(columns), key=ends.__getitem__)
        loads[best], chosen[job] = ends[best], best
    if not refine:
        return chosen
    every, own = np.arange(jobs), np.arange(columns)
    parts = np.zeros((jobs, columns, columns))
    parts[:, own, own] = times
    parts[:, :hosts] += reads
    parts[np.isinf(times)] = np.inf
    for _ in range(_MOST_MOVES):
        busy = parts[every, chosen].sum(axis=0)
        moving = np.flatnonzero(parts[every, chosen, int(busy.argmax())] > 0.0)
        ends = (busy - parts[moving, chosen[moving]])[:, None] + parts[moving]
        worst = ends.max(axis=2)
        best = int(worst.argmin())
        if not worst.ravel()[best] < busy.max() * (1.0 - 1e-9):
            break
        chosen[moving[best // columns]] = best % columns
    return chosen
