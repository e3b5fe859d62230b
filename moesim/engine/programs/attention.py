"""The non-expert part of a decoder layer: which lanes its micro-batches pass, one after another, and how long that takes.

A chain becomes operations of a program. Knows no routing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray
from moesim.clock import added, to_ps, total
from moesim.contract import BatchPlan, Deployment, Module, PhasePlan, Problem, devices_of
from moesim.contract.costs import StepLoad
from moesim.engine.passes import Part, Work, core_work
from moesim.engine.programs.durations import IntTimes, queue_of, usage_of
from moesim.engine.programs.program import ACTIVATION, DEMAND, Operation, label_of
from moesim.errors import PolicyError
from moesim.hardware.device import Phase

__all__ = [
    "Chain",
    "Chains",
    "Core",
    "Stage",
    "chain_operations",
    "chains_of_pass",
    "cores_of_step",
    "cpu_share",
    "stage_operation",
]


@dataclass(frozen=True)
class Stage:
    """One operation on one lane: `service` [n] ps for each micro-batch, `usage` [resource -> bytes] over all of them."""

    lane: str
    service: IntTimes
    usage: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    cause: str = ""
    """Why its bytes move: `kv` or `activation`."""

    @cached_property
    def total(self) -> int:
        """ps of all micro-batches."""
        return int(total(f"{self.name} on {self.lane}", self.service))


@dataclass(frozen=True)
class Chain:
    """Stages that every micro-batch passes in order, and the KV traffic beside them."""

    stages: tuple[Stage, ...]
    core: int
    """Index of the stage that has to wait for `kv_read`."""
    kv_read: Stage | None = None
    """KV cache of another tier on its way to the GPU; starts with the layer."""
    kv_store: Stage | None = None
    """New KV entries on their way to another tier; each starts when stage 0 is done, and only the layer's end waits."""
    aside: tuple[Stage, ...] = ()
    """Stages of the share of the sequences that attends elsewhere: behind stage 0, before the stage behind the core."""

    def sides(self) -> tuple[Stage, ...]:
        """All stages, those beside the chain included."""
        return tuple(stage for stage in (*self.stages, self.kv_read, self.kv_store, *self.aside) if stage is not None)


Chains = tuple[Chain, ...]
"""What the sequences of a step pass in one decoder layer: one chain, or two side by side."""


def chain_operations(
    chain: Chain, lane: Callable[[str], int], gpu: str, first: int, start: Sequence[int], weights: Sequence[int] = ()
) -> tuple[list[Operation], list[int], list[int]]:
    """A chain as operations numbered from `first` on, after `start` and copies of its weights: (operations, last one of each
    micro-batch, KV stores).

    Stage by stage: a lane that serves first come, first served passes all micro-batches through one stage before the next.
    """
    count = len(chain.stages[0].service)
    operations: list[Operation] = []

    def add(stage: Stage, item: int, after: Sequence[int]) -> int:
        operations.append(stage_operation(stage, item, lane(stage.lane), after, DEMAND if stage.lane == gpu else ACTIVATION))
        return first + len(operations) - 1

    reads = [add(chain.kv_read, item, start) for item in range(count)] if chain.kv_read is not None else []
    ends: list[int] = []
    stores: list[int] = []
    for index, stage in enumerate(chain.stages):
        waits = [
            [*([ends[item]] if index else (*start, *weights)), *(reads[item : item + 1] if index == chain.core else ())]
            for item in range(count)
        ]
        ends = [add(stage, item, waits[item]) for item in range(count)]
        if index == 0 and chain.kv_store is not None:
            stores = [add(chain.kv_store, item, [ends[item]]) for item in range(count)]
    return operations, ends, stores


def stage_operation(stage: Stage, item: int, lane: int, after: Sequence[int], priority: int) -> Operation:
    """A stage for one micro-batch."""
    service = int(stage.service[item])
    share = service / stage.total if stage.total else 0.0
    draws = {resource: nbytes * share for resource, nbytes in stage.usage.items()}
    return Operation(lane, service, after, priority, draws=draws, label=label_of(stage.name))


def chains_of_pass(problem: Problem, deployment: Deployment, sets: Sequence[Sequence[Core]]) -> tuple[list[Chains], list[int]]:
    """The distinct chains of a step with the cores `sets`, and for every decoder layer [D] which of them it passes.

    Layers differ by their attention window and by who attends, so there are few kinds. Where a step holds prompts and decodes,
    both pass one chain whose core takes the sum of both; or each its own, side by side, if their plans name different devices.
    """
    kv_bytes = problem.model.kv_bytes_per_layer
    sizes = [size for cores in sets for core in cores for size in (core.flops, core.kv, core.cached)]
    apart = deployment.plan.homes.apart(len(kv_bytes))
    columns = np.concatenate([*sizes, (kv_bytes > 0)[None, :], apart[None, :]], axis=0).T.copy()
    alike: dict[bytes, int] = {}
    kind = [alike.setdefault(column.tobytes(), len(alike)) for column in columns]
    first = [kind.index(number) for number in range(len(alike))]
    builders = [_Builder(problem, deployment, cores) for cores in sets]
    chains = [tuple(builder.build(layer, float(kv_bytes[layer])) for builder in builders) for layer in first]
    return chains, kind


