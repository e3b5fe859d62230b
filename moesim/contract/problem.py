"""What a policy knows when it places the model: the machine, the model, the job, a popularity profile, and what fits.

The profile comes from other data than the run's own routing; the future is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract.costs import Costs, costs_of
from moesim.contract.homes import Weights, crossing, in_flight, lying
from moesim.contract.plan import BatchPlan, ahead_of, chunk_of, devices_of
from moesim.hardware import System
from moesim.model import Architecture
from moesim.runtime import FREE, Runtime
from moesim.units import format_count
from moesim.workload.table import Job

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """The placement problem. L MoE layers, E experts per layer, R requests."""

    model: Architecture
    """The model, in the form of attention that the runtime has."""
    system: System
    """The machine, as the runtime uses it."""
    job: Job
    popularity: FloatArray
    """[L, E] share of a layer's activations that each expert got in the profile."""
    rng: np.random.Generator
    """For policies that draw; the same at every run of a seed."""
    foresight: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    """For the engine: how predictions go wrong."""
    hindsight: FloatArray | None = None
    """[L, E] share of a layer's activations that each expert gets in the run itself: for clairvoyant policies, else None."""
    runtime: Runtime = FREE
    """The program that serves the model; by default one whose calls cost nothing."""
    topics: IntArray | None = None
    """[R] number of each request's subject or task, which its text shows; None where all are alike."""
    prompted: Callable[[IntArray], IntArray] | None = None
    """Prefills requests [S] of a batch that is there as a whole, before anything is placed: [L, E] tokens per expert of their
    prompts. None where requests arrive over time."""
    followers: Callable[[int], IntArray] | None = None
    """Next-layer statistics beside the profile, as `RoutingTable.followers`; None where routing is not a record."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "system", self.runtime.over(self.system))
        if self.runtime.gpu.attention.absorbed:
            object.__setattr__(self, "model", self.model.absorbed())
        if not self.job.chunk and (chunk := self.runtime.chunk_on(self.system)):
            object.__setattr__(self, "job", replace(self.job, chunk=chunk))

    @cached_property
    def costs(self) -> Costs:
        """Durations on this machine."""
        return costs_of(self.model, self.system, self.runtime)

    @cached_property
    def _free(self) -> dict[BatchPlan, float]:
        """`gpu_free` of plans: a search for the largest batch asks for each several times."""
        return {}

    @cached_property
    def _overhead(self) -> dict[BatchPlan, dict[str, float]]:
        """`host_overhead` of plans."""
        return {}

    @cached_property
    def longest_prompts(self) -> IntArray:
        """[R] tokens of the prompts, longest first."""
        return np.sort(self.job.prompt)[::-1]

    @cached_property
    def _longest(self) -> IntArray:
        """[R] tokens of the KV cache that each request takes at its full length, in whole blocks, most first."""
        job = self.job
        blocks = -(-(job.prompt + job.output + job.kv_beside) // job.kv_block)
        return np.sort(blocks)[::-1] * job.kv_block

    @property
    def layers(self) -> int:
        """L, MoE layers simulated."""
        return self.job.layers

    @property
    def experts(self) -> int:
        """E, routed experts per layer."""
        return self.model.experts

    @property
    def tiers(self) -> tuple[str, ...]:
        """Tier names; arrays hold indices into this."""
        return tuple(self.system.tier_names)

    @property
    def devices(self) -> tuple[str, ...]:
        """Device names; arrays hold indices into this."""
        return tuple(self.system.device_names)

    @property
    def gpu_tier(self) -> str:
        """Name of the memory of the GPU that attends."""
        return self.system.gpu_tier

    @cached_property
    def gpu_tier_index(self) -> int:
        """Index in `tiers` of the memory of the GPU that attends."""
        return self.tiers.index(self.gpu_tier)

    @cached_property
    def attending_index(self) -> int:
        """Index in `devices` of the attending GPU, which runs attention, router and head."""
        return self.devices.index(self.system.attending_gpu)

    @cached_property
    def cpu_index(self) -> int:
        """Index of the CPU that computes experts, -1 without one."""
        return self.devices.index(self.costs.cpu_name) if self.costs.cpu_name else -1

    @cached_property
    def ndp_index(self) -> dict[int, int]:
        """Tier index -> device index of the near-data unit inside that tier."""
        return {self.tiers.index(tier): self.devices.index(name) for tier, name in self.costs.ndp_of.items()}

    @cached_property
    def local_index(self) -> dict[int, int]:
        """Tier index -> device index of what computes experts that live in that tier, and no others: the near-data unit inside
        it, or the GPU whose memory it is, unless that GPU attends."""
        return {self.tiers.index(tier): self.devices.index(name) for tier, name in self.costs.local_of.items()}

    @cached_property
    def gpu_at(self) -> IntArray:
        """[T] index in `devices` of the GPU that runs experts from each tier: the one whose memory it is, else the one that
        attends, to which they are uploaded."""
        gpus = np.full(len(self.tiers), self.attending_index)
        for name in self.system.further_gpus:
            gpus[self.tiers.index(self.system.gpu_memory[name])] = self.devices.index(name)
        return gpus

    @cached_property
    def main_memory(self) -> str:
        """The host tier that the CPU works from: where activations for it lie; the first DDR tier, else the first host tier."""
        tiers = self.system.host_tiers
        return next((name for name in tiers if self.system.tiers[name].kind == "ddr"), tiers[0] if tiers else self.gpu_tier)

    def memory_of(self, device: str) -> str:
        """The tier that `device` takes activations from and leaves them in."""
        if device == self.system.attending_gpu:
            return self.gpu_tier
        local = {name: tier for tier, name in self.costs.local_of.items()}
        return local.get(device, self.main_memory)

    def usable(self, tier: str) -> float:
        """Bytes of weights that a program may put into `tier`; in a GPU's memory beside what the runtime keeps for itself."""
        capacity = self.system.capacity(tier)
        return max(capacity - self.runtime.reserve, 0.0) if self.system.is_gpu_memory(tier) else capacity

    def expert_bytes(self, *, alike: bool = False) -> FloatArray:
        """[L, E] bytes of each routed expert as the model is stored; all `alike` are as large as the mean.

        Slots that experts of different layers take turns in are planned for the mean: their sum over the model is exact.
        """
        by_layer = self.model.expert_bytes_by_layer
        apart = not alike and len(by_layer) >= self.layers
        sizes = by_layer[: self.layers] if apart else np.full(self.layers, self.model.expert_bytes)
        return np.repeat(sizes[:, None], self.experts, axis=1)

    def kv_bytes(self, batch: int) -> float:
        """Bytes of the KV cache of the `batch` longest requests at their full length, unless the job says how many are set
        aside; 0 where attention is left out. Where a scheduler pools blocks, as it counts them."""
        job = self.job
        if not job.attention:
            return 0.0
        if job.kv is not None:
            return job.kv
        if job.most is not None:
            state, token = self.model.kv_pooled
            return job.together * state + float(self._longest[:batch].sum()) * token
        return float(self.model.kv_total(self._longest[:batch]))

    def _kv_shares(self, batch: int) -> dict[str, float]:
        """What `kv_bytes` are, in words: keys and values, and where a scheduler pools them what sequences have beside.

        Recurrent states are there for all that may run. Source: vLLM does not start where `max_num_seqs` states find no room
        (vllm-project/vllm#38270).
        """
        job = self.job
        states = job.together * self.model.kv_pooled[0] if job.most is not None and job.kv is None else 0.0
        beside = {f"states of {format_count(job.together, 'sequence')}": states} if states else {}
        return {"KV cache": self.kv_bytes(batch) - states, **beside}

    def non_expert_bytes(self) -> float:
        """Weights other than routed experts; for a lone MoE layer its router and shared experts."""
        if self.job.attention:
            return float(self.model.non_expert_bytes)
        return float((self.model.router_bytes + self.model.shared_bytes) * self.layers)

    def activation_bytes(self, plan: BatchPlan) -> float:
        """GPU memory for intermediates of the larger phase.

        Hidden states in and out of all tokens that pass the layers together (2 x token bytes each), one gathered expert
        input (bounded by those tokens), and the largest of what operations hold one after another: QKV and attention output of
        one attention micro-batch, twice for double buffering; the feed-forward part's; the logits.
        """
        batch, prefill, decode = plan.batch, plan.prefill, plan.decode
        chunk = float(chunk_of(self.job, prefill) or np.inf)
        micro_prefill = min(float(self.longest_prompts[: prefill.micro_batch].sum()), chunk)
        micro_decode = float(min(decode.micro_batch, batch))
        hidden = self.hidden_bytes(plan)
        if not self.job.attention:
            return hidden
        per_token = self.model.qkv_activation_bytes + self.model.core_activation_bytes
        micro = max(micro_prefill, micro_decode)
        experts = max(self._prompt_tokens(plan, plan.expert_batch), float(min(plan.expert_batch or batch, batch)))
        return hidden + max(2.0 * per_token * micro, self.feed_forward_bytes(experts, micro), self.logit_bytes(plan))

    def feed_forward_bytes(self, tokens: float, micro: float) -> float:
        """What the matrices of a feed-forward part make, before the last of them: experts of `tokens` tokens, dense parts and
        shared experts of the `micro` tokens of an attention micro-batch, with which they go.

        A call takes `expert_tokens` tokens at most. One fused call makes those of all pairs of a token and an expert; where
        one expert runs after another, the most used one counts. Source: intermediate_cache1 and 2 of vLLM's fused_moe.py.
        """
        model, gpu = self.model, self.runtime.gpu
        most = float(gpu.expert_tokens or np.inf)
        busiest = min(1.0, model.top_k * float(self.popularity.max(axis=1).mean())) if self.popularity.size else 0.0
        calls = model.top_k * min(tokens, most) if gpu.fused else min(tokens * busiest, most)
        wide = max(calls * model.expert_width, micro * model.dense_width, micro * model.shared_width)
        return model.matrices * wide * model.token_bytes / model.hidden

    def hidden_bytes(self, plan: BatchPlan) -> float:
        """Bytes of hidden states in and out of all tokens that pass the layers together, and of an expert's gathered input."""
        return 3.0 * self.model.token_bytes * max(self._prompt_tokens(plan), float(plan.batch))

    def _prompt_tokens(self, plan: BatchPlan, most: int = 0) -> float:
        """Most tokens of prompts that pass the layers together, of `most` sequences unless 0."""
        chunk, sequences = float(chunk_of(self.job, plan.prefill) or np.inf), plan.prefill.sequences or plan.batch
        sequences = min(sequences, plan.batch, most or plan.batch)
        return min(float(self.longest_prompts[:sequences].sum()), chunk)

    def logit_bytes(self, plan: BatchPlan) -> float:
        """Bytes of the logits of prompts, if the runtime makes all of them."""
        return self.runtime.logits * self.model.vocab * self._prompt_tokens(plan) if self.job.attention else 0.0

    @property
    def least_visits(self) -> int:
        """Layer visits until the longest request is done, if it never waits: its prompt in a pass, each output token in one."""
        return (1 + int(self.job.output.max(initial=1))) * self.layers

    def gpu_free(self, plan: BatchPlan) -> float:
        """Bytes of GPU memory left for resident experts; negative when even none fits."""
        free = self._free.get(plan)
        if free is None:
            free = self.usable(self.gpu_tier)
            for nbytes in self.gpu_shares(plan).values():
                free -= nbytes
            self._free[plan] = free
        return free

    def gpu_shares(self, plan: BatchPlan) -> dict[str, float]:
        """What GPU memory holds beside resident experts, in words -> bytes.

        Weights of operations that another device runs lie with that device and are taken off.
        """
        shares = {
            "weights other than routed experts": self.non_expert_bytes(),
            f"intermediates of {format_count(plan.batch, 'sequence')}": self.activation_bytes(plan),
        }
        if self.job.attention:
            if not self._on_gpu(plan, "projections"):
                shares["projections that another device runs"] = -self.model.qkv_bytes * self.model.layers
            if not self._on_gpu(plan, "output"):
                shares["output projections that another device runs"] = -self.model.output_bytes * self.model.layers
        if plan.homes.elsewhere:
            shares["those that live elsewhere"] = -self._elsewhere(plan)
            shares["buffers for those"] = self.weight_buffer(plan)
        if plan.kv == self.gpu_tier:
            here = 1.0 - plan.homes.cache_share(self.model)
            shares |= {content: here * nbytes for content, nbytes in self._kv_shares(plan.batch).items()}
        shares[format_count(plan.slots, "staging slot")] = plan.slots * self.model.expert_bytes
        return shares

    def _elsewhere(self, plan: BatchPlan) -> float:
        """Bytes that GPU memory does not hold because they live elsewhere, those that another device runs left out."""
        first, last = self._on_gpu(plan, "projections"), self._on_gpu(plan, "output")
        model, homes = self.model, plan.homes
        here = sum(nbytes for layer in crossing(model, homes, first=first, last=last) for _, nbytes in layer)
        here += model.head_bytes if homes.head is not None else 0.0
        return here + (model.embedding_bytes if homes.embeddings is not None and not model.tied_embedding else 0.0)

    def _on_gpu(self, plan: BatchPlan, operation: str) -> bool:
        """Whether the GPU runs an operation in either phase."""
        return self.system.attending_gpu in (getattr(plan.prefill, operation), getattr(plan.decode, operation))

    def crossing(self, plan: BatchPlan, phase: str) -> list[Weights]:
        """[D] weights other than routed experts that are copied to the GPU for each decoder layer in a step of `phase`."""
        apart = next((layer for layer in range(self.model.layers) if plan.homes.away(layer)), 0)
        first, _, last = devices_of(plan, phase, apart)
        gpu = self.system.attending_gpu
        rest = phase == "prefill" or plan.homes.attends is None
        return crossing(self.model, plan.homes, first=first == gpu, last=last == gpu, rest=rest)

    def weight_buffer(self, plan: BatchPlan) -> float:
        """Bytes of GPU memory that such copies take at most."""
        sizes = (
            in_flight(self.model, plan.homes, self.crossing(plan, phase), ahead_of(plan.of(phase).pipeline))
            for phase in ("prefill", "decode")
        )
        return max(sizes) if plan.homes.elsewhere else 0.0

    def host_shares(self, plan: BatchPlan) -> dict[str, dict[str, float]]:
        """Tier -> what it holds beside routed experts, in words -> bytes of the room for weights; `gpu_tier` is left out.

        The memory of another GPU holds the hidden states that its experts read and write.
        """
        hidden = f"hidden states of {format_count(plan.batch, 'sequence')}"
        shares = {self.system.gpu_memory[name]: {hidden: self.hidden_bytes(plan)} for name in self.system.further_gpus}
        away = plan.homes.cache_share(self.model)
        for tier, share in ((plan.kv, 1.0 - away), (plan.homes.attention, away)):
            if tier is not None and tier != self.gpu_tier and share:
                cache = share * self.kv_bytes(plan.batch) * self.system.kv_share(tier)
                held = shares.setdefault(tier, {})
                held["KV cache"] = held.get("KV cache", 0.0) + cache
        for tier, nbytes in self.job.kv_aside.items():
            shares.setdefault(tier, {})["KV blocks that left GPU memory"] = nbytes * self.system.kv_share(tier)
        for tier, nbytes in lying(self.model, plan.homes).items():
            shares.setdefault(tier, {})["weights other than routed experts"] = nbytes
        return shares

    def host_overhead(self, plan: BatchPlan) -> dict[str, float]:
        """Tier -> bytes of its room that are not for routed experts; `gpu_tier` is left out."""
        overhead = self._overhead.get(plan)
        if overhead is None:
            overhead = {tier: sum(shares.values()) for tier, shares in self.host_shares(plan).items()}
            self._overhead[plan] = overhead
        return overhead
