"""Seconds for an expert, a dense operation or a move of one model on one machine; what policies and the engine share.

Pure and vectorised; knows no clock, no queue and no policy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract.prices import Prices, key_of
from moesim.hardware import Gpu, NearDataUnit, Path, System
from moesim.hardware.device import Phase
from moesim.model import Architecture, Latent
from moesim.runtime import FREE, Calls, Copies, Runtime
from moesim.runtime.gpu import Operation
from moesim.runtime.packed import PackedProducts
from moesim.spec import Same

__all__ = ["Costs", "StepLoad", "costs_of", "first_count"]

_OPERAND_BITS = 16.0
_PINNED = Copies()
"""Copies that nothing slows down."""


class StepLoad(NamedTuple):
    """What else is in a step, as far as it slows attention down; [...] each."""

    sequences: Any = 0
    """Sequences that decode."""
    mixed: Any = False
    """Whether the step holds prompts, too."""
    tokens: Any = 0
    """All tokens of the step."""


def _is_packed(weight_bytes: Any, weights: float) -> Any:
    """Whether `weights` weights of `weight_bytes` [..] take fewer bits than operands do."""
    return 8.0 * np.asarray(weight_bytes, dtype=np.float64) < _OPERAND_BITS * weights


def first_count(better: Callable[[int], bool], limit: int = 1 << 20) -> float:
    """The least count c in 1 .. limit with `better(c)`, which must not turn false again; inf if there is none. By bisection."""
    if not better(limit):
        return float("inf")
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if better(middle) else (middle, high)
    return float(high)


def costs_of(model: Architecture, system: System, runtime: Runtime) -> Costs:
    """`Costs`, shared by all who ask with the same objects: runs of many policies ask for the same durations."""
    return _shared(Same(model), Same(system), Same(runtime))


@lru_cache(maxsize=16)
def _shared(model: Same, system: Same, runtime: Same) -> Costs:
    return Costs(model.spec, system.spec, runtime.spec)


class Costs:
    """Every duration that a policy may ask for. Times are seconds without queueing; arrays broadcast.

    Dense operations include the fixed costs of a call; those of experts depend on how many share a call (`calls`). Arrays that
    answer for dense operations are shared, and not to be written to.
    """

    def __init__(self, model: Architecture, system: System, runtime: Runtime = FREE) -> None:
        self.model = model
        self.runtime = runtime.serving_latents() if isinstance(model.attention, Latent) else runtime
        self.system = self.runtime.over(system)
        self._gpu = self.system.devices[system.attending_gpu]
        self._reach: dict[tuple[str, str], Path] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._prices = Prices()
        """Seconds by device and tokens, which are the same in many steps, many plans and many runs."""
        self._dense = model.experts == 1
        self._bare = False
        """Whether calls cost nothing, even on devices that price them themselves."""

    @cached_property
    def bare(self) -> Costs:
        """The same durations without the fixed costs of calls."""
        packed = self.runtime.gpu.packed
        free = FREE.model_copy(update={"gpu": FREE.gpu.model_copy(update={"packed": packed})}) if packed else FREE
        costs = Costs(self.model, self.system, free)
        costs._bare = True
        return costs

    def calls(self, device: str) -> Calls:
        """What calls to experts on a device cost, and handing over to it."""
        unit = self.system.devices[device]
        calls = self.runtime.calls(unit)
        if self._dense and isinstance(unit, Gpu):
            block = self.runtime.fixed(unit, "dense")
            calls = calls._replace(together=block, apart=block)
        if not self.runtime.one_thread(unit):
            return calls
        return calls._replace(before=self.runtime.calls(self._gpu).apart)

    def path(self, source: str, target: str) -> Path:
        """How the runtime's copies get from one tier to another; found once."""
        key = (source, target)
        if key not in self._paths:
            self._paths[key] = self._copied(*key)
        return self._paths[key]

    def _copied(self, source: str, target: str) -> Path:
        path, is_gpu_memory = self.system.path(source, target), self.system.is_gpu_memory
        if self.runtime.copies == _PINNED or is_gpu_memory(source) or not is_gpu_memory(target):
            return path
        stored = self.system.tiers[source].kind == "nvme"
        return self.runtime.copies.over(path, self._buffer, self.system.resources(), stored=stored)

    @cached_property
    def _buffer(self) -> str:
        """The tier of a staging buffer: the host's main memory."""
        tiers = self.system.host_tiers
        return next((name for name in tiers if self.system.tiers[name].kind == "ddr"), tiers[0])

    def reach(self, device: str, tier: str) -> Path:
        """How a device reads bytes in a tier while it computes on them; found once."""
        key = (device, tier)
        if key not in self._reach:
            self._reach[key] = self.system.reach(device, tier)
        return self._reach[key]

    @cached_property
    def cpu_name(self) -> str | None:
        """The CPU that computes experts: the first of the machine, None without one."""
        return self.system.cpu_names[0] if self.system.cpu_names else None

    @cached_property
    def ndp_of(self) -> dict[str, str]:
        """Tier -> near-data unit inside it."""
        units = {name: self.system.devices[name] for name in self.system.ndp_names}
        return {unit.inside: name for name, unit in units.items() if isinstance(unit, NearDataUnit)}

    @cached_property
    def local_of(self) -> dict[str, str]:
        """Tier -> device that computes experts which live there, and no others: a near-data unit, or a further GPU."""
        return {self.system.gpu_memory[name]: name for name in self.system.further_gpus} | self.ndp_of

    def gpu(self, tokens: Any, weight_bytes: Any = None, *, several: Any = None) -> FloatArray:
        """Time of experts with `tokens` [...] tokens on the GPU that attends, weights in its memory, without launches.

        `several` [...]: whether the step has more than one token, for programs whose kernels differ then; by default where the
        expert has. The only expert of a layer is a dense block, which runs as other dense products do.
        """
        return self._on_its_gpu(self.system.attending_gpu, tokens, weight_bytes, several)

    def _on_its_gpu(self, name: str, tokens: Any, weight_bytes: Any, several: Any = None) -> FloatArray:
        """Time of experts on the GPU `name`, weights in its own memory."""
        gpu: Any = self.system.devices[name]
        t = np.asarray(tokens, dtype=np.float64)
        weights = self.model.expert_bytes if weight_bytes is None else np.asarray(weight_bytes)
        law = self._packed_on(gpu)
        if self._dense:
            time = self._product(gpu, t, self.model.expert_flops, weights, 2 * self.model.token_bytes)
        else:
            time = self._expert(name, tokens, weight_bytes, None)
            if law is not None:
                flops, matrices = self.model.expert_flops, t > 1 if several is None else several
                alone = np.where(t > 0, law.seconds(t, weights, flops, gpu), 0.0)
                own = np.where(matrices, law.expert_seconds(t, weights, flops, gpu), alone)
                time = np.where(_is_packed(weights, flops / 2), own, time)
        return np.where(t > 0, time + self._unpacking(gpu, weights, self.model.expert_flops / 2), time)

    def _product(self, unit: Any, tokens: FloatArray, flops: float, weight_bytes: Any, activations: float) -> FloatArray:
        """Dense work of `tokens` [..] on a device, `flops` and `activations` bytes each, over `weight_bytes` [..]."""
        moved = np.where(tokens > 0, weight_bytes + activations * tokens, 0.0)
        time = np.asarray(unit.gemm_time(flops * tokens, moved), dtype=np.float64)
        law = self._packed_on(unit)
        if law is None:
            return time
        packed = np.where(tokens > 0, law.seconds(tokens, moved, flops, unit), 0.0)
        return np.where(_is_packed(weight_bytes, flops / 2.0), packed, time)

    def _packed_on(self, unit: Any) -> PackedProducts | None:
        """The program's own products of packed weights, where `unit` is a GPU that says what its vector units do."""
        return self.runtime.gpu.packed if isinstance(unit, Gpu) and unit.vector is not None else None

    def _unpacking(self, gpu: Any, weight_bytes: Any, weights: float) -> Any:
        """Seconds to unpack `weights` weights of `weight_bytes` [..] on a GPU, where the program does that apart."""
        moved = self.runtime.gpu.unpack
        if not moved or not weights:
            return 0.0
        seconds = moved * weights / (gpu.own_bandwidth or np.inf) / gpu.gemm.streaming
        return np.where(_is_packed(weight_bytes, weights), seconds, 0.0)

    def dequantise(self, nbytes: float, device: str) -> float:
        """Seconds in which `device` reads an expert of `nbytes` bytes and writes it in the model's precision."""
        size = self.model.expert_bytes
        return (nbytes + size) / self._own_rate(device) if nbytes < size * (1 - 1e-12) else 0.0

    def requantise(self, times: float, device: str) -> float:
        """Seconds in which a token's activations are made `times` smaller on the GPU and whole again on `device`, or back."""
        moved = self.model.expert_token_bytes * (1.0 + 1.0 / times) if times > 1.0 else 0.0
        return moved / self._own_rate(self.system.attending_gpu) + moved / self._own_rate(device)

    def _own_rate(self, device: str) -> float:
        """B/s of the memory of a device."""
        rate = self.system.devices[device].own_bandwidth
        return float("inf") if rate is None else float(rate)

    def cpu(self, tokens: Any, tier: str, weight_bytes: Any = None) -> FloatArray:
        """Time of experts on the CPU with their weights read from `tier`; inf without a CPU or from GPU memory."""
        if self.cpu_name is None or self.system.is_gpu_memory(tier):
            return np.full(np.shape(tokens), np.inf)
        return self._expert(self.cpu_name, tokens, weight_bytes, self.reach(self.cpu_name, tier).rate)

    def local(self, tokens: Any, tier: str, weight_bytes: Any = None) -> FloatArray:
        """Time of experts on the device that works from `tier` alone (`local_of`); inf where there is none."""
        name = self.local_of.get(tier)
        if name is None:
            return np.full(np.shape(tokens), np.inf)
        if isinstance(self.system.devices[name], Gpu):
            return self._on_its_gpu(name, tokens, weight_bytes)
        return self._expert(name, tokens, weight_bytes, None)

    def _expert(self, device: str, tokens: Any, weight_bytes: Any, bandwidth: float | None) -> FloatArray:
        weights = self.model.expert_bytes if weight_bytes is None else weight_bytes
        memory = "its own" if bandwidth is None else bandwidth
        key = "experts", device, key_of(tokens), key_of(weights), memory
        return self._prices.of(key, partial(self._expert_price, device, tokens, weights, bandwidth)).copy()

    def _expert_price(self, device: str, tokens: Any, weights: Any, bandwidth: float | None) -> FloatArray:
        unit = self.system.devices[device]
        time = unit.expert_time(np.asarray(tokens), weights, self.model.expert_flops, bandwidth)
        return np.array(time, dtype=np.float64)

    def copy(self, nbytes: Any, source: str, target: str, pieces: int = 1) -> FloatArray:
        """Time of one copy of `nbytes` [...] bytes alone on its path, in `pieces` equal pieces; 0 within one tier.

        Each piece is a copy of its own, and each chunk of one pays the set-up.
        """
        size = np.asarray(nbytes, dtype=np.float64)
        if source == target:
            return np.zeros_like(size)
        chunks = self.chunks(size, source, target, pieces) / pieces
        return np.asarray(pieces * self.path(source, target).seconds(size / pieces, chunks))

    def joined(self, nbytes: float, source: str, pieces: int = 1) -> float:
        """Seconds that a copy of an expert of `nbytes` bytes to the GPU saves by continuing that of the expert before it."""
        target = self.system.gpu_tier
        if source == target or not self.runtime.copies.adjacent or self.chunks(nbytes, source, target, pieces) > 1:
            return 0.0
        return float(self.copy(nbytes, source, target)) - nbytes / self.path(source, target).rate

    def chunks(self, nbytes: Any, source: str, target: str, pieces: int = 1) -> FloatArray:
        """Chunks [...] in which a copy of `nbytes` [...] bytes crosses: one for each piece where the path has no chunk size."""
        size, chunk = np.asarray(nbytes, dtype=np.float64) / pieces, self.path(source, target).chunk
        return pieces * (np.maximum(np.ceil(size / chunk), 1.0) if chunk else np.ones_like(size))

    def break_even(self, tier: str, *, limit: int = 1 << 20) -> float:
        """Tokens per expert from which uploading from `tier` beats the CPU: smallest c with copy + gpu(c) < cpu(c).

        inf if it never happens up to `limit`.
        """
        upload = float(self.copy(self.model.expert_bytes, tier, self.system.gpu_tier))
        return first_count(lambda c: upload + float(self.gpu(c)) < float(self.cpu(c, tier)), limit)

    def projections(self, device: str, tokens: Any) -> FloatArray:
        """OP0: norm and QKV projection of one layer for `tokens` [...] tokens, weights in the device's own memory."""
        crossing = self.model.token_bytes + self.model.qkv_activation_bytes
        return self._gemm("projections", device, tokens, self.model.qkv_flops, self.model.qkv_bytes, crossing)

    def output(self, device: str, tokens: Any) -> FloatArray:
        """OP2: output projection of one layer."""
        crossing = self.model.core_activation_bytes + self.model.token_bytes
        return self._gemm("output", device, tokens, self.model.output_flops, self.model.output_bytes, crossing)

    def router(self, tokens: Any) -> FloatArray:
        """Norm and router of one MoE layer, on the GPU; 0 where a layer has one expert, which is not a choice."""
        if self._dense:
            return np.zeros(np.shape(tokens))
        time = self._on_gpu("router", tokens, self.model.router_flops, self.model.router_bytes, self.model.token_bytes)
        modules = self.model.experts * self.runtime.gpu.module
        law = None if self._bare else self._packed_on(self._gpu)
        grouping = law.grouping if law is not None and _is_packed(self.model.expert_bytes, self.model.expert_flops / 2) else 0.0
        if not modules and not grouping:
            return time
        number = np.asarray(tokens)
        return np.asarray(time + np.where(number > 0, modules, 0.0) + np.where(number > 1, grouping, 0.0))

    def shared(self, tokens: Any, device: str | None = None) -> FloatArray:
        """Shared experts of one MoE layer, on a device (the GPU that attends); 0 without any."""
        model, device = self.model, device or self.system.attending_gpu
        if not model.shared_bytes:
            return np.zeros(np.shape(tokens))
        return self._gemm("shared", device, tokens, model.shared_flops, model.shared_bytes, 2 * model.token_bytes)

    def dense(self, tokens: Any, device: str | None = None) -> FloatArray:
        """Feed-forward part of one layer without experts, on a device (the GPU that attends)."""
        model, device = self.model, device or self.system.attending_gpu
        return self._gemm("dense", device, tokens, model.dense_flops, model.dense_bytes, 2 * model.token_bytes)

    def head(self, tokens: Any) -> FloatArray:
        """LM head and sampler for `tokens` [...] sampled positions, on the GPU, and what the host does between two steps."""
        time = self._on_gpu("head", tokens, self.model.head_flops, self.model.head_bytes, self.model.token_bytes)
        programs = self.runtime.gpu
        return np.asarray(time + programs.step + programs.request * np.asarray(tokens, dtype=np.float64))

    def core(self, device: str, flops: Any, kv_bytes: Any, phase: Phase, tier: str, load: StepLoad | None = None) -> FloatArray:
        """OP1, seconds [..]: attention core on `device` over a KV cache in `tier`, for `flops` [..] and `kv_bytes` [..].

        The `load` of the step matters where a profile says so.

        The GPU always reads its own memory: a cache in another tier is copied there first, which is not in this time.
        """
        sequences, mixed, tokens = load or StepLoad()
        reach = None if device == self.system.attending_gpu else self.reach(device, tier).rate
        unit = self.system.devices[device]
        time = np.asarray(unit.core_time(flops, kv_bytes, phase, reach), dtype=np.float64)
        if isinstance(unit, Gpu) and phase == "decode":
            time = np.maximum(time, self._latents(kv_bytes))
            time = (time + unit.attention.sequence * np.asarray(sequences)) * np.where(mixed, unit.attention.mixed, 1.0)
        elif isinstance(unit, Gpu):
            time = time + self._scores(flops) + self.runtime.gpu.prompt
        return self._fixed("core", device, time, time > 0, tokens)

    def _latents(self, kv_bytes: Any) -> FloatArray:
        """Seconds to read `kv_bytes` [..] of latents where the program's kernel is slow at it; 0 otherwise."""
        rate = self.runtime.gpu.attention.latent
        slow = rate is not None and isinstance(self.model.attention, Latent)
        return np.asarray(kv_bytes, dtype=np.float64) / rate if slow and rate else np.zeros(np.shape(kv_bytes))

    def _scores(self, flops: Any) -> FloatArray:
        """Seconds to move the scores of prompts of `flops` [..] through GPU memory where the program writes them out."""
        moved, kind = self.runtime.gpu.attention.scores, self.model.attention
        if not moved:
            return np.zeros(np.shape(flops))
        scores = np.asarray(flops, dtype=np.float64) * kind.heads / kind.prefill_flops
        gpu = self.system.gpu
        return np.asarray(moved * scores / (gpu.own_bandwidth or np.inf) / gpu.attention.streaming)

    def _on_gpu(self, operation: Operation, tokens: Any, flops: float, weight_bytes: float, activations: float) -> FloatArray:
        return self._gemm(operation, self.system.attending_gpu, tokens, flops, weight_bytes, activations)

    def _gemm(
        self, operation: Operation, device: str, tokens: Any, flops: float, weight_bytes: float, activations: float
    ) -> FloatArray:
        """Dense work of `flops` and `activations` bytes (in and out) per token over `weight_bytes` of weights."""
        tokens = tokens if isinstance(tokens, int | float) else np.asarray(tokens, dtype=np.float64)
        price = partial(self._priced, operation, device, tokens, flops, weight_bytes, activations)
        return self._prices.of((operation, device, key_of(tokens)), price)

    def _priced(
        self, operation: Operation, device: str, tokens: Any, flops: float, weight_bytes: float, activations: float
    ) -> FloatArray:
        t = np.asarray(tokens, dtype=np.float64)
        if device == self.system.attending_gpu and operation != "head" and not self._bare:
            t = self.runtime.gpu.rows(t)
        time = self._product(self.system.devices[device], t, flops, weight_bytes, activations)
        if device == self.system.attending_gpu:
            time = time + np.where(t > 0, self._unpacking(self._gpu, weight_bytes, flops / 2), 0.0)
        return self._fixed(operation, device, np.asarray(time, dtype=np.float64), t > 0, t)

    def _fixed(self, operation: Operation, device: str, time: FloatArray, called: Any, tokens: Any) -> FloatArray:
        """`time` [..] and the fixed cost of a call where there is one, in a step of `tokens` [..]."""
        if self._bare:
            return time
        unit, limit = self.system.devices[device], self.runtime.gpu.graph_tokens
        fixed: Any = self.runtime.fixed(unit, operation)
        if limit is not None and operation != "head":
            fixed = np.where(np.asarray(tokens) > limit, self.runtime.fixed(unit, operation, captured=False), fixed)
        return np.asarray(time + np.where(called, fixed, 0.0))
