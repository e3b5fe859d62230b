"""Owns the workload whose requests arrive over time, and how they are served.

Knows arrivals, routing, lengths and schedulers by their slots only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, SerializeAsAny, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from moesim.contract import Deployment, Problem
from moesim.errors import InputError, Mistake, excerpt
from moesim.plugins import find
from moesim.progress import Progress
from moesim.scheduling.base import Batching
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.serve import Serving
from moesim.scheduling.slots import Slots
from moesim.scheduling.static import Static
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.units import Duration, Share
from moesim.workload.jobs import AnyRouting, routed
from moesim.workload.requests.arrival_trace import Rows, TraceArrivals
from moesim.workload.requests.arrivals import AnyArrivals, timed
from moesim.workload.requests.lengths import Lengths, draw_lengths, unread
from moesim.workload.requests.servegen import ServeGen
from moesim.workload.routing.law import Routed
from moesim.workload.routing.profile import HeldOut, Profile
from moesim.workload.routing.trace import Trace
from moesim.workload.table import Job, RoutingTable

__all__ = ["AnyScheduler", "Online", "Slo"]


def _own_or_foreign(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Built-in kinds as they are; `kind: module:Class` names anybody's subclass of Batching; objects pass."""
    if isinstance(value, Batching):
        return value
    if isinstance(value, Mapping) and ":" in str(value.get("kind", "")):
        rest = {key: item for key, item in value.items() if key != "kind"}
        return _foreign(str(value["kind"])).model_validate(rest, context=info.context)
    return handler(value)


def _foreign(name: str) -> type[Batching]:
    try:
        spec = find("schedulers", name)
    except InputError as error:
        raise PydanticCustomError("scheduler_kind", "{text}", {"text": str(error)}) from None
    if not issubclass(spec, Batching):
        text = f"'{excerpt(name)}' is not a scheduler: it is not derived from moesim's Batching"
        raise PydanticCustomError("scheduler_kind", "{text}", {"text": text})
    return spec


AnyScheduler = Annotated[
    SerializeAsAny[Continuous | PrefillFirst | Slots | Static],
    Field(discriminator="kind"),
    WrapValidator(_own_or_foreign),
]
"""Any scheduler: a built-in kind, `module:Class`, or (from Python) an object."""
_LATEST = 4e6
"""Seconds from which on the clock of a run is too short."""


class Slo(Spec):
    """What a request has to keep to count as good; limits that are not given are not asked for.

    Source: goodput of vLLM 0.19.0, benchmarks/serve.py, and DistServe (OSDI 2024).
    """

    ttft: Duration | None = None
    """Longest time to the first token."""
    tpot: Duration | None = None
    """Longest mean time per further token; a request of one token keeps it."""
    e2e: Duration | None = None
    """Longest time from arrival to the last token."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.ttft is None and self.tpot is None and self.e2e is None:
            raise ValueError("give at least one of ttft, tpot, e2e")
        return self


class Online(Spec):
    """Requests arrive over time, queue, and are served by a scheduler; what counts is how long each waits."""

    kind: Literal["online"] = "online"
    requests: int | None = Field(default=None, ge=1)
    """Number of requests; may be left out with arrivals from a trace, which are then all taken."""
    arrivals: AnyArrivals
    """When requests arrive."""
    prompt: Lengths | None = None
    """Tokens of each prompt; may be left out with arrivals from a trace, or routing from one."""
    output: Lengths | None = None
    """Tokens generated for each request; may be left out as `prompt`."""
    routing: AnyRouting
    """Which experts tokens ask for."""
    profile: Profile = HeldOut()
    """What placements know beforehand about the popularity of experts."""
    scheduler: AnyScheduler = Continuous()
    """Who is in the next step."""
    urgent: Share = 0.0
    """Share of the requests, chosen at random, that go before the others where the scheduler orders by priority."""
    slo: Slo | None = None
    """What a request has to keep to count for goodput."""
    warm_up: int = Field(default=0, ge=0)
    """Requests at the beginning that statistics of latency leave out."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        recorded = isinstance(self.arrivals, (TraceArrivals, ServeGen))
        if self.requests is None and not recorded:
            raise ValueError("requests: missing; it has to be given, unless arrivals come from a trace")
        if self.urgent and getattr(self.scheduler, "order", None) != "priority":
            raise ValueError(
                "urgent: the scheduler does not order by priority; write scheduler: {kind: continuous, order: priority}"
            )
        if self.requests is not None and self.warm_up >= self.requests:
            raise ValueError(f"warm_up: {self.warm_up} of {self.requests} requests leaves none")
        return self

    def job(self, model: Routed, streams: Streams, base: Path) -> tuple[Job, tuple[str, ...]]:
        """Arrivals and lengths without routing, and notes on them."""
        if isinstance(self.arrivals, (TraceArrivals, ServeGen)):
            job, notes = self._recorded(self.arrivals.rows(self.requests, streams, base), model, streams, base)
        else:
            assert self.requests is not None
            job, notes = self.routing.job(self.requests, self.prompt, self.output, model, streams, base, self.profile), ()
            times = timed(self.arrivals, job.requests, streams)
            job = replace(job, arrival=times.arrival, users=times.users, think=times.think)
        if not (np.nan_to_num(job.arrival) < _LATEST).all():
            raise InputError(
                Mistake(f"the last request arrives after {_LATEST:g} s; take a shorter window", "workload.arrivals")
            )
        if self.urgent:
            urgent = streams["priorities"].random(job.requests) < self.urgent
            job = replace(job, priority=np.where(urgent, 0, 1))
        rules = self.scheduler
        job = replace(job, most=rules.most_sequences, chunk=rules.most_tokens, kv_block=rules.block, kv_beside=rules.beside)
        return replace(job, kv=rules.kv_cache_memory, kv_aside=rules.aside), notes

    def _recorded(self, rows: Rows, model: Routed, streams: Streams, base: Path) -> tuple[Job, tuple[str, ...]]:
        count = len(rows.arrival)
        if isinstance(self.routing, Trace):
            job = self.routing.job(count, self.prompt, self.output, model, streams, base, self.profile)
            note = "lengths are those of the routing trace, arrivals those of the file of arrivals"
            return replace(job, arrival=rows.arrival, priority=rows.priority), (*rows.notes, note)
        prompt = rows.prompt if self.prompt is None else draw_lengths(self.prompt, count, streams, "prompt", base)
        output = rows.output if self.output is None else draw_lengths(self.output, count, streams, "output", base)
        shared = rows.shared if self.prompt is None else None
        return Job(rows.arrival, prompt, output, model.n_moe, shared=shared, priority=rows.priority), rows.notes

    def schedule(self, problem: Problem, deployment: Deployment) -> Serving:
        """The scheduler of a run, once the policy has placed the model."""
        return Serving(self.scheduler, problem, deployment)

    def build(self, model: Routed, streams: Streams, base: Path, progress: Progress | None = None) -> tuple[Job, RoutingTable]:
        """The job and the routing of its every token. `base`: folder that paths are relative to."""
        job, notes = self.job(model, streams, base)
        if self.warm_up >= job.requests:
            raise InputError(Mistake(f"{self.warm_up} of {job.requests} requests leaves none", path="workload.warm_up"))
        table = routed(self.routing, self.profile, job, model, streams, base, progress)
        return job, replace(table, notes=(*table.notes, *notes, *unread((self.prompt, self.output), base)))
