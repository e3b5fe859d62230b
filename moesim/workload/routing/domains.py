"""Owns the domains of generated requests: which there are, which each request is of, and what those of one have in common.

Knows jobs and streams; nothing of presets or of how tilts become experts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.units import Share
from moesim.workload.draws.blocks import Process, threaded
from moesim.workload.table import Job

__all__ = ["Domains", "Drift", "Per", "domain_tilts", "drawn_domains", "only", "shares_of"]

_Name = Annotated[str, StringConstraints(min_length=1)]
_Weight = Annotated[float, Field(ge=0, le=1e9)]
Domains = Annotated[int, Field(ge=1, le=1000)] | Annotated[dict[_Name, _Weight], Field(min_length=1)]
"""A number of domains, which come equally often, or name -> share of requests, in any unit."""
Per = Literal["request", "user"]
"""Who keeps to one domain."""


class Drift(Spec):
    """The shares of domains change while requests come, by their number: at once, or evenly over a stretch.

    Source: the law's own domains; what real services do is little known. DeepSeek-V3's experts of code and of chat, say, change
    places when an office closes. Valid: each request keeps its domain, so the change reaches running ones through new ones.
    """

    domains: dict[_Name, _Weight] = Field(min_length=1)
    """Shares of the domains in the end, by name, in any unit; a name that the routing lacks is a new domain."""
    begin: Share = 0.5
    """Share of the requests after which they begin to change."""
    end: Share | None = None
    """Share of the requests after which they no longer change; `begin`, so that they switch at once, if not given."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end is not None and self.end < self.begin:
            raise ValueError(f"end: {self.end:g} is before begin, {self.begin:g}")
        if not sum(self.domains.values()) > 0:
            raise ValueError("domains: all shares are 0; give one domain a share above 0")
        return self

    def progress(self, requests: int) -> FloatArray:
        """[R] how far each request is from the first shares (0) to the last (1)."""
        place = np.arange(requests) / requests
        end = self.begin if self.end is None else self.end
        if end == self.begin:
            return (place >= self.begin).astype(np.float64)
        progress: FloatArray = np.clip((place - self.begin) / (end - self.begin), 0.0, 1.0)
        return progress


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


def drawn_domains(
    job: Job, shares: Mapping[str, float], streams: Streams, stream: str, per: Per, drift: Drift | None = None
) -> IntArray:
    """[R] the domain of each request, by its place in `shares`, which has those of `drift`, too.

    It depends on the seed, on who it is, and with `drift` on how far it is among the requests. InputError for `per: user` where
    no user waits for answers.
    """
    if per == "user" and not job.users:
        message = (
            "'user' needs users that wait for answers: a workload of kind online with arrivals of kind closed; use 'request'"
        )
        raise InputError(Mistake(message, path="workload.routing.per"))
    who = np.arange(job.requests) % job.users if per == "user" else np.arange(job.requests)
    draws = streams[f"{stream} domains"].random(int(who.max()) + 1)[who]
    first = _bounds(list(shares.values()))
    if drift is None:
        domain: IntArray = np.searchsorted(first, draws, side="right").astype(np.int64)
        return domain
    last = _bounds([drift.domains.get(name, 0.0) for name in shares])
    progress = drift.progress(job.requests)[:, None]
    bounds = (1.0 - progress) * first + progress * last
    return np.asarray((bounds[:, :-1] <= draws[:, None]).sum(axis=1), dtype=np.int64)


def _bounds(shares: list[float]) -> FloatArray:
    """[D] running sums of shares, the last 1."""
    sums = np.cumsum(shares)
    return np.asarray(sums / sums[-1])


def domain_tilts(names: Mapping[str, float], process: Process, streams: Streams) -> FloatArray:
    """[D, L, E] tilts of the domains, threaded from layer to layer; each depends on the seed and its name alone."""
    generators = (streams.spawn("domain", zlib.crc32(name.encode())) for name in names)
    return np.stack([threaded(generator.standard_normal(process.curve.shape), process.thread) for generator in generators])
