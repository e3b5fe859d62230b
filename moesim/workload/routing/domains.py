"""Owns the domains of generated requests: which there are, which each request is of, and what those of one have in common.

Knows jobs and streams; nothing of presets or of how tilts become experts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.streams import Streams
from moesim.workload.draws.blocks import Process, threaded
from moesim.workload.table import Job

__all__ = ["Domains", "Per", "domain_tilts", "drawn_domains", "only", "shares_of"]

_Name = Annotated[str, StringConstraints(min_length=1)]
_Weight = Annotated[float, Field(ge=0, le=1e9)]
Domains = Annotated[int, Field(ge=1, le=1000)] | Annotated[dict[_Name, _Weight], Field(min_length=1)]
"""A number of domains, which come equally often, or name -> share of requests, in any unit."""
Per = Literal["request", "user"]
"""Who keeps to one domain."""


def shares_of(domains: Domains) -> dict[str, float]:
    """Name -> share of requests, sum 1; numbered domains are called `1`, `2`, ... InputError where all shares are 0."""
    weights = {str(number + 1): 1.0 for number in range(domains)} if isinstance(domains, int) else domains
    total = sum(weights.values())
    if not total > 0:
        raise InputError(Mistake("all shares are 0; give one domain a share above 0", path="workload.routing.domains"))
    return {name: weight / total for name, weight in weights.items()}


def only(shares: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """The domains `names` alone, in proportion to their `shares`, equally where none of them is in the load.

    InputError for names that `shares` lacks.
    """
    unknown = [name for name in names if name not in shares]
    if unknown:
        known = ", ".join(shares)
        texts = [f"no domain '{name}' in the routing; it has {known}.{did_you_mean(name, shares)}" for name in unknown]
        raise InputError(*(Mistake(text, path="workload.profile.tasks") for text in texts))
    total = sum(shares[name] for name in names)
    return {name: (shares[name] / total if total else 1 / len(names)) if name in names else 0.0 for name in shares}


def drawn_domains(job: Job, shares: Mapping[str, float], streams: Streams, stream: str, per: Per) -> IntArray:
    """[R] the domain of each request, by its place in `shares`. It depends on the seed and on who it is.

    InputError for `per: user` where no user waits for answers.
    """
    if per == "user" and not job.users:
        message = (
            "'user' needs users that wait for answers: a workload of kind online with arrivals of kind closed; use 'request'"
        )
        raise InputError(Mistake(message, path="workload.routing.per"))
    who = np.arange(job.requests) % job.users if per == "user" else np.arange(job.requests)
    bounds = np.cumsum(list(shares.values()))
    draws = streams[f"{stream} domains"].random(int(who.max()) + 1)
    domain: IntArray = np.searchsorted(bounds / bounds[-1], draws, side="right")[who].astype(np.int64)
    return domain


def domain_tilts(names: Mapping[str, float], process: Process, streams: Streams) -> FloatArray:
    """[D, L, E] tilts of the domains, threaded from layer to layer; each depends on the seed and its name alone."""
    generators = (streams.spawn("domain", zlib.crc32(name.encode())) for name in names)
    return np.stack([threaded(generator.standard_normal(process.curve.shape), process.thread) for generator in generators])
