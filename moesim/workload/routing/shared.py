"""Owns routing that all requests have in common: the same prompt, greedily continued, asks for the same experts.

Knows the law or the record that says which; nothing of when requests run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moesim.arrays import IntArray
from moesim.errors import InputError, Mistake
from moesim.progress import Progress
from moesim.streams import Streams
from moesim.workload.routing.law import Routed, Routing, own_counts
from moesim.workload.routing.popularity import PopularityTable
from moesim.workload.routing.profile import Profile, Same
from moesim.workload.routing.sticky import Sticky
from moesim.workload.routing.trace import Trace
from moesim.workload.routing.zipf import Uniform, Zipf
from moesim.workload.table import Job, RoutingTable

__all__ = ["Shared"]


class Shared(Routing):
    """Every request takes the experts of one and the same request, token by token.

    In lock step a batch of any size then touches k experts per layer. With `ahead`, the first request is so many tokens
    ahead of the others, as when a server has started it before the rest arrive: a pass meets two tokens, not one.
    Valid: equal prompts; the contexts of all requests are taken as equal, also with `ahead`.
    """

    kind: Literal["shared"] = "shared"
    of: Annotated[Uniform | Zipf | Sticky | Trace | PopularityTable, Field(discriminator="kind")]
    """Where the one request's routing comes from."""
    ahead: int = Field(default=0, ge=0)
    """Tokens by which the first request is ahead of the others."""

    def table(
        self, job: Job, model: Routed, streams: Streams, base: Path, profile: Profile, progress: Progress | None = None
    ) -> RoutingTable:
        if (job.prompt != job.prompt[0]).any():
            message = "requests that share their routing have one prompt; give a whole number of tokens"
            raise InputError(Mistake(message, path="workload.prompt"))
        first = slice(0, 1)
        longest = int(job.output.max())
        source = None if job.source is None else job.source[first]
        shared_job = replace(job, arrival=job.arrival[first], prompt=job.prompt[first], source=source)
        shared_job = replace(shared_job, output=np.array([longest + (self.ahead if longest > 1 else 0)]))
        table = self.of.table(shared_job, model, streams, base, profile, progress)
        prefill = np.repeat(table.prefill, job.requests, axis=0)
        decode = np.repeat(table.decode[:, : job.passes], job.requests, axis=0)
        if job.requests > 1 and job.passes:
            decode[0] = table.decode[0, self.ahead : self.ahead + job.passes]
        learnt = table.profile
        if isinstance(profile, Same):
            learnt = self.learn(profile, own_counts(profile, prefill, decode, job.output), model, streams, base)
        notes = (*table.notes, f"{job.requests} requests share one routing")
        prompts = None if table.prompts is None else partial(_repeated, table.prompts, job.requests)
        return RoutingTable(prefill, decode, model.experts, learnt, notes, prompts)

    def prototype(self, job: Job, model: Routed, streams: Streams, base: Path) -> IntArray:
        return self.of.prototype(job, model, streams, base)


def _repeated(prompts: Callable[[], NDArray[np.unsignedinteger[Any]]], requests: int) -> NDArray[np.unsignedinteger[Any]]:
    """[R, P, L, k] the one prompt for each of R requests."""
    ids = prompts()
    return np.broadcast_to(ids, (requests, *ids.shape[1:]))
