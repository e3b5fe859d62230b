"""What the parts of an average decoder layer cost, for searches over batches and micro-batches: arrays over candidates.

Knows the job's mean lengths and the profile; knows no placement, no queue and no routing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np

from moesim.arrays import FloatArray
from moesim.contract import Problem
from moesim.policies.kit.sizing import host_order
from moesim.portable import hazard, one_or_more

__all__ = ["LayerCosts", "expected_counts", "powers"]

Phase = Literal["prefill", "decode"]


def expected_counts(tokens: Any, picks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of experts that a token picks with probability `picks` [..]: (chance that any of `tokens` picks it, tokens if one does).

    `tokens` broadcasts against `picks`. Valid: tokens that choose independently.
    """
    sure = np.minimum(picks, 1.0 - 1e-12)
    chance = one_or_more(np.asarray(tokens, dtype=np.float64) * hazard(sure))
    return chance, np.maximum(tokens * picks / np.maximum(chance, 1e-300), 1.0)


def powers(limit: int) -> list[int]:
    """1, 2, 4 ... up to `limit`, and `limit` itself."""
    return sorted({limit, *(1 << n for n in range(limit.bit_length()) if 1 << n < limit)})


class LayerCosts:
    """Seconds of the parts of one decoder layer with experts, averaged over the layers; arguments are scalars or arrays.

    `host` is the tier that weights are streamed from, by default the best of the host's; the profile is sorted per layer and
    averaged. Decode is priced at the middle of the output. Valid: every layer has experts (dense layers are left out).
    """

    def __init__(self, problem: Problem, host: str | None = None) -> None:
        self.problem = problem
        hosts = host_order(problem)
        self.host = host or (hosts[0] if hosts else problem.gpu_tier)
        self.prompt = float(problem.job.prompt.mean())
        """Mean tokens of a prompt."""
        self.steps = max(int(problem.job.output.max(initial=1)) - 1, 0)
        """Decode passes of a round."""
        self._experts: dict[float, FloatArray] = {}
        """`experts` of single numbers of tokens: a search asks for each many times."""

    @cached_property
    def layer_bytes(self) -> float:
        """Bytes of the routed experts of one layer."""
        return self.problem.experts * self.problem.model.expert_bytes

    @cached_property
    def _picks(self) -> FloatArray:
        """[E] chance that a token picks the most, second most ... popular expert of a layer."""
        shares: FloatArray = -np.sort(-self.problem.popularity, axis=1).mean(axis=0)
        return self.problem.model.top_k * shares

    @cached_property
    def _core(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Phase -> [layers] FLOP and bytes of the attention core per sequence."""
        job, model = self.problem.job, self.problem.model
        middle, n = job.prompt + job.output // 2, len(job.prompt)
        return {
            "prefill": (model.core_flops_prefill(job.prompt) / n, model.core_bytes_prefill(job.prompt) / n),
            "decode": (model.core_flops_decode(middle) / n, model.core_bytes_decode(middle) / n),
        }

    @cached_property
    def _entry(self) -> float:
        """Bytes that a token takes in the cache of one layer."""
        return float(self.problem.model.kv_bytes_per_layer.mean()) if self.problem.job.attention else 0.0

    def tokens(self, phase: Phase, sequences: Any) -> FloatArray:
        """Tokens of a pass over `sequences` [..]."""
        return np.asarray(sequences, dtype=np.float64) * (self.prompt if phase == "prefill" else 1.0)

    def upload(self, experts: Any) -> FloatArray:
        """Copies of `experts` [..] experts to the GPU, one after another."""
        problem = self.problem
        return np.asarray(experts) * float(problem.costs.copy(problem.model.expert_bytes, self.host, problem.gpu_tier))

    def copy_in(self, nbytes: Any, tier: str | None = None) -> FloatArray:
        """One copy of `nbytes` [..] bytes from a host tier to GPU memory."""
        return self.problem.costs.copy(nbytes, tier or self.host, self.problem.gpu_tier)

    def copy_out(self, nbytes: Any, tier: str | None = None) -> FloatArray:
        """One copy of `nbytes` [..] bytes from GPU memory to a host tier."""
        return self.problem.costs.copy(nbytes, self.problem.gpu_tier, tier or self.host)

    def experts(self, tokens: Any) -> FloatArray:
        """Routed and shared experts of `tokens` [..] tokens together on the GPU, weights in its memory, launches included."""
        if np.ndim(tokens):
            return self._together(tokens)
        number = float(tokens)
        if number not in self._experts:
            self._experts[number] = self._together(number)
        return self._experts[number]

    def _together(self, tokens: Any) -> FloatArray:
        problem, t = self.problem, np.asarray(tokens, dtype=np.float64)
        calls = problem.costs.calls(problem.system.attending_gpu)
        chance, counts = expected_counts(t[..., None], self._picks)
        routed: FloatArray = (chance * (problem.costs.gpu(counts) + calls.per_call)).sum(axis=-1)
        return routed + calls.once + problem.costs.shared(t)

    def experts_on_cpu(self, tokens: Any, tier: str | None = None) -> FloatArray:
        """Routed experts of `tokens` [..] tokens on the CPU, weights read from `tier`; inf without a CPU."""
        problem, t = self.problem, np.asarray(tokens, dtype=np.float64)
        if problem.costs.cpu_name is None:
            return np.full(t.shape, np.inf)
        calls = problem.costs.calls(problem.costs.cpu_name)
        chance, counts = expected_counts(t[..., None], self._picks)
        routed: FloatArray = (chance * (problem.costs.cpu(counts, tier or self.host) + calls.per_call)).sum(axis=-1)
        return routed + calls.hand_over + calls.once

    def dense(self, tokens: Any) -> FloatArray:
        """QKV projection, output projection and router of `tokens` [..] tokens on the GPU, launches included."""
        problem, t = self.problem, np.asarray(tokens, dtype=np.float64)
        gpu, costs = problem.system.attending_gpu, problem.costs
        if not problem.job.attention:
            return np.zeros(t.shape)
        return costs.projections(gpu, t) + costs.output(gpu, t) + costs.router(t)

    def core(self, device: str, phase: Phase, sequences: Any, kv: str) -> FloatArray:
        """Attention core of `sequences` [..] on `device`, the cache in `kv`; the GPU reads its own memory, copies not in it."""
        problem, n = self.problem, np.asarray(sequences, dtype=np.float64)
        if not problem.job.attention:
            return np.zeros(n.shape)
        flops, nbytes = self._core[phase]
        tier = problem.gpu_tier if device == problem.system.attending_gpu else kv
        whole = problem.costs.core(device, n[..., None] * flops, n[..., None] * nbytes, phase, tier)
        return np.asarray(whole.mean(axis=-1), dtype=np.float64)

    def cache_read(self, sequences: Any) -> FloatArray:
        """Bytes of KV cache that one layer reads in a decode pass of `sequences` [..]."""
        attention = float(self._core["decode"][1].mean()) if self.problem.job.attention else 0.0
        return np.asarray(sequences, dtype=np.float64) * attention

    def cache_written(self, tokens: Any) -> FloatArray:
        """Bytes that `tokens` [..] new tokens add to the cache of one layer."""
        return np.asarray(tokens, dtype=np.float64) * self._entry

    def cpu_attention(self, sequences: Any, kv: str, tokens: Any | None = None) -> FloatArray:
        """Attention core of a decode pass on the CPU with the activations there and back; inf without a CPU."""
        problem = self.problem
        if problem.costs.cpu_name is None:
            return np.full(np.shape(sequences), np.inf)
        sent = np.asarray(sequences if tokens is None else tokens, dtype=np.float64)
        there = self.copy_out(sent * problem.model.qkv_activation_bytes, problem.main_memory)
        back = self.copy_in(sent * problem.model.core_activation_bytes, problem.main_memory)
        return self.core(problem.costs.cpu_name, "decode", sequences, kv) + there + back
