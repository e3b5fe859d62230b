"""What each kind of operation did: FLOP, bytes and seconds by phase and device, and the roofs of the devices; for rooflines.

Adds up; decides and times nothing. Seconds are those of the cost models, each operation alone on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from moesim.engine.rounds import Pass
from moesim.policies.base import Deployment, FloatArray, IntArray
from moesim.policies.problem import Problem
from moesim.results.recorder import SECOND, Recorder

__all__ = ["ExpertWork", "Operations", "roofs"]

_MANY = 2.0**50
"""FLOP or bytes beside which fixed costs of a kernel do not count."""


class Operations:
    """Enters the work of a run into its breakdown."""

    def __init__(self, problem: Problem, deployment: Deployment, recorder: Recorder) -> None:
        self._problem, self._deployment, self._recorder = problem, deployment, recorder
        self._kept = kept = recorder.breakdown
        self._phase = ""
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

    def experts(self, phase: str, work: ExpertWork) -> None:
        """Adds the experts that a device computed in a pass. Launches and hand-overs are in the time."""
        if work.time:
            flops = work.flops + work.pairs * self._problem.model.expert_flops
            self._kept.operate(phase, work.device, "experts", flops, work.nbytes, work.time / SECOND)


class ExpertWork(NamedTuple):
    """Experts that a device computed: (token, expert) pairs, bytes of weights read, ps, and FLOP of shared experts."""

    device: str
    pairs: int
    nbytes: float
    time: int
    flops: float = 0.0


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