class Core(NamedTuple):
    """The attention core of the sequences of a step that attend alike: [n, D] by micro-batch and decoder layer."""

    phase: Phase
    plan: PhasePlan
    tokens: IntArray
    """[n] new tokens."""
    flops: FloatArray
    kv: FloatArray
    """Bytes of keys and values that the core reads."""
    cached: FloatArray
    """Those of them that lie in the cache, wherever that is: the earlier parts of prompts, or all that a decode attends to."""


def cores_of_step(problem: Problem, deployment: Deployment, parts: Sequence[Part], work: Sequence[Work]) -> list[list[Core]]:
    """The cores of a step of `parts`, those together that pass the same chain, cut into the same number of micro-batches.

    `work`: what the core of each part does in one piece.
    """
    cores = [_core_of(problem, deployment, part, whole) for part, whole in zip(parts, work, strict=True)]
    if not _alike(cores, deployment.plan):
        return [[core] for core in cores]
    most = max(len(core.tokens) for core in cores)
    return [[Core(core.phase, core.plan, *(_padded(sizes, most) for sizes in core[2:])) for core in cores]]


def _core_of(problem: Problem, deployment: Deployment, part: Part, whole: Work) -> Core:
    model, plan = problem.model, deployment.plan.of(part.phase)
    pieces, work = [part], [whole]
    if len(part.new_tokens) > plan.micro_batch:
        groups = [slice(i, i + plan.micro_batch) for i in range(0, len(part.new_tokens), plan.micro_batch)]
        pieces = [Part(part.phase, part.new_tokens[group], part.before[group]) for group in groups]
        work = [core_work(model, piece) for piece in pieces]
    flops, kv = (np.stack(sizes) for sizes in zip(*work, strict=True))
    cached = kv if part.phase == "decode" else np.stack([model.cached_bytes(piece.before) for piece in pieces])
    tokens = np.array([int(piece.new_tokens.sum()) for piece in pieces], dtype=np.int64)
    return Core(part.phase, plan, tokens, flops, kv, cached)


def _alike(cores: Sequence[Core], plan: BatchPlan) -> bool:
    """Whether all of them pass the same devices, so that one chain serves."""
    ends = (0, cores[0].flops.shape[1] - 1)
    devices = {tuple(devices_of(plan, core.phase, layer) for layer in ends) for core in cores}
    return len(devices) == 1 and not (len(cores) > 1 and any(cpu_share(core.plan) for core in cores))


def cpu_share(plan: PhasePlan) -> float:
    """Share of the sequences whose core runs on the CPU while the others' runs on the GPU."""
    return plan.pipeline.cpu_share if isinstance(plan.pipeline, Module) else 0.0


