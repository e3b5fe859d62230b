"""Owns when requests arrive: laws, closed loops of users, and the rows of a file.

Knows nothing of what requests ask for; draws come from the stream `arrivals` alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import FloatArray
from moesim.errors import InputError, Mistake
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.units import Duration, Rate
from moesim.workload.requests.arrival_trace import TraceArrivals
from moesim.workload.requests.servegen import ServeGen

__all__ = ["AnyArrivals", "Bursts", "Closed", "Constant", "Gamma", "Poisson", "Ramp", "Timed", "Weibull", "timed"]

_GRID = 1e9
"""Times are whole nanoseconds, so that a last digit that processors round differently is gone."""


class Timed(NamedTuple):
    """When R requests arrive."""

    arrival: FloatArray
    """[R] seconds, rising; NaN where a request waits for another one of its user to end."""
    users: int = 0
    """Users of a closed loop: request i + `users` follows request i. 0: no user waits for an answer."""
    think: FloatArray | None = None
    """[R] seconds between the end of a user's request before and this one."""


class Poisson(Spec):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate
    """Mean requests per second, such as `2/s`."""


class Constant(Spec):
    """Equal gaps, the first request at 0."""

    kind: Literal["constant"] = "constant"
    rate: Rate
    """Requests per second."""


class Gamma(Spec):
    """Gamma gaps: the coefficient of variation is 1 / sqrt(burstiness). Source: vLLM 0.19.0, benchmarks/serve.py."""

    kind: Literal["gamma"] = "gamma"
    rate: Rate
    """Mean requests per second."""
    burstiness: float = Field(gt=0)
    """Shape of the gaps: 1 is Poisson, less is burstier."""
    rescaled: bool = False
    """Whether gaps are stretched so that the last request arrives at requests / rate, as vLLM's benchmark does."""


class Weibull(Spec):
    """Weibull gaps. Source: ServeGen, arXiv:2505.09999, which finds them beside gamma gaps in production traffic."""

    kind: Literal["weibull"] = "weibull"
    rate: Rate
    """Mean requests per second."""
    shape: float = Field(gt=0, le=100)
    """1 is Poisson, less is burstier."""


class Bursts(Spec):
    """Poisson arrivals at one rate, and at a higher one for a while at the beginning of every period."""

    kind: Literal["bursts"] = "bursts"
    rate: Rate
    """Mean requests per second outside of bursts."""
    burst: Rate
    """Mean requests per second in a burst."""
    every: Annotated[Duration, Field(gt=0)]
    """Seconds from the beginning of a burst to that of the next."""
    lasting: Annotated[Duration, Field(gt=0)]
    """Seconds that a burst lasts."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lasting >= self.every:
            raise ValueError(f"lasting: a burst of {self.lasting:g} s does not end before the next, {self.every:g} s later")
        return self


class Ramp(Spec):
    """Poisson arrivals whose rate rises or falls evenly, and then stays."""

    kind: Literal["ramp"] = "ramp"
    start: Rate
    """Requests per second at 0."""
    end: Rate
    """Requests per second after `lasting`."""
    lasting: Annotated[Duration, Field(gt=0)]
    """Seconds that the change takes."""


class Closed(Spec):
    """A closed loop: each user sends a request, waits for its answer, thinks, and sends the next one."""

    kind: Literal["closed"] = "closed"
    users: int = Field(ge=1)
    """Users at a time; all send their first request at 0."""
    think: Duration = 0.0
    """Seconds between an answer and the user's next request: the mean where `thinking` is exponential."""
    thinking: Literal["constant", "exponential"] = "constant"
    """Law of the seconds between."""


AnyArrivals = Annotated[
    Poisson | Constant | Gamma | Weibull | Bursts | Ramp | Closed | TraceArrivals | ServeGen, Field(discriminator="kind")
]


def timed(arrivals: Poisson | Constant | Gamma | Weibull | Bursts | Ramp | Closed, requests: int, streams: Streams) -> Timed:
    """`requests` arrivals of a law. A longer job begins with the arrivals of a shorter one, unless gaps are rescaled."""
    generator = streams["arrivals"]
    if isinstance(arrivals, Closed):
        return _closed(arrivals, requests, generator)
    if isinstance(arrivals, Constant):
        return Timed(np.arange(requests) / arrivals.rate)
    if isinstance(arrivals, (Bursts, Ramp)):
        work = np.cumsum(generator.standard_exponential(requests))
        return Timed(_grid(_ramp(arrivals, work) if isinstance(arrivals, Ramp) else _bursts(arrivals, work)))
    if isinstance(arrivals, Gamma):
        gaps = generator.standard_gamma(arrivals.burstiness, requests) / (arrivals.burstiness * arrivals.rate)
        if arrivals.rescaled:
            gaps *= requests / (arrivals.rate * gaps.sum())
    elif isinstance(arrivals, Weibull):
        from scipy.special import gamma

        gaps = generator.weibull(arrivals.shape, requests) / (gamma(1.0 + 1.0 / arrivals.shape) * arrivals.rate)
    else:
        gaps = generator.standard_exponential(requests) / arrivals.rate
    times = np.cumsum(gaps)
    if not np.isfinite(times).all():
        raise InputError(Mistake("gaps between requests are too long for a clock", path="workload.arrivals"))
    return Timed(_grid(times))


def _grid(times: FloatArray) -> FloatArray:
    return np.asarray(np.rint(times * _GRID) / _GRID)


def _closed(arrivals: Closed, requests: int, generator: np.random.Generator) -> Timed:
    first = np.where(np.arange(requests) < arrivals.users, 0.0, np.nan)
    think = np.full(requests, arrivals.think)
    if arrivals.thinking == "exponential":
        think = _grid(generator.standard_exponential(requests) * arrivals.think)
    return Timed(first, arrivals.users, think)


def _ramp(arrivals: Ramp, work: FloatArray) -> FloatArray:
    """[R] times at which the expected number of arrivals reaches `work` [R]: start t + (end - start) t^2 / (2 lasting)."""
    start, end, lasting = arrivals.start, arrivals.end, arrivals.lasting
    slope = (end - start) / lasting
    within = (start + end) * lasting / 2.0
    inside = np.minimum(work, within)
    # the root that is stable for any sign of the slope, and for none
    early = 2.0 * inside / (start + np.sqrt(np.maximum(start**2 + 2.0 * slope * inside, 0.0)))
    return np.asarray(np.where(work <= within, early, lasting + (work - within) / end))


def _bursts(arrivals: Bursts, work: FloatArray) -> FloatArray:
    """[R] times at which the expected number of arrivals reaches `work` [R]."""
    burst = arrivals.burst * arrivals.lasting
    whole = burst + arrivals.rate * (arrivals.every - arrivals.lasting)
    periods, rest = np.divmod(work, whole)
    inside = np.where(rest < burst, rest / arrivals.burst, arrivals.lasting + (rest - burst) / arrivals.rate)
    return np.asarray(periods * arrivals.every + inside)
