"""What each kind of operation did: FLOP, bytes and seconds by phase and device, and the roofs of the devices; for rooflines.

Adds up; decides and times nothing. Times are those of the cost models, each operation alone on its device. All is added up in
whole numbers, so that sums do not depend on the order in which steps are entered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.clock import to_ps
from moesim.contract import Costs, Deployment, Problem, devices_of
from moesim.engine.passes import Pass, Work
from moesim.engine.programs.attention import Core, cpu_share
from moesim.engine.programs.gpu_steps import Parts
from moesim.hardware import Gpu
from moesim.hardware.device import PHASES, Phase
from moesim.results.breakdown import PARTS
from moesim.results.recorder import Recorder
from moesim.spec import Same

__all__ = ["ExpertWork", "Operations", "roofs"]

_MANY = 2.0**50
"""FLOP or bytes beside which fixed costs of a kernel do not count."""
_FEW = 64
"""Numbers of tokens that pass a projection one after another, up to which their time is remembered."""
_KNOWN = 4096
"""Times that are remembered at most."""
_PIECE = 2**32
"""Numbers are added up in two pieces, one of them below this: their sum may exceed an integer of numpy."""


class Operations:
    """Enters the work of a run into its breakdown."""

    def __init__(self, problem: Problem, deployment: Deployment, recorder: Recorder) -> None:
        self._problem, self._deployment, self._recorder = problem, deployment, recorder
        self._kept = breakdown = recorder.breakdown
        self._phase = ""
        self._known: dict[tuple[str, str, bytes], int] = {}
        """ps of projections and the like by what passes them."""
        self._moe = set(problem.model.moe_layers)
        self._dense = set(range(problem.model.layers)) - self._moe - set(problem.model.bare_layers)
        self._who: dict[Phase, list[tuple[tuple[str, str, str], IntArray]]] = {}
        breakdown.roofs.update(roofs(problem))

    def dense(self, step: Pass, sets: Sequence[Sequence[Core]], work: Sequence[Work]) -> None:
        """Everything of a pass with the cores `sets` outside the routed experts, and the phase for the visits that follow.

        `work`: of the attention core of each part of the pass.
        """
        problem, self._phase = self._problem, step.phase
        if not problem.job.attention:
            return
        for cores in sets:
            self._projections(cores[0].phase, np.sum([core.tokens for core in cores], axis=0))
        for part, sizes in zip(step.parts, work, strict=True):
            self._core(part.phase, *sizes)
        self._rest(step.new_tokens.sum(keepdims=True), np.array([step.sampled]))

    def steps(self, phase: Phase, parts: Parts, micro_batches: IntArray, layers: IntArray) -> None:
        """The same of n steps that go by `phase`, in each of which the GPU attends alone.

        `micro_batches`: tokens of all of them. `layers` [K]: decoder layers of each kind of attention.
        """
        self._phase = phase
        self._projections(phase, micro_batches)
        for number, part in enumerate(PHASES):
            there = parts.of_phase[:, number] > 0
            if there.any():
                flops, nbytes = (np.repeat(sums[there, number], layers, axis=1) for sums in (parts.flops, parts.nbytes))
                self._core(part, flops, nbytes)
        self._rest(parts.tokens, parts.sampled)

    def _rest(self, whole: IntArray, sampled: IntArray) -> None:
        """Router, dense layers and head of steps of `whole` [n] tokens, of which `sampled` [n] come out."""
        problem = self._problem
        model, costs, gpu, hidden = problem.model, problem.costs.bare, problem.system.attending_gpu, problem.model.token_bytes
        sampled = sampled[sampled > 0]
        sizes = (model.router_flops, model.router_bytes, hidden)
        self._gemm("router", gpu, whole, problem.layers, sizes, lambda _, tokens: costs.router(tokens))
        homes, moe, dense = self._deployment.plan.homes, self._moe, self._dense
        if dense:
            sizes = (model.dense_flops, model.dense_bytes, 2 * hidden)
            for device, number in self._sharing(dense, apart=homes.dense is not None):
                self._gemm("dense layers", device, whole, number, sizes, lambda unit, tokens: costs.dense(tokens, unit))
        if homes.shares_apart:
            sizes = (model.shared_flops, model.shared_bytes, 2 * hidden)
            for device, number in self._sharing(moe, apart=True):
                self._gemm("shared experts", device, whole, number, sizes, lambda unit, tokens: costs.shared(tokens, unit))
        if len(sampled):
            sizes = (model.head_flops, model.head_bytes, hidden)
            self._gemm("LM head", gpu, sampled, 1, sizes, lambda _, tokens: costs.head(tokens))

    def _sharing(self, layers: set[int], *, apart: bool) -> list[tuple[str, int]]:
        """(device, layers) that compute what follows attention in `layers`; `apart`: that lives where another one attends."""
        homes, gpu = self._deployment.plan.homes, self._problem.system.attending_gpu
        there = sum(homes.away(layer) for layer in layers) if apart and self._phase == "decode" else 0
        shares = [(gpu, len(layers) - there), (homes.attends or gpu, there)]
        return [(device, number) for device, number in shares if number]

    def _layers_of(self, phase: Phase) -> list[tuple[tuple[str, str, str], IntArray]]:
        """Devices of projection, core and output with the decoder layers in which they do it in a step of `phase`."""
        if phase not in self._who:
            of_layer = [devices_of(self._deployment.plan, phase, layer) for layer in range(self._problem.model.layers)]
            distinct = dict.fromkeys(of_layer)
            self._who[phase] = [(devices, np.flatnonzero([devices == there for there in of_layer])) for devices in distinct]
        return self._who[phase]

    def _projections(self, phase: Phase, pieces: IntArray) -> None:
        """Projections around the cores of `pieces` [n] tokens."""
        model, costs = self._problem.model, self._problem.costs.bare
        qkv, core_out, hidden = model.qkv_activation_bytes, model.core_activation_bytes, model.token_bytes
        for (first, _, last), layers in self._layers_of(phase):
            sizes = (model.qkv_flops, model.qkv_bytes, hidden + qkv)
            self._gemm("QKV projection", first, pieces, len(layers), sizes, costs.projections)
            sizes = (model.output_flops, model.output_bytes, core_out + hidden)
            self._gemm("output projection", last, pieces, len(layers), sizes, costs.output)

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
        flops, weights, crossing = map(_parts, sizes)
        number = int(tokens.sum())
        nbytes = len(tokens) * weights + number * crossing
        taken = self._ps(name, device, tokens, seconds)
        self._recorder.rounded += layers * len(tokens)
        self._kept.operate(self._phase, device, name, layers * number * flops, layers * nbytes, layers * taken)

    def _ps(self, name: str, device: str, tokens: IntArray, seconds: Callable[[str, IntArray], FloatArray]) -> int:
        """Time of `tokens` [n] through one projection. That of a few is asked for again and again, that of many steps once."""
        if len(tokens) > _FEW:
            return int(to_ps(seconds(device, tokens), name).sum())
        key = name, device, tokens.tobytes()
        if key not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = int(to_ps(seconds(device, tokens), name).sum())
        return self._known[key]

    def _core(self, phase: Phase, flops: FloatArray, nbytes: FloatArray) -> None:
        """Attention cores of one phase: [.., D] FLOP and bytes."""
        costs, problem, plan = self._problem.costs.bare, self._problem, self._deployment.plan
        for (_, device, _), layers in self._layers_of(phase):
            cache = str(plan.homes.attention) if plan.homes.away(int(layers[0])) else plan.kv
            tier = problem.gpu_tier if device == problem.system.attending_gpu else cache
            work, read = flops[..., layers], nbytes[..., layers]
            taken = costs.core(device, work, read, phase, tier)
            self._recorder.rounded += taken.size * (2 if cpu_share(plan.decode) else 1)
            time = int(to_ps(taken, "attention").sum())
            self._kept.operate(self._phase, device, "attention core", _sum(work), _sum(read), time)

    def experts(self, phase: str, work: ExpertWork) -> None:
        """Adds the experts that a device computed in a pass. Launches and hand-overs are in the time."""
        if work.time:
            flops = work.flops + work.pairs * self._problem.model.expert_flops
            self._kept.operate(phase, work.device, "experts", _parts(flops), _parts(work.nbytes), work.time)


def _parts(value: float) -> int:
    return round(value * PARTS)


def _sum(values: FloatArray) -> int:
    """The sum in `PARTS`, each of the values rounded to one."""
    whole = np.floor(values)
    rest = int(np.rint((values - whole) * PARTS).astype(np.int64).sum())
    high, low = np.divmod(whole.astype(np.int64), _PIECE)
    return (int(high.sum()) * _PIECE + int(low.sum())) * PARTS + rest


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
    return _roofs(problem.costs, Same(problem.system), problem.devices)


@lru_cache(maxsize=16)
def _roofs(costs: Costs, machine: Same, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """The same for all jobs on a machine; not to be written to."""
    system, model = machine.spec, costs.model
    roofs_of: dict[str, tuple[float, float]] = {}
    for name in names:
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
        law = costs.runtime.gpu.packed
        if law is not None and isinstance(device, Gpu) and device.vector is not None:
            rates.append(law.matrix_flops * device.vector)
            streams.append(law.streaming * (device.own_bandwidth or 0.0))
        if all(map(math.isfinite, (max(streams), max(rates)))):
            roofs_of[name] = (max(streams), max(rates))
    return roofs_of
