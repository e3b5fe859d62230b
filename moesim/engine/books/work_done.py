"""All work of a run, as the bound has to know it: how often each token count per expert was met, and the dense work.

Independent of placement and schedule: equal for all policies that batch alike, and to the last digit however steps are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.passes import Pass, Work
from moesim.engine.programs.gpu_steps import Parts
from moesim.hardware.device import PHASES, Phase

__all__ = ["WorkTally"]

Exact = tuple[int, int | None]
"""Time on the GPU and on the CPU (None where it can't) in units of 2^-80 s, so that the order of a sum does not matter."""
_HALF = 2.0**40
_MOST = 512
"""Passes that are kept before their dense work is priced, all at once."""


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
        self._waiting: list[tuple[Phase, int, int, list[tuple[Phase, Work]]]] = []
        """Of passes whose dense work is not in the sums yet: phase, tokens that pass and that come out, attention cores."""
        self._sums: dict[str, dict[str, Exact]] = {}
        """Phase -> operation -> time of all passes."""

    def dense(self, phase: str) -> list[tuple[float, float]]:
        """Seconds of each operation in all passes of a phase if the GPU does it, or the CPU (inf where it can't)."""
        self._settle()
        return [(_seconds(gpu), _seconds(cpu)) for gpu, cpu in self._sums[phase].values()]

    def add(self, step: Pass, computed: IntArray, work: Sequence[Work]) -> None:
        """Adds one pass, in which experts computed `computed` [L, G, E] tokens; `work`: of the attention core of each part."""
        self._count(step.phase, 1, np.bincount(computed.sum(axis=1).ravel()))
        cores = [(part.phase, sizes) for part, sizes in zip(step.parts, work, strict=False)]
        self._waiting.append((step.phase, int(step.new_tokens.sum()), step.sampled, cores))
        if len(self._waiting) >= _MOST:
            self._settle()

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
        self._count(phase, len(parts.tokens), numbers)
        self._enter(phase, {**work, "core": (here, there)})

    def _count(self, phase: Phase, passes: int, numbers: IntArray) -> None:
        self.passes[phase] = self.passes.get(phase, 0) + passes
        into = self.counts.setdefault(phase, {})
        values = np.flatnonzero(numbers)
        for value, number in zip(values.tolist(), numbers[values].tolist(), strict=True):
            if value:
                into[value] = into.get(value, 0) + number

    def _enter(self, phase: Phase, dense: dict[str, Exact]) -> None:
        sums = self._sums.setdefault(phase, {})
        for name, (gpu, cpu) in dense.items():
            here, there = sums.get(name, (0, 0))
            sums[name] = (here + gpu, None if there is None or cpu is None else there + cpu)

    def _settle(self) -> None:
        """Prices the dense work of the passes that wait, each in one piece, on the GPU and on the CPU."""
        for phase in dict.fromkeys(phase for phase, *_ in self._waiting):
            tokens, sampled, cores = zip(*(rest for at, *rest in self._waiting if at == phase), strict=True)
            dense = self._fixed(np.array(tokens), np.array(sampled))
            if self._problem.job.attention:
                dense["core"] = self._cores([core for cores_of_pass in cores for core in cores_of_pass])
            self._enter(phase, dense)
        self._waiting.clear()

    def _cores(self, cores: Sequence[tuple[Phase, Work]]) -> Exact:
        """Time of attention cores."""
        problem, costs = self._problem, self._problem.costs.bare
        here, there = 0, 0 if costs.cpu_name is not None else None
        for phase in PHASES:
            sizes = [work for at, work in cores if at == phase]
            if sizes:
                flops, nbytes = (np.stack(column) for column in zip(*sizes, strict=True))
                here += _exact(costs.core(problem.system.attending_gpu, flops, nbytes, phase, problem.gpu_tier))
                there = None if there is None else there + _exact(self._least(flops, nbytes, phase))
        return here, there

    def _least(self, flops: FloatArray, nbytes: FloatArray, phase: Phase) -> FloatArray:
        """Seconds of attention cores on the CPU, each with its cache in the tier that suits it best."""
        costs = self._problem.costs.bare
        cpu = cast("str", costs.cpu_name)
        return np.asarray(
            np.min([costs.core(cpu, flops, nbytes, phase, tier) for tier in self._problem.system.host_tiers], axis=0)
        )

    def _fixed(self, tokens: IntArray, sampled: IntArray) -> dict[str, Exact]:
        """All but the attention core, of n steps of `tokens` [n], of which `sampled` [n] come out."""
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
