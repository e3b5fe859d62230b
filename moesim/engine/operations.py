"""What each kind of operation did: FLOP, bytes and seconds by phase and device, and the roofs of the devices; for rooflines.

Adds up; decides and times nothing. Seconds are those of the cost models, each operation alone on its device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.engine.rounds import Pass
from moesim.engine.visits import VisitWork
from moesim.policies.base import BoolArray, Deployment, FloatArray, IntArray
from moesim.policies.problem import Problem
from moesim.results.recorder import SECOND, Recorder

__all__ = ["Operations", "roofs"]

_MANY = 2.0**50
"""FLOP or bytes beside which fixed costs of a kernel do not count."""


@dataclass
class _ExpertSums:
    """Experts of a phase on a device, in whole numbers: no sum depends on how many visits were taken together."""

    pairs: int = 0
    shared: int = 0
    """(token, expert) pairs that went past the shared experts."""
    time: int = 0
    """ps."""
    reads: Counter[float] = field(default_factory=Counter)
    """Bytes -> how often weights of that size were read."""


class Operations:
    """Enters the work of a run into its breakdown."""

    def __init__(self, problem: Problem, deployment: Deployment, recorder: Recorder) -> None:
        self._problem, self._deployment, self._recorder = problem, deployment, recorder
        self._kept = kept = recorder.breakdown
        self._phase = ""
        self._bytes = deployment.expert_bytes
        self._experts: dict[tuple[str, str], _ExpertSums] = {}
        """(phase, device) -> what its experts did."""
        first = float(self._bytes.flat[0])
        self._alike = first if (self._bytes == first).all() else None
        """Bytes of every expert, where all are stored alike."""
        kept.roofs.update(roofs(problem))

    def dense(self, one: Pass) -> None:
        """Everything of a pass outside the routed experts, and the phase for the visits that follow."""
        problem, self._phase = self._problem, one.phase
        if not problem.job.attention:
            return
        model, costs, gpu, layers = problem.model, problem.costs, problem.system.gpu_name, problem.model.layers
        plan = self._deployment.prefill if one.phase == "prefill" else self._deployment.decode
        cuts = np.arange(0, len(one.new_tokens), plan.micro_batch)
        pieces, whole = np.add.reduceat(one.new_tokens, cuts), one.new_tokens.sum(keepdims=True)
        qkv, core_out, hidden = model.qkv_activation_bytes, model.core_activation_bytes, model.token_bytes
        sizes = (model.qkv_flops, model.qkv_bytes, hidden + qkv)
        self._gemm("QKV projection", plan.projections, pieces, layers, sizes, costs.projections)
        sizes = (model.output_flops, model.output_bytes, core_out + hidden)
        self._gemm("output projection", plan.output, pieces, layers, sizes, costs.output)
        self._core(one, plan.core)
        sizes = (model.router_flops, model.router_bytes, hidden)
        self._gemm("router", gpu, whole, problem.layers, sizes, lambda _, tokens: costs.router(tokens))
        if model.n_dense:
            sizes = (model.dense_flops, model.dense_bytes, 2 * hidden)
            self._gemm("dense layers", gpu, whole, model.n_dense, sizes, lambda _, tokens: costs.dense(tokens))
        heads = np.array([len(one.requests)])
        sizes = (model.head_flops, model.head_bytes, hidden)
        self._gemm("LM head", gpu, heads, 1, sizes, lambda _, tokens: costs.head(tokens))

    def _gemm(
        self,
        name: str,
        device: str,
        tokens: IntArray,
        layers: int,
        sizes: tuple[float, float, float],
        seconds: Callable[[str, IntArray], FloatArray],
    ) -> None:
        """Adds `layers` times `tokens` [n] through one projection; `sizes`: FLOP per token, weights, bytes per token."""
        flops, weights, crossing = sizes
        number = float(tokens.sum())
        nbytes = len(tokens) * weights + number * crossing
        taken = float(seconds(device, tokens).sum())
        self._recorder.rounded += layers * len(tokens)
        self._kept.operate(self._phase, device, name, layers * number * flops, layers * nbytes, layers * taken)

    def _core(self, one: Pass, device: str) -> None:
        model, costs, problem = self._problem.model, self._problem.costs, self._problem
        if one.phase == "prefill":
            flops, nbytes = model.core_flops_prefill(one.context), model.core_bytes_prefill(one.context)
        else:
            flops, nbytes = model.core_flops_decode(one.context), model.core_bytes_decode(one.context)
        tier = problem.gpu_tier if device == problem.system.gpu_name else self._deployment.kv
        taken = costs.core(device, flops, nbytes, one.phase, tier)
        self._recorder.rounded += taken.size * (2 if self._deployment.decode.cpu_share else 1)
        self._kept.operate(one.phase, device, "attention core", *(float(part.sum()) for part in (flops, nbytes, taken)))

    def experts(self, work: VisitWork, counts: IntArray, layers: IntArray, asked: FloatArray | None = None) -> None:
        """Adds visits with `counts` [V, E] of MoE layers `layers` [V].

        Each expert reads its weights once: the stored copy, or one of `asked` [V, E] bytes. Launches and hand-overs are in the
        time.
        """
        model, on_gpu = self._problem.model, counts > 0
        self._recorder.rounded += int(np.count_nonzero(on_gpu)) + int(work.uploads.sum()) + len(counts)
        for part in work.sides:
            on_gpu = on_gpu & ~part.runs
            here = self._experts_on(part.side.name)
            here.pairs += int(part.tokens.sum())
            here.time += int(part.work.sum())
            here.reads.update(self._read(part.runs, layers, asked))
        here = self._experts_on(self._problem.system.gpu_name)
        here.pairs += int(work.gpu_tokens.sum())
        here.shared += int(counts.sum())
        here.time += int(work.gpu_first.sum() + work.gpu_after.sum())
        here.reads.update(self._read(on_gpu, layers, asked))
        here.reads.update({model.shared_bytes: len(counts)})

    def _experts_on(self, device: str) -> _ExpertSums:
        return self._experts.setdefault((self._phase, device), _ExpertSums())

    def _read(self, runs: BoolArray, layers: IntArray, asked: FloatArray | None) -> dict[float, int]:
        """Bytes -> how many of the experts `runs` [V, E] are so large."""
        if asked is None and self._alike is not None:
            return {self._alike: int(np.count_nonzero(runs))}
        sizes, numbers = np.unique((self._bytes[layers] if asked is None else asked)[runs], return_counts=True)
        return dict(zip(sizes.tolist(), numbers.tolist(), strict=True))

    def close(self) -> None:
        """Enters the experts at the end of the run."""
        model = self._problem.model
        for (phase, device), sums in self._experts.items():
            flops = sums.pairs * model.expert_flops + sums.shared / model.top_k * model.shared_flops
            nbytes = sum(size * sums.reads[size] for size in sorted(sums.reads))
            if sums.time:
                self._kept.operate(phase, device, "experts", flops, nbytes, sums.time / SECOND)
        self._experts.clear()


def roofs(problem: Problem) -> dict[str, tuple[float, float]]:
    """Device -> the most bytes per second and FLOP per second that any of its cost models reaches on this machine.

    A price per token has no roof of its own; a device that has nothing else is left out.
    """
    system, model = problem.system, problem.model
    found: dict[str, tuple[float, float]] = {}
    for name in problem.devices:
        device: Any = system.devices[name]
        tokens = _MANY / model.expert_flops
        rates = [
            _MANY / float(device.gemm_time(_MANY, 0.0)),
            _MANY / float(device.core_time(_MANY, 0.0, "prefill")),
            _MANY / float(device.expert_time(np.float64(tokens), model.expert_bytes, model.expert_flops)),
        ]
        streams = [_MANY / float(device.gemm_time(0.0, _MANY)), _MANY / float(device.core_time(0.0, _MANY, "decode"))]
        weights = float(device.expert_time(np.float64(1e-9), model.expert_bytes, model.expert_flops))
        if getattr(device.experts, "kind", "") != "per_token" and weights > 0:
            streams.append(model.expert_bytes / weights)
        if all(map(math.isfinite, (max(streams), max(rates)))):
            found[name] = (max(streams), max(rates))
    return found
