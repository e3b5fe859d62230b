"""How a job is cut and how its layers overlap: what sizing, policies and the engine agree on before anything is placed.

Knows tiers and devices by name, and no expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moesim.contract.homes import HERE, Homes
from moesim.workload.table import Job

__all__ = [
    "BY_NAME",
    "Alternating",
    "BatchPlan",
    "Deferred",
    "Module",
    "Overlap",
    "Paged",
    "PhasePlan",
    "Pipeline",
    "Precomputed",
    "Serial",
    "ahead_of",
    "chunk_of",
    "devices_of",
]


@dataclass(frozen=True)
class Overlap:
    """Uploads, GPU, CPU and near-data work of a layer run side by side."""

    ahead: int = 0
    """Layers whose experts that are not resident are streamed ahead of the layer that runs, used or not; 0: uploads wait for
    the routing. Buffers of `ahead` + 1 layers are `BatchPlan.staging` slots."""


@dataclass(frozen=True)
class Serial:
    """One thing after another: uploads, then the GPU, then the other devices; with `ahead`, nothing runs during uploads."""

    ahead: int = 0
    """1 or more: the weights of the whole layer are uploaded before it runs, whatever the router says; 0: those asked for."""


@dataclass(frozen=True)
class Paged:
    """Layers stream in pages, and micro-batches of sequences overlap: one attends on the CPU, another meets its experts."""

    ahead: int = 1
    """Layers streamed ahead, at least 1."""


@dataclass(frozen=True)
class Alternating:
    """As `Paged`, for two halves of the batch that take turns on the CPU and on the GPU."""

    ahead: int = 1
    """Layers streamed ahead, at least 1."""


@dataclass(frozen=True)
class Module:
    """Attention in chunks for the whole batch, then each expert once for all tokens, as its weights land."""

    ahead: int = 0
    """Layers streamed ahead; 0: one buffer for the layer that runs."""
    cpu_share: float = 0.0
    """Share of the sequences whose attention core runs on the CPU."""


@dataclass(frozen=True)
class Deferred:
    """As `Overlap`, but experts that a dispatch calls stale run on the CPU while the GPU attends in the next layer."""


@dataclass(frozen=True)
class Precomputed:
    """As `Overlap`, but experts that a dispatch calls stale begin a layer early: when the router of the layer before is done.

    They work on what that layer's experts get. Of a layer's experts a device computes all early, or none."""

    turns: int = 0
    """First MoE layers in which the GPU's experts wait for those of the other devices."""


Pipeline = Overlap | Serial | Paged | Alternating | Module | Deferred | Precomputed
"""Which lanes run side by side in the layers of a phase."""
BY_NAME: Mapping[str, Overlap | Serial] = {"overlap": Overlap(), "serial": Serial()}
"""The two that a policy may offer as a parameter."""


def ahead_of(pipeline: Pipeline) -> int:
    """Layers streamed ahead."""
    return 0 if isinstance(pipeline, Deferred | Precomputed) else pipeline.ahead


@dataclass(frozen=True)
class PhasePlan:
    """Who runs the non-expert operations of one phase, in which portions, and how its layers overlap."""

    micro_batch: int
    """Sequences per attention micro-batch."""
    projections: str = "gpu"
    """Device of norm, QKV projection and router input (OP0)."""
    core: str = "gpu"
    """Device of the attention core, which reads and writes the KV cache (OP1)."""
    output: str = "gpu"
    """Device of the output projection (OP2)."""
    pipeline: Pipeline = Overlap()
    """How the layers of this phase overlap. Prefill knows `Overlap` and `Serial` alone."""
    sequences: int = 0
    """Prefill only: sequences that pass all layers together, 0 for the whole batch; a large batch in several passes needs less
    room for hidden states, and meets the weights once per pass."""
    chunk: int = 0
    """Prefill only: tokens of prompts that pass all layers together; longer prompts are cut. 0 leaves it to the workload, whose
    `chunk` holds where it is smaller."""


@dataclass(frozen=True)
class BatchPlan:
    """How a job is cut. Arrays of experts are not in it: two plans compare equal if they cut alike."""

    batch: int
    """Sequences decoded together; the job runs in ceil(R / batch) rounds."""
    prefill: PhasePlan
    decode: PhasePlan
    kv: str = "hbm"
    """Tier of the KV cache."""
    staging: int = 2
    """Expert slots in GPU memory that uploads land in; they come on top of the residents."""
    swap: int = 0
    """Expert slots in GPU memory through which evicted copies are written home, because weights swap places; the next layer
    waits for what finds none free. 0: the host keeps a master of every expert, and an eviction moves nothing."""
    expert_batch: int = 0
    """Sequences whose tokens pass the experts together; 0 means the whole batch (coalesced)."""
    homes: Homes = HERE
    """Where weights other than routed experts live."""

    @property
    def slots(self) -> int:
        """Expert slots in GPU memory beside the residents, for copies that come and go."""
        return self.staging + self.swap

    def of(self, phase: str) -> PhasePlan:
        """The plan of `prefill` or `decode`."""
        return self.prefill if phase == "prefill" else self.decode

    def piped(self, pipeline: Overlap | Serial) -> BatchPlan:
        """The same cut, with the layers of both phases overlapping as `pipeline` says."""
        prefill, decode = (replace(plan, pipeline=pipeline) for plan in (self.prefill, self.decode))
        return replace(self, prefill=prefill, decode=decode)


def chunk_of(job: Job, prefill: PhasePlan) -> int:
    """Tokens of prompts that pass the layers together: the fewest that job and plan ask for; 0 for whole prompts."""
    return min(filter(None, (job.chunk, prefill.chunk)), default=0)


def devices_of(plan: BatchPlan, phase: str, layer: int) -> tuple[str, str, str]:
    """Devices of QKV projection, attention core and output projection in decoder layer `layer` of a step of `phase`.

    Prompts are projected where the plan says even in layers whose weights live elsewhere: the products of many tokens repay a
    copy of the weights.
    """
    own, attends = plan.of(phase), plan.homes.attends
    if attends is None or not plan.homes.away(layer):
        return own.projections, own.core, own.output
    return (own.projections, attends, own.output) if phase == "prefill" else (attends, attends, attends)