class _Builder:
    """Builds the chain of a layer from the plan: operations on their devices, transfers where the device changes."""

    def __init__(self, problem: Problem, deployment: Deployment, cores: Sequence[Core]) -> None:
        self.problem, self.deployment, self.plan, self.cores = problem, deployment, cores[0].plan, cores
        self.tokens = _together([core.tokens for core in self.cores])
        self.gpu = problem.system.attending_gpu

    def build(self, layer: int, kv_bytes: float) -> Chain:
        """Chain of a decoder layer in whose cache a token takes `kv_bytes`."""
        tier, aside = self._cache(layer), self._aside(layer)
        left = 1.0 - cpu_share(self.plan) if aside else 1.0
        operations = self._operations(layer, left, tier)
        stages: list[Stage] = []
        here = self.gpu
        core = 0
        crosses = operations[1][0] == self.gpu and tier != self.problem.gpu_tier
        read = self._kv_read(left * _together([core.cached[:, layer] for core in self.cores]), tier) if crosses else None
        for number, (device, seconds, crossing, usage) in enumerate(operations):
            if device != here:
                stages.append(self._transfer(here, device, crossing))
                here = device
            service = to_ps(seconds, f"attention on {device}")
            # what has to wait for the cache, or for what runs aside, can't be merged with what need not
            alone = (number == 1 and read is not None) or (number > 0 and bool(aside))
            if stages and stages[-1].lane == device and not alone:
                service = added("attention", stages[-1].service, service)
                stages[-1] = Stage(device, service, _merged(stages[-1].usage, usage), "attention", "kv")
            else:
                stages.append(Stage(device, service, usage, "attention", "kv"))
            if number == 1:
                core = len(stages) - 1
        if here != self.gpu:
            stages.append(self._transfer(here, self.gpu, self.problem.model.token_bytes))
        stored = self._kv_store(left * kv_bytes, tier) if crosses and kv_bytes else None
        return Chain(tuple(stages), core, read, stored, aside)

    def _operations(self, layer: int, left: float, tier: str) -> list[tuple[str, FloatArray, float, dict[str, float]]]:
        """Projections, core and output of a layer: (device, seconds [n], bytes that reach it per token, what it draws)."""
        model, tokens, costs = self.problem.model, self.tokens, self.problem.costs
        first, attends, last = devices_of(self.deployment.plan, self.cores[0].phase, layer)
        usage = self._core_usage(left * _together([core.kv[:, layer] for core in self.cores]), attends, tier)
        return [
            (first, costs.projections(first, tokens), model.token_bytes, {}),
            (attends, self._core_seconds(layer, left, attends), model.qkv_activation_bytes, usage),
            (last, costs.output(last, tokens), model.core_activation_bytes, {}),
        ]

    def _cache(self, layer: int) -> str:
        """The tier of a layer's KV cache."""
        plan = self.deployment.plan
        return str(plan.homes.attention) if plan.homes.away(layer) else plan.kv

    def _core_seconds(self, layer: int, left: float, device: str) -> FloatArray:
        """[n] time of the core of a layer, prompts and decodes one after another; `left`: the share that is not done aside."""
        costs, tier = self.problem.costs, self.problem.gpu_tier if device == self.gpu else self._cache(layer)
        seconds, mixed = np.zeros(len(self.tokens)), len(self.cores) > 1
        for core in self.cores:
            flops, kv = left * core.flops[:, layer], left * core.kv[:, layer]
            alone = costs.core(device, flops, kv, core.phase, tier, StepLoad(left * core.tokens, mixed, self.tokens))
            seconds += np.where(core.tokens > 0, alone, 0.0)
        return seconds

    def _aside(self, layer: int) -> tuple[Stage, ...]:
        """The CPU's share of decode attention: queries and new entries out, core over the cache where it lies, results back."""
        share, problem, cpu = cpu_share(self.plan), self.problem, self.problem.costs.cpu_name
        only = self.cores[0]
        if not share or only.phase == "prefill":
            return ()
        flops, kv = only.flops[:, layer], only.kv[:, layer]
        if cpu is None or self.plan.core != self.gpu or self.deployment.plan.kv == problem.gpu_tier:
            raise PolicyError("a share of attention goes to the CPU only if there is one, and the KV cache is in host memory")
        model, tokens = problem.model, share * self.tokens
        here, there = problem.gpu_tier, problem.memory_of(cpu)
        seconds = problem.costs.core(cpu, share * flops, share * kv, only.phase, self.deployment.plan.kv)
        usage = usage_of(problem.costs.reach(cpu, self.deployment.plan.kv).usage, share * float(kv.sum()))
        core = Stage(cpu, to_ps(seconds, f"attention on {cpu}"), usage, "attention", "kv")
        out = self._copy(here, there, model.qkv_activation_bytes * tokens, "activations", "activation")
        return out, core, self._copy(there, here, model.core_activation_bytes * tokens, "activations", "activation")

    def _core_usage(self, kv: np.ndarray, device: str, tier: str) -> dict[str, float]:
        """A core off the GPU reads its cache from a tier that others read too."""
        return {} if device == self.gpu else usage_of(self.problem.costs.reach(device, tier).usage, float(kv.sum()))

    def _kv_read(self, cached: np.ndarray, tier: str) -> Stage | None:
        """What a core on the GPU needs of a cache in another tier; whole prompts need nothing."""
        if all(core.phase == "prefill" for core in self.cores) and not cached.any():
            return None
        return self._copy(tier, self.problem.gpu_tier, cached, "read KV", "kv")

    def _kv_store(self, kv_bytes: float, tier: str) -> Stage:
        """New entries made on the GPU; those made where the core runs are there already or came with the QKV transfer."""
        return self._copy(self.problem.gpu_tier, tier, kv_bytes * self.tokens, "store KV", "kv")

    def _transfer(self, source: str, target: str, per_token: float) -> Stage:
        """Activations on their way between the memories that two devices work from."""
        memory_of = self.problem.memory_of
        return self._copy(memory_of(source), memory_of(target), per_token * self.tokens, "activations", "activation")

    def _copy(self, source: str, target: str, nbytes: np.ndarray, name: str, cause: str) -> Stage:
        path = self.problem.costs.path(source, target)
        service = to_ps(self.problem.costs.copy(nbytes, source, target), f"a copy ({name}) from {source} to {target}")
        return Stage(queue_of(path), service, usage_of(path.usage, float(np.sum(nbytes))), name, cause)


def _together(sizes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The sum of arrays of one shape, most often of a single one."""
    return sizes[0] if len(sizes) == 1 else np.sum(sizes, axis=0)


def _merged(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}


def _padded(values: Any, count: int) -> Any:
    """`values` [n, ...] and zeros up to `count` micro-batches."""
    if len(values) == count:
        return values
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), dtype=values.dtype)])
