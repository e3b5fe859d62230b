"""The non-expert part of a decoder layer: which lanes its micro-batches pass, one after another, and how long that takes.

A chain becomes operations of a program. Knows no routing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moesim.engine.clock import added, to_ps, total
from moesim.engine.program import ACTIVATION, DEMAND, Operation, label_of
from moesim.engine.tables import IntTimes, queue_of, usage_of
from moesim.errors import PolicyError
from moesim.hardware.device import Phase
from moesim.policies.base import Deployment, IntArray, PhasePlan
from moesim.policies.problem import Problem

__all__ = ["Chain", "Stage", "chain_operations", "chains_of_pass", "stage_operation"]


@dataclass(frozen=True)
class Stage:
    """One operation on one lane: `service` [n] ps for each micro-batch, `usage` [resource -> bytes] over all of them."""

    lane: str
    service: IntTimes
    usage: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    cause: str = ""
    """Why its bytes move: `kv` or `activation`."""

    @property
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


def chain_operations(
    chain: Chain, lane: Callable[[str], int], gpu: str, first: int, start: Sequence[int]
) -> tuple[list[Operation], list[int], list[int]]:
    """A chain as operations numbered from `first` on, after `start`: (operations, last one of each micro-batch, KV stores).

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
            [*([ends[item]] if index else start), *(reads[item : item + 1] if index == chain.core else ())]
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


def chains_of_pass(
    problem: Problem, deployment: Deployment, phase: Phase, new_tokens: IntArray, context: IntArray
) -> tuple[list[Chain], IntArray]:
    """The distinct chains of one pass, and for every decoder layer [D] which of them it is.

    `new_tokens` [S] and `context` [S] (tokens attended to, the new ones included) are those of the pass's sequences.
    Layers differ only by their attention window, so there are one or two chains.
    """
    plan = deployment.prefill if phase == "prefill" else deployment.decode
    groups = [slice(i, i + plan.micro_batch) for i in range(0, len(new_tokens), plan.micro_batch)]
    model = problem.model
    if phase == "prefill":
        flops = np.stack([model.core_flops_prefill(context[g]) for g in groups])
        kv = np.stack([model.core_bytes_prefill(context[g]) for g in groups])
    else:
        flops = np.stack([model.core_flops_decode(context[g]) for g in groups])
        kv = np.stack([model.core_bytes_decode(context[g]) for g in groups])
    tokens = np.array([int(new_tokens[g].sum()) for g in groups], dtype=np.int64)
    has_kv = model.kv_bytes_per_layer > 0
    rows = np.concatenate([flops, kv, has_kv[None, :]], axis=0)
    _, first, kind = np.unique(rows, axis=1, return_index=True, return_inverse=True)
    builder = _Builder(problem, deployment, plan, phase, tokens)
    chains = [builder.build(flops[:, layer], kv[:, layer], float(model.kv_bytes_per_layer[layer])) for layer in first.tolist()]
    return chains, np.asarray(kind, dtype=np.int64).reshape(-1)


class _Builder:
    """Builds the chain of a layer from the plan: operations on their devices, transfers where the device changes."""

    def __init__(self, problem: Problem, deployment: Deployment, plan: PhasePlan, phase: Phase, tokens: IntArray) -> None:
        self.problem, self.deployment, self.plan, self.phase, self.tokens = problem, deployment, plan, phase, tokens
        self.gpu = problem.system.gpu_name

    def build(self, flops: np.ndarray, kv: np.ndarray, kv_bytes: float) -> Chain:
        """Chain of a layer whose core does `flops` [n] FLOP over `kv` [n] bytes of cache, `kv_bytes` new ones per token."""
        model, plan, tokens = self.problem.model, self.plan, self.tokens
        costs = self.problem.costs
        aside = self._aside(flops, kv)
        if aside:
            left = 1.0 - plan.cpu_share
            flops, kv, kv_bytes = left * flops, left * kv, left * kv_bytes
        operations = [
            (plan.projections, costs.projections(plan.projections, tokens), model.token_bytes, {}),
            (
                plan.core,
                costs.core(plan.core, flops, kv, self.phase, self._kv_tier(plan.core)),
                model.qkv_activation_bytes,
                self._core_usage(kv),
            ),
            (plan.output, costs.output(plan.output, tokens), model.core_activation_bytes, {}),
        ]
        stages: list[Stage] = []
        here = self.gpu
        core = 0
        read = self._kv_read(kv)
        for number, (device, seconds, crossing, usage) in enumerate(operations):
            if device != here:
                stages.append(self._transfer(here, device, crossing))
                here = device
            service = to_ps(seconds + self.problem.system.devices[device].launch, f"attention on {device}")
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

    def _aside(self, flops: np.ndarray, kv: np.ndarray) -> tuple[Stage, ...]:
        """The CPU's share of decode attention: queries and new entries out, core over the cache where it lies, results back."""
        share, problem, cpu = self.plan.cpu_share, self.problem, self.problem.costs.cpu_name
        if not share or self.phase == "prefill":
            return ()
        if cpu is None or self.plan.core != self.gpu or self.deployment.kv == problem.gpu_tier:
            raise PolicyError("a share of attention goes to the CPU only if there is one, and the KV cache is in host memory")
        model, tokens = problem.model, share * self.tokens
        here, there = problem.gpu_tier, problem.memory_of(cpu)
        seconds = problem.costs.core(cpu, share * flops, share * kv, self.phase, self.deployment.kv)
        usage = usage_of(problem.costs.reach(cpu, self.deployment.kv).usage, share * float(kv.sum()))
        core = Stage(cpu, to_ps(seconds + problem.system.devices[cpu].launch, f"attention on {cpu}"), usage, "attention", "kv")
        out = self._copy(here, there, model.qkv_activation_bytes * tokens, "activations", "activation")
        return out, core, self._copy(there, here, model.core_activation_bytes * tokens, "activations", "activation")

    def _kv_tier(self, device: str) -> str:
        return self.problem.gpu_tier if device == self.gpu else self.deployment.kv

    def _core_usage(self, kv: np.ndarray) -> dict[str, float]:
        """A core off the GPU reads its cache from a tier that others read too."""
        if self.plan.core == self.gpu:
            return {}
        return usage_of(self.problem.costs.reach(self.plan.core, self.deployment.kv).usage, float(kv.sum()))

    def _kv_read(self, kv: np.ndarray) -> Stage | None:
        if self.phase == "prefill" or self.plan.core != self.gpu or self.deployment.kv == self.problem.gpu_tier:
            return None
        return self._copy(self.deployment.kv, self.problem.gpu_tier, kv, "read KV", "kv")

    def _kv_store(self, kv_bytes: float) -> Stage | None:
        """New entries made on the GPU; those made where the core runs are there already or came with the QKV transfer."""
        if self.deployment.kv == self.problem.gpu_tier or self.plan.core != self.gpu or kv_bytes == 0:
            return None
        return self._copy(self.problem.gpu_tier, self.deployment.kv, kv_bytes * self.tokens, "store KV", "kv")

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
