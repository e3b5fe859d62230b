"""All work of a run, as the bound has to know it: how often each token count per expert was met, and the dense work.

Independent of placement and schedule: equal for all policies that batch alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Problem
from moesim.engine.passes import Pass, core_work
from moesim.engine.programs.gpu_steps import Parts
from moesim.hardware.device import PHASES, Phase

__all__ = ["WorkTally"]


class WorkTally:
    """Sums over passes, by phase."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.counts: dict[str, dict[int, int]] = {}
        """Phase -> tokens per (layer, expert) of a pass -> how often; groups of a pass count together."""
        self.passes: dict[str, int] = {}
        self._known: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
        """What depends on the numbers of tokens that pass and that come out alone."""
        self.dense: dict[str, dict[str, tuple[float, float]]] = {}
        """Phase -> operation -> seconds of all passes if the GPU does it, or the CPU (inf where it can't)."""

    def add(self, step: Pass, computed: IntArray) -> None:
        """Adds one pass, in which experts computed `computed` [L, G, E] tokens."""
        self._enter(step.phase, 1, np.bincount(computed.sum(axis=1).ravel()), self._dense(step))

    def steps(self, phase: Phase, parts: Parts, layers: IntArray, numbers: IntArray) -> None:
        """Adds n steps that go by `phase`; `numbers` [n]: how often experts got so many tokens of a step.

        `layers` [K]: decoder layers of each kind of attention.
        """
        problem, costs = self._problem, self._problem.costs.bare
        work = self._fixed(parts.tokens, parts.sampled)
        here, there = 0.0, 0.0 if costs.cpu_name is not None else float("inf")
        for number, part in enumerate(PHASES):
            sizes = parts.flops[:, number], parts.nbytes[:, number]
            here += float((costs.core(problem.system.gpu_name, *sizes, part, problem.gpu_tier) @ layers).sum())
            if costs.cpu_name is not None:
                by_tier = [costs.core(costs.cpu_name, *sizes, part, tier) @ layers for tier in problem.system.host_tiers]
                there += float(np.min(by_tier, axis=0).sum())
        self._enter(phase, len(parts.tokens), numbers, {**work, "core": (here, there)})

    def _enter(self, phase: Phase, passes: int, numbers: IntArray, dense: dict[str, tuple[float, float]]) -> None:
        self.passes[phase] = self.passes.get(phase, 0) + passes
        into = self.counts.setdefault(phase, {})
        values = np.flatnonzero(numbers)
        for value, number in zip(values.tolist(), numbers[values].tolist(), strict=True):
            if value:
                into[value] = into.get(value, 0) + number
        sums = self.dense.setdefault(phase, {})
        for name, (gpu, cpu) in dense.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + gpu, before[1] + cpu)

    def _dense(self, step: Pass) -> dict[str, tuple[float, float]]:
        """Seconds of each operation outside the experts, the whole pass in one piece, on the GPU and on the CPU."""
        problem, costs = self._problem, self._problem.costs.bare
        key = int(step.new_tokens.sum()), step.sampled
        if key not in self._known:
            self._known[key] = self._fixed(*key)
        if not problem.job.attention:
            return self._known[key]
        gpu, cpu = problem.system.gpu_name, costs.cpu_name
        cores = [(part.phase, core_work(problem.model, part)) for part in step.parts]
        here = sum(float(costs.core(gpu, *work, phase, problem.gpu_tier).sum()) for phase, work in cores)
        there = float("inf")
        if cpu is not None:
            tiers = problem.system.host_tiers
            there = sum(min(float(costs.core(cpu, *work, phase, t).sum()) for t in tiers) for phase, work in cores)
        return {**self._known[key], "core": (here, there)}

    def _fixed(self, tokens: Any, sampled: Any) -> dict[str, tuple[float, float]]:
        """All but the attention core, of one step or of [n]."""

        def total(seconds: FloatArray) -> float:
            return float(np.sum(seconds))

        problem, costs = self._problem, self._problem.costs.bare
        model, layers = problem.model, problem.model.layers
        shared = total(costs.shared(tokens)) * problem.layers
        work = {"shared experts": (shared, float("inf"))} if shared else {}
        if not problem.job.attention:
            return work
        gpu, cpu = problem.system.gpu_name, costs.cpu_name
        only_gpu = total(costs.router(tokens)) * problem.layers + total(costs.head(sampled))
        if model.n_dense:
            only_gpu += total(costs.dense(tokens)) * model.n_dense
        work["router, dense, head"] = (only_gpu, float("inf"))
        for name, cost in (("QKV", costs.projections), ("output", costs.output)):
            there = float("inf") if cpu is None else layers * total(cost(cpu, tokens))
            work[name] = (layers * total(cost(gpu, tokens)), there)
        return work
