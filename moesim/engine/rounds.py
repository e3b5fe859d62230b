"""The passes of an offline job: rounds of a batch of requests, each a prefill pass and then decode passes to the end.

Knows requests and lengths; knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moesim.hardware.device import Phase
from moesim.policies.base import Deployment, IntArray
from moesim.workload.table import Job, RoutingTable

__all__ = ["Pass", "passes_of_job"]


@dataclass(frozen=True)
class Pass:
    """One forward pass of some sequences through all layers."""

    index: int
    phase: Phase
    requests: IntArray
    """[S] numbers of the requests in it."""
    new_tokens: IntArray
    """[S] tokens that each contributes."""
    context: IntArray
    """[S] tokens that each attends to, the new ones included."""
    counts: IntArray
    """[L, G, E] tokens per expert, for each MoE layer and group of sequences that pass the experts together."""
    group_tokens: IntArray
    """[G] tokens of each group."""
    ending: IntArray
    """Requests whose last token this pass yields."""


def passes_of_job(job: Job, routing: RoutingTable, deployment: Deployment) -> Iterator[Pass]:
    """All passes in order. A round's sequences start together; those that finish leave, and the round goes on without them.

    Prefill goes in portions of `deployment.prefill.sequences`.
    """
    index = 0
    order = np.arange(job.requests, dtype=np.int64) if deployment.order is None else deployment.order
    for begin in range(0, job.requests, deployment.batch):
        members = order[begin : begin + deployment.batch]
        output = job.output[members]
        portion = deployment.prefill.sequences or len(members)
        for first in range(0, len(members), portion):
            some = members[first : first + portion]
            prompt = job.prompt[some]
            yield _make(index, "prefill", some, prompt, prompt, routing, deployment, some[job.output[some] == 1])
            index += 1
        for position in range(int(output.max()) - 1):
            active = members[output > position + 1]
            context = job.prompt[active] + position + 1
            ending = active[job.output[active] == position + 2]
            ones = np.ones(len(active), dtype=np.int64)
            yield _make(index, "decode", active, ones, context, routing, deployment, ending, position)
            index += 1


def _make(
    index: int,
    phase: Phase,
    requests: IntArray,
    new_tokens: IntArray,
    context: IntArray,
    routing: RoutingTable,
    deployment: Deployment,
    ending: IntArray,
    position: int = -1,
) -> Pass:
    size = deployment.expert_batch or len(requests)
    groups = [slice(i, i + size) for i in range(0, len(requests), size)]
    if phase == "prefill":
        counts = [routing.prefill_counts(requests[g]) for g in groups]
    else:
        counts = [routing.decode_counts(requests[g], position) for g in groups]
    tokens = np.array([int(new_tokens[g].sum()) for g in groups], dtype=np.int64)
    return Pass(index, phase, requests, new_tokens, context, np.stack(counts, axis=1), tokens, ending)
