"""MoE-Lens: two groups of sequences alternate between CPU attention and GPU work while one sweep of the weights serves both.

Knows the machine's costs and no routing; nothing changes during a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from moesim.contract import Alternating, BatchPlan, Deployment, Problem, first_count
from moesim.policies.kit.layer_costs import LayerCosts
from moesim.policies.kit.placement import require_cpu
from moesim.policies.kit.streaming import DecodeCut, HostUse, StreamedPolicy, deploy_streamed, host_for_cache, prefill_batch
from moesim.units import Share

__all__ = ["LensPlan", "MoeLens", "ceiling", "memory_efficiency", "saturating_tokens"]


def memory_efficiency(prompt: float, output: float) -> float:
    """PME(s, g) = 2 (s + g) / ((2 s + g) g): tokens processed per sweep and token of KV cache, prefill and decode together.

    Source: MoE-Lens, arXiv:2504.09345, its parallelism-memory efficiency.
    """
    return 2.0 * (prompt + output) / ((2.0 * prompt + output) * output)


def ceiling(prompt: float, output: float, cached: float, sweep: float, rate: float = float("inf")) -> float:
    """Generated tokens/s at most: min(PME * cached / sweep, rate) * g / (s + g).

    `cached` tokens that the host's KV memory holds, `sweep` seconds to stream all weights once, `rate` tokens/s of the GPU.
    """
    return min(memory_efficiency(prompt, output) * cached / sweep, rate) * output / (prompt + output)


def saturating_tokens(costs: LayerCosts) -> int:
    """n_real: least tokens of a pass for which the GPU's work on a layer takes as long as streaming its experts.

    The measured form of n >= (P_gpu / B_h2d) (E / k); at most a million.
    """
    upload = float(costs.upload(costs.problem.experts))
    tokens = first_count(lambda n: float(costs.experts(n) + costs.dense(n)) >= upload, 1 << 20)
    return int(min(tokens, 1 << 20))


@dataclass(frozen=True)
class LensPlan:
    """The state of the policy, never changed."""

    saturating: int
    """n_real."""
    ceiling: float
    """tokens/s that the analytic model allows."""


class MoeLens(StreamedPolicy):
    """As many sequences as host memory has KV cache for, in two groups: one attends on the CPU while the other is on the GPU.

    All experts that do not stay are streamed once per pass for both groups. In rounds (`kind: offline`) the batch fits at full
    length, and prefill goes in portions of n_real tokens, with which the GPU's work covers one sweep of the weights. Mixed
    sweeps and pre-emption are a scheduler's (`kind: online` with `continuous`): each sweep takes all decodes, then prompts up
    to `max_num_batched_tokens` (n_real), and a sequence without a free KV block is computed again. The scenario
    `moe_lens/mixtral-8x7b-a40` runs so.
    Source: MoE-Lens, arXiv:2504.09345 (no code). Published: 100 MB packets, paged KV cache, pre-emption when blocks run out.
    Inferred: groups of equal size; residents by lowest id, as MoE-Lightning. Left out: the turns of the two groups in sweeps
    that hold prompts, where all decodes attend on the CPU beside the prompts on the GPU. `ceiling` is the paper's model.
    """

    kind: Literal["moe_lens"] = "moe_lens"
    n_real: int | None = Field(None, ge=1)
    """Tokens of a pass that saturate the GPU; found from the machine's costs if not given."""
    residents: int | None = Field(None, ge=0)
    """Experts per layer in GPU memory; as many as fit if not given."""
    host_share: Share = 1.0
    """Share of host memory that is filled."""

    source: ClassVar[str] = "MoE-Lens (arXiv:2504.09345)"

    def deploy(self, problem: Problem) -> Deployment:
        """The largest batch that host memory holds."""
        require_cpu(problem)
        costs, kv = LayerCosts(problem), host_for_cache(problem)
        tokens = self.n_real or saturating_tokens(costs)
        portion = max(-(-tokens // max(int(costs.prompt), 1)), 1)
        policy = self.model_copy(update={"prefill_batch": self.prefill_batch or min(portion, prefill_batch(problem))})

        def plan_of(batch: int) -> BatchPlan:
            core = str(problem.costs.cpu_name) if problem.job.attention else problem.system.attending_gpu
            return policy.cut_into(problem, batch, kv, DecodeCut(core, -(-batch // 2), Alternating()))

        cut = policy.fitted(problem, plan_of, 1, HostUse(self.host_share, masters=self.residents is not None))
        count = None if self.residents is None else min(self.residents, problem.experts) * problem.layers
        return deploy_streamed(
            problem,
            replace(cut, expert_batch=-(-cut.batch // 2)),
            residents=count,
            state=LensPlan(tokens, self._ceiling(problem, costs, cut)),
        )

    def _ceiling(self, problem: Problem, costs: LayerCosts, cut: BatchPlan) -> float:
        """The analytic model with this machine's rates."""
        job = problem.job
        per_token = float(problem.model.kv_bytes_per_layer.sum()) if job.attention else 0.0
        room = problem.usable(cut.kv) - problem.layers * costs.layer_bytes
        sweep = problem.layers * float(costs.upload(problem.experts))
        cached = room / per_token if per_token else np.inf
        return ceiling(float(job.prompt.mean()), float(job.output.mean()), max(cached, 0.0), sweep)
