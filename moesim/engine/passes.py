"""The steps of a run as the engine times them: what a scheduler composed, with the routing of its tokens.

Knows routing tables; knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray, distinct
from moesim.contract import Deployment
from moesim.contract.steps import Series, StepPlan
from moesim.errors import MoesimError
from moesim.hardware.device import Phase
from moesim.model import Architecture
from moesim.scheduling.rounds import steps_of_job
from moesim.workload.table import Job, RoutingTable

__all__ = ["Part", "Pass", "Work", "check_plan", "core_work", "pass_of", "passes_of_job"]


@dataclass(frozen=True, eq=False)
class Part:
    """The sequences of a step that attend alike. All arrays are [S']."""

    phase: Phase
    new_tokens: IntArray
    before: IntArray
    """Tokens in the cache already."""

    @property
    def context(self) -> IntArray:
        """Tokens that each attends to, the new ones included."""
        return self.before + self.new_tokens


@dataclass(frozen=True, eq=False)
class Pass:
    """One step: some sequences pass all layers. Arrays over sequences are [S]."""

    index: int
    plan: StepPlan
    decoding: BoolArray
    """[S] sequences that pass one generated token; others pass a part of their prompt, or of what is computed again."""
    counts: IntArray
    """[L, G, E] tokens per expert, for each MoE layer and group of sequences that pass the experts together."""
    group_tokens: IntArray
    """[G] tokens of each group."""
    first: IntArray
    """Requests whose first output token this step yields."""
    ending: IntArray
    """Requests whose last output token this step yields."""

    @property
    def requests(self) -> IntArray:
        """[S] numbers of the requests in it."""
        return self.plan.requests

    @property
    def new_tokens(self) -> IntArray:
        """[S] tokens that each contributes."""
        return self.plan.new_tokens

    @property
    def sampled(self) -> int:
        """Output tokens that the step yields."""
        return int(self.plan.yields.sum())

    @cached_property
    def phase(self) -> Phase:
        """`decode` if nothing but generated tokens passes; a step that holds both goes by the plan of prefill."""
        return "decode" if self.decoding.all() else "prefill"

    @cached_property
    def parts(self) -> list[Part]:
        """The prompts in it, then what decodes; one or both."""
        parts: list[Part] = []
        pairs: tuple[tuple[Phase, BoolArray], ...] = (("prefill", ~self.decoding), ("decode", self.decoding))
        for phase, members in pairs:
            if members.any():
                parts.append(Part(phase, self.new_tokens[members], self.plan.before[members]))
        return parts


Work = tuple[FloatArray, FloatArray]
"""[D] FLOP of an attention core in each decoder layer, and [D] bytes of keys and values that it reads."""


def core_work(model: Architecture, part: Part) -> Work:
    """[D] FLOP of the attention core of each decoder layer, and [D] bytes of keys and values that it reads."""
    if part.phase == "decode":
        return model.core_work_decode(part.context)
    sizes = part.new_tokens, part.before
    return model.core_flops_prefill(*sizes), model.core_bytes_prefill(*sizes)


def pass_of(index: int, plan: StepPlan, job: Job, routing: RoutingTable, expert_batch: int) -> Pass:
    """Step number `index`; `expert_batch` sequences pass the experts together, 0 for all of them.

    MoesimError for a plan that no sequence of tokens fits: a scheduler's mistake.
    """
    check_plan(job, plan, plan.requests)
    requests, before, after = plan.requests, plan.before, plan.before + plan.new_tokens
    prompt = job.prompt[requests]
    decoding = (plan.new_tokens == 1) & (before >= prompt)
    size = expert_batch or len(requests)
    groups = [slice(i, i + size) for i in range(0, len(requests), size)]
    counts = [_counts(routing, requests[g], before[g], after[g], prompt[g], bool(decoding[g].all())) for g in groups]
    tokens = np.array([int(plan.new_tokens[g].sum()) for g in groups], dtype=np.int64)
    generated = after - prompt + 1
    first = requests[plan.yields & (generated == 1)]
    ending = requests[plan.yields & (generated == job.output[requests])]
    return Pass(index, plan, decoding, np.stack(counts, axis=1), tokens, first, ending)


def _counts(
    routing: RoutingTable, requests: IntArray, before: IntArray, after: IntArray, prompt: IntArray, decoding: bool
) -> IntArray:
    """[L, E] tokens per expert of one group."""
    if decoding:
        return routing.mixed_counts(requests, before - prompt)
    return routing.chunk_counts(requests, before, after, prompt)


def check_plan(job: Job, plan: StepPlan | Series, places: IntArray) -> None:
    """MoesimError for what a scheduler may not compose; `places` are equal where a request is twice in a step."""
    requests, after = plan.requests, plan.before + plan.new_tokens
    if not len(requests):
        raise MoesimError("a scheduler composed a step without sequences")
    if len(distinct(places)) < len(places):
        raise MoesimError("a scheduler put a request into a step twice")
    known = after <= job.prompt[requests] + job.output[requests] - 1
    if not ((plan.new_tokens >= 1) & (plan.before >= 0) & known).all():
        raise MoesimError("a scheduler composed a step of tokens that a request does not have")
    if (plan.yields & (after < job.prompt[requests])).any():
        raise MoesimError("a scheduler expects an output token before the prompt has been read")


def passes_of_job(job: Job, routing: RoutingTable, deployment: Deployment) -> Iterator[Pass]:
    """All steps of an offline job in rounds, in order."""
    for index, plan in enumerate(steps_of_job(job, deployment)):
        yield pass_of(index, plan, job, routing, deployment.plan.expert_batch)
