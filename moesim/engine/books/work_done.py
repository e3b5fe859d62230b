"""All work of a run, as the bound has to know it: how often each token count per expert was met, and the dense work.

Independent of placement and schedule: equal for all policies that batch alike, and to the last digit however steps are added.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.passes import Pass, core_work
from moesim.engine.programs.gpu_steps import Parts
from moesim.hardware.device import PHASES, Phase

__all__ = ["WorkTally"]

Exact = tuple[int, int | None]
"""Time on the GPU and on the CPU (None where it can't) in units of 2^-80 s, so that the order of a sum does not matter."""
_HALF = 2.0**40


def _exact(seconds: ArrayLike) -> int:
    """The sum of `seconds` in units of 2^-80 s, each rounded down to one."""
    scaled = np.atleast_1d(np.asarray(seconds, dtype=np.float64)) * _HALF
    high = np.floor(scaled)
    low = np.floor((scaled - high) * _HALF)
    return (int(high.astype(np.int64).sum()) << 40) + int(low.astype(np.int64).sum())


def _by_kind(seconds: FloatArray, layers: IntArray) -> int:
    """As `_exact`, of [n, K] seconds of one of the `layers` [K] layers of each kind."""
    return sum(number * _exact(of_kind) for number, of_kind in zip(layers.tolist(), seconds.T, strict=True))


def _seconds(exact: int | None) -> float:
    return float("inf") if exact is None else exact / 2**80


class WorkTally:
    """Sums over passes, by phase."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.counts: dict[str, dict[int, int]] = {}
        """Phase -> tokens per (layer, expert) of a pass -> how often; groups of a pass count together."""
        self.passes: dict[str, int] = {}
        self._known: dict[tuple[int, int], dict[str, Exact]] = {}
        """What depends on the numbers of tokens that pass and that come out alone."""
        self._sums: dict[str, dict[str, Exact]] = {}
        """Phase -> operation -> time of all passes."""

    def dense(self, phase: str) -> list[tuple[float, float]]:
        """Seconds of each operation in all passes of a phase if the GPU does it, or the CPU (inf where it can't)."""
        return [(_seconds(gpu), _seconds(cpu)) for gpu, cpu in self._sums[phase].values()]

    def add(self, step: Pass, computed: IntArray) -> None:
        """Adds one pass, in which experts computed `computed` [L, G, E] tokens."""
        self._enter(step.phase, 1, np.bincount(computed.sum(axis=1).ravel()), self._dense(step))

    def steps(self, phase: Phase, parts: Parts, layers: IntArray, numbers: IntArray) -> None:
        """Adds n steps that go by `phase`; `numbers` [n]: how often experts got so many tokens of a step.

        `layers` [K]: decoder layers of each kind of attention.
        """
        problem, costs = self._problem, self._problem.costs.bare
        work = self._fixed(parts.tokens, parts.sampled)
        here, there = 0, 0 if costs.cpu_name is not None else None
        for number, part in enumerate(PHASES):
            sizes = parts.flops[:, number], parts.nbytes[:, number]
            here += _by_kind(costs.core(problem.system.attending_gpu, *sizes, part, problem.gpu_tier), layers)
            if there is not None:
                there += _by_kind(self._least(*sizes, part), layers)
        self._enter(phase, len(parts.tokens), numbers, {**work, "core": (here, there)})

    def _enter(self, phase: Phase, passes: int, numbers: IntArray, dense: dict[str, Exact]) -> None:
        self.passes[phase] = self.passes.get(phase, 0) + passes
        into = self.counts.setdefault(phase, {})
        values = np.flatnonzero(numbers)
        for value, number in zip(values.tolist(), numbers[values].tolist(), strict=True):
            if value:
                into[value] = into.get(value, 0) + number
        sums = self._sums.setdefault(phase, {})
        for name, (gpu, cpu) in dense.items():
            here, there = sums.get(name, (0, 0))
            sums[name] = (here + gpu, None if there is None or cpu is None else there + cpu)

    def _dense(self, step: Pass) -> dict[str, Exact]:
        """Time of each operation outside the experts, the whole pass in one piece, on the GPU and on the CPU."""
        problem, costs = self._problem, self._problem.costs.bare
        key = int(step.new_tokens.sum()), step.sampled
        if key not in self._known:
            self._known[key] = self._fixed(*key)
        if not problem.job.attention:
            return self._known[key]
        gpu, cpu = problem.system.attending_gpu, costs.cpu_name
        cores = [(part.phase, core_work(problem.model, part)) for part in step.parts]
        here = sum(_exact(costs.core(gpu, *work, phase, problem.gpu_tier)) for phase, work in cores)
        there = None if cpu is None else sum(_exact(self._least(*work, phase)) for phase, work in cores)
        return {**self._known[key], "core": (here, there)}

    def _least(self, flops: FloatArray, nbytes: FloatArray, phase: Phase) -> FloatArray:
        """Seconds of attention cores on the CPU, each with its cache in the tier that suits it best."""
        costs = self._problem.costs.bare
        cpu = cast("str", costs.cpu_name)
        return np.asarray(
            np.min([costs.core(cpu, flops, nbytes, phase, tier) for tier in self._problem.system.host_tiers], axis=0)
        )

    def _fixed(self, tokens: Any, sampled: Any) -> dict[str, Exact]:
        """All but the attention core, of one step or of [n]."""
        problem, costs = self._problem, self._problem.costs.bare
        model, layers = problem.model, problem.model.layers
        shared = _exact(costs.shared(tokens)) * problem.layers
        work: dict[str, Exact] = {"shared experts": (shared, None)} if shared else {}
        if not problem.job.attention:
            return work
        gpu, cpu = problem.system.attending_gpu, costs.cpu_name
        only_gpu = _exact(costs.router(tokens)) * problem.layers + _exact(costs.head(sampled))
        if model.n_dense:
            only_gpu += _exact(costs.dense(tokens)) * model.n_dense
        work["router, dense, head"] = (only_gpu, None)
        for name, cost in (("QKV", costs.projections), ("output", costs.output)):
            there = None if cpu is None else layers * _exact(cost(cpu, tokens))
            work[name] = (layers * _exact(cost(gpu, tokens)), there)
        return work
