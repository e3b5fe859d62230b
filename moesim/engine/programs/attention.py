"""The non-expert part of a decoder layer: which lanes its micro-batches pass, one after another, and how long that takes.

A chain becomes operations of a program. Knows no routing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.clock import added, to_ps, total
from moesim.contract import Deployment, Module, PhasePlan, Problem
from moesim.contract.costs import StepLoad
from moesim.engine.passes import Part, Pass
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

    Layers differ only by their attention window, so there are one or two kinds. Where a step holds prompts and decodes, both
    pass one chain whose core takes the sum of both; or each its own, side by side, if their plans name different devices.
    """
    kv_bytes = problem.model.kv_bytes_per_layer
    sizes = [size for cores in sets for core in cores for size in (core.flops, core.kv, core.cached)]
    columns = np.concatenate([*sizes, (kv_bytes > 0)[None, :]], axis=0).T.copy()
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


def cores_of_step(problem: Problem, deployment: Deployment, step: Pass) -> list[list[Core]]:
    """The cores of a step, those together that pass the same chain, cut into the same number of micro-batches."""
    cores = [_core_of(problem, deployment, part) for part in step.parts]
    if not _alike(cores):
        return [[core] for core in cores]
    most = max(len(core.tokens) for core in cores)
    return [[Core(core.phase, core.plan, *(_padded(sizes, most) for sizes in core[2:])) for core in cores]]


def _core_of(problem: Problem, deployment: Deployment, part: Part) -> Core:
    model, plan = problem.model, deployment.plan.of(part.phase)
    groups = [slice(i, i + plan.micro_batch) for i in range(0, len(part.new_tokens), plan.micro_batch)]
    if part.phase == "prefill":
        flops = [model.core_flops_prefill(part.new_tokens[g], part.before[g]) for g in groups]
        kv = [model.core_bytes_prefill(part.new_tokens[g], part.before[g]) for g in groups]
        cached = [model.cached_bytes(part.before[g]) for g in groups]
    else:
        flops = [model.core_flops_decode(part.context[g]) for g in groups]
        cached = kv = [model.core_bytes_decode(part.context[g]) for g in groups]
    tokens = np.array([int(part.new_tokens[g].sum()) for g in groups], dtype=np.int64)
    return Core(part.phase, plan, tokens, np.stack(flops), np.stack(kv), np.stack(cached))


def _alike(cores: Sequence[Core]) -> bool:
    """Whether all of them pass the same devices, so that one chain serves."""
    devices = {(core.plan.projections, core.plan.core, core.plan.output) for core in cores}
    return len(devices) == 1 and not (len(cores) > 1 and any(cpu_share(core.plan) for core in cores))


def cpu_share(plan: PhasePlan) -> float:
    """Share of the sequences whose core runs on the CPU while the others' runs on the GPU."""
    return plan.pipeline.cpu_share if isinstance(plan.pipeline, Module) else 0.0


class _Builder:
    """Builds the chain of a layer from the plan: operations on their devices, transfers where the device changes."""

    def __init__(self, problem: Problem, deployment: Deployment, cores: Sequence[Core]) -> None:
        self.problem, self.deployment, self.plan, self.cores = problem, deployment, cores[0].plan, cores
        self.tokens = np.sum([core.tokens for core in self.cores], axis=0)
        self.gpu = problem.system.attending_gpu

    def build(self, layer: int, kv_bytes: float) -> Chain:
        """Chain of a decoder layer in whose cache a token takes `kv_bytes`."""
        model, plan, tokens = self.problem.model, self.plan, self.tokens
        costs = self.problem.costs
        aside, left = self._aside(layer), 1.0
        if aside:
            left = 1.0 - cpu_share(plan)
            kv_bytes = left * kv_bytes
        cached = left * np.sum([core.cached[:, layer] for core in self.cores], axis=0)
        operations = [
            (plan.projections, costs.projections(plan.projections, tokens), model.token_bytes, {}),
            (
                plan.core,
                self._core_seconds(layer, left),
                model.qkv_activation_bytes,
                self._core_usage(left * np.sum([core.kv[:, layer] for core in self.cores], axis=0)),
            ),
            (plan.output, costs.output(plan.output, tokens), model.core_activation_bytes, {}),
        ]
        stages: list[Stage] = []
        here = self.gpu
        core = 0
        read = self._kv_read(cached)
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
            stages.append(self._transfer(here, self.gpu, model.token_bytes))
        return Chain(tuple(stages), core, read, self._kv_store(kv_bytes), aside)

    def _core_seconds(self, layer: int, left: float) -> FloatArray:
        """[n] time of the core of a layer, prompts and decodes one after another; `left`: the share that is not done aside."""
        costs, device = self.problem.costs, self.plan.core
        seconds, mixed = np.zeros(len(self.tokens)), len(self.cores) > 1
        for core in self.cores:
            flops, kv, tier = left * core.flops[:, layer], left * core.kv[:, layer], self._kv_tier(device)
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

    def _kv_tier(self, device: str) -> str:
        return self.problem.gpu_tier if device == self.gpu else self.deployment.plan.kv

    def _core_usage(self, kv: np.ndarray) -> dict[str, float]:
        """A core off the GPU reads its cache from a tier that others read too."""
        if self.plan.core == self.gpu:
            return {}
        return usage_of(self.problem.costs.reach(self.plan.core, self.deployment.plan.kv).usage, float(kv.sum()))

    def _kv_read(self, cached: np.ndarray) -> Stage | None:
        """What the core needs of a cache elsewhere; whole prompts need nothing."""
        prompts_alone = all(core.phase == "prefill" for core in self.cores) and not cached.any()
        if prompts_alone or self.plan.core != self.gpu or self.deployment.plan.kv == self.problem.gpu_tier:
            return None
        return self._copy(self.deployment.plan.kv, self.problem.gpu_tier, cached, "read KV", "kv")

    def _kv_store(self, kv_bytes: float) -> Stage | None:
        """New entries made on the GPU; those made where the core runs are there already or came with the QKV transfer."""
        if self.deployment.plan.kv == self.problem.gpu_tier or self.plan.core != self.gpu or kv_bytes == 0:
            return None
        return self._copy(self.problem.gpu_tier, self.deployment.plan.kv, kv_bytes * self.tokens, "store KV", "kv")

    def _transfer(self, source: str, target: str, per_token: float) -> Stage:
        """Activations on their way between the memories that two devices work from."""
        memory_of = self.problem.memory_of
        return self._copy(memory_of(source), memory_of(target), per_token * self.tokens, "activations", "activation")

    def _copy(self, source: str, target: str, nbytes: np.ndarray, name: str, cause: str) -> Stage:
        path = self.problem.costs.path(source, target)
        service = to_ps(self.problem.costs.copy(nbytes, source, target), f"a copy ({name}) from {source} to {target}")
        return Stage(queue_of(path), service, usage_of(path.usage, float(np.sum(nbytes))), name, cause)


def _merged(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}


def _padded(values: Any, count: int) -> Any:
    """`values` [n, ...] and zeros up to `count` micro-batches."""
    if len(values) == count:
        return values
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), dtype=values.dtype)])
