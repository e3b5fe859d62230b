"""MoE-Lightning's account of memory, by which its planner chooses batches.

Knows the shapes of the model and of the job; no placement and no time.
Source: caoshiyi/artifacts (branch asplos25), fastmoe/backend/optimizer.py, solve_lp (gpu_home_p, inter, cpu_home, cpu_w).
"""

from __future__ import annotations

from moesim.contract import BatchPlan, Problem

__all__ = ["planned_aside", "planned_free"]

_SPARE = 1.2
"""Times the intermediates of a micro-batch."""
_LAYERS = 2
"""Layers in the buffer of weights, on the GPU and pinned, and layers of a micro-batch's cache on their way to the host."""


def planned_free(problem: Problem, plan: BatchPlan, share: float) -> float:
    """Bytes of a `share` of GPU memory that the account leaves to residents and to the buffer of two layers.

    Beside them lie attention and routers (embedding and head are not counted), hidden states and residuals of a micro-batch of
    prompts, the residuals of all prompts, which do not leave the GPU, two layers of the micro-batch's cache, and its
    intermediates in a fused call: inputs of all pairs of a token and an expert, and what their matrices make of them.
    """
    model, gpu = problem.model, problem.gpu_tier
    tier = problem.system.tiers[gpu]
    room = share * float(tier.capacity or problem.usable(gpu))
    weights = problem.non_expert_bytes() - (model.embedding_bytes + model.head_bytes if problem.job.attention else 0.0)
    if plan.homes.elsewhere:
        weights = problem.weight_buffer(plan)
    prompts = problem.longest_prompts[: plan.batch]
    together = prompts[: plan.expert_batch or plan.batch]
    tokens, cache = float(together.sum()), 0.0
    states = max(model.token_bytes * (2.0 * tokens + float(prompts.sum())), 2.0 * model.token_bytes * plan.batch)
    if problem.job.attention:
        cache = _LAYERS * float(model.kv_total(together)) / model.layers
        cache += problem.kv_bytes(plan.batch) if plan.kv == gpu else 0.0
    wide = model.expert_token_bytes * (1.0 + model.matrices * model.expert_width / model.expert_state)
    return room - weights - states - cache - _SPARE * model.top_k * tokens * wide


def planned_aside(problem: Problem, batch: int) -> float:
    """Bytes of host memory beside weights and cache: the hidden states of all prompts, and two layers of experts, pinned."""
    prompts = problem.longest_prompts[:batch]
    layer = problem.experts * problem.model.expert_bytes
    return problem.model.token_bytes * float(prompts.sum()) + _LAYERS * layer
