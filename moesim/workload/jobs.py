"""Owns the workloads that a scenario can name: all requests at once, or one batch through a single MoE layer.

Knows routing and lengths by their slots only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from moesim.errors import InputError, excerpt
from moesim.plugins import find
from moesim.progress import Progress
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.workload.requests.lengths import LONGEST, Lengths, unread
from moesim.workload.routing.law import Routed, Routing, normalised
from moesim.workload.routing.popularity import PopularityTable
from moesim.workload.routing.profile import HeldOut, Profile, Stratified
from moesim.workload.routing.profile import Uniform as Unknown
from moesim.workload.routing.shared import Shared
from moesim.workload.routing.sticky import Sticky
from moesim.workload.routing.strata import prototypes
from moesim.workload.routing.trace import Trace
from moesim.workload.routing.zipf import Uniform, Zipf
from moesim.workload.table import Job, RoutingTable, nowhere

__all__ = ["AnyRouting", "LayerBatch", "Offline", "routed"]


def _own_or_foreign(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Built-in kinds as they are; `kind: module:Class` names anybody's subclass of Routing; objects pass."""
    if isinstance(value, Routing):
        return value
    if isinstance(value, Mapping) and ":" in str(value.get("kind", "")):
        rest = {key: item for key, item in value.items() if key != "kind"}
        return _foreign(str(value["kind"])).model_validate(rest, context=info.context)
    return handler(value)


def _foreign(name: str) -> type[Routing]:
    try:
        spec = find("routing", name)
    except InputError as error:
        raise PydanticCustomError("routing_kind", "{text}", {"text": str(error)}) from None
    if not issubclass(spec, Routing):
        text = f"'{excerpt(name)}' is not a routing law: it is not derived from moesim's Routing"
        raise PydanticCustomError("routing_kind", "{text}", {"text": text})
    return spec


AnyRouting = Annotated[
    SerializeAsAny[Uniform | Zipf | Sticky | Trace | PopularityTable | Shared],
    Field(discriminator="kind"),
    WrapValidator(_own_or_foreign),
]
"""Any routing law: a built-in kind, `module:Class`, or (from Python) an object."""


class Offline(Spec):
    """All requests arrive at time 0; what counts is the time until the last is done."""

    kind: Literal["offline"] = "offline"
    requests: int | None = Field(default=None, ge=1)
    """Number of requests; may be left out with a trace, which has its own."""
    prompt: Lengths | None = None
    """Tokens of each prompt; may be left out with a trace."""
    output: Lengths | None = None
    """Tokens generated for each request, the prefill pass's first token included; may be left out with a trace."""
    routing: AnyRouting
    """Which experts tokens ask for."""
    profile: Profile = HeldOut()
    """What placements know beforehand about the popularity of experts."""
    chunk: int = Field(default=0, ge=0)
    """Tokens of prompts that pass the layers together: longer prompts are cut, and the rest of one passes with the beginning of
    the next. Every chunk meets the weights again and attends to the chunks before it. 0 for whole prompts."""

    def build(self, model: Routed, streams: Streams, base: Path, progress: Progress | None = None) -> tuple[Job, RoutingTable]:
        """The job and the routing of its every token. `base`: folder that paths are relative to."""
        job = self.routing.job(self.requests, self.prompt, self.output, model, streams, base, self.profile)
        job = replace(job, chunk=self.chunk)
        table = routed(self.routing, self.profile, job, model, streams, base, progress)
        return job, replace(table, notes=(*table.notes, *unread((self.prompt, self.output), base)))


class LayerBatch(Spec):
    """One batch of tokens through a single MoE layer: no attention, no decode. The job is one prompt of that many tokens."""

    kind: Literal["layer_batch"] = "layer_batch"
    tokens: int = Field(ge=1, le=LONGEST)
    """Tokens of the batch."""
    routing: AnyRouting
    """Which experts tokens ask for."""
    profile: Profile = HeldOut()
    """What placements know beforehand about the popularity of experts."""

    def build(self, model: Routed, streams: Streams, base: Path, progress: Progress | None = None) -> tuple[Job, RoutingTable]:
        """The job and the routing of its every token. `base`: folder that paths are relative to."""
        single = np.ones(1, dtype=np.int64)
        job = Job(np.zeros(1), single * self.tokens, single, layers=1, attention=False)
        return job, routed(self.routing, self.profile, job, model, streams, base, progress)


def routed(
    routing: Routing, profile: Profile, job: Job, model: Routed, streams: Streams, base: Path, progress: Progress | None
) -> RoutingTable:
    """The routing with its profile; one of prototypes is learnt from the requests. Nothing for a model without experts."""
    if not model.n_moe:
        return nowhere(job)
    if not isinstance(profile, Stratified):
        return routing.table(job, model, streams, base, profile, progress)
    table = routing.table(job, model, streams, base, Unknown(), progress)
    topics = table.topics if profile.by == "topic" else None
    topics = np.zeros(job.requests, dtype=np.int64) if topics is None else topics
    chosen = prototypes(topics, profile.prototypes, streams["profile"])
    return replace(table, profile=normalised(table.prefill_counts(chosen)))
