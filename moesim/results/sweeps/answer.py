"""The answer of a sweep as values: what is best, where it peaks, who passes whom, what it costs; one class for each question.

Knows fields, their units and meaning; computes nothing. `answer.json` holds the same fields under the same names
(`answer_file`). Numbers of the metric have the unit of its column (`throughput_tok_s`: tokens per second), values of an axis
that of the axis' column (`hardware.links.pcie.rate (GB/s)`), shares are 0 to 1, percents 0 to 100. Beside a `mean`, `low` and
`high` are the ends of its confidence interval at `Answer.level`, None for a single replication.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from moesim.units import format_number

__all__ = [
    "Answer", "BoundReached", "Counts", "Crossover", "Driver", "Ends", "FrontPoint", "Leader", "Optimum", "OutOfReach",
    "Pair", "Peak", "PointFailure", "Rival", "SearchAnswer", "Settings", "ShareOfAxis", "WarmUp", "settings_words",
    "value_words",
]  # fmt: skip

Number = int | float
Settings = dict[str, int | float | str]
"""Column of an axis -> its value there, as the tables show it."""


class Part:
    """A part of an answer; at the end of a notebook's cell a table of its fields."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def _repr_html_(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        rows = "".join(f"<tr><td>{name}</td><td>{html.escape(_shown(value))}</td></tr>" for name, value in values.items())
        return f"<table><tbody>{rows}</tbody></table>"


def value_words(value: float | str | None) -> str:
    """A value as sentences say it: `12,300`, `0.84`, `98.4`, or the text itself."""
    return value if isinstance(value, str) else format_number(value, 4)


def settings_words(settings: Mapping[str, float | str]) -> str:
    """`policy.hot = 0.9, workload.tokens = 64`."""
    return ", ".join(f"{name} = {value_words(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        plain = all(isinstance(item, (int, float, str)) for item in value.values())
        return settings_words(value) if plain else "; ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, Part):
        return "(" + ", ".join(f"{field.name} {_shown(getattr(value, field.name))}" for field in fields(value)) + ")"  # type: ignore[arg-type]
    return value_words(value)


@dataclass(frozen=True)
class Counts(Part):
    """How many points the experiment has, and what became of them."""

    planned: Annotated[int, Field(alias="asked")]
    """All of them; `asked` in the file."""
    done: int
    refused: int
    """Points that no run can have: the message says why."""
    failed: int
    """Points whose run broke off."""


@dataclass(frozen=True)
class Rival(Part):
    """A setting that is statistically indistinguishable from the best."""

    settings: Settings
    policy: str


@dataclass(frozen=True)
class Leader(Part):
    """The best setting and policy that keep the constraints; of equals the first of the design."""

    settings: Settings
    policy: str
    mean: float
    """Of the metric over the replications."""
    low: float | None
    high: float | None
    samples: int
    """Replications."""
    tied: tuple[Rival, ...]


@dataclass(frozen=True)
class BoundReached(Part):
    """The best setting of a policy that no system can follow."""

    settings: Settings
    policy: str
    mean: float
    low: float | None
    high: float | None
    samples: int


@dataclass(frozen=True)
class Peak(Part):
    """Where a policy is best along one axis, the other axes fixed. Source and validity: `search.find_peak`."""

    axis: str
    column: str
    """Of the table; it holds the unit of `value`, `low` and `high`."""
    policy: str
    at: Settings
    """Values of the other axes."""
    value: Number
    """The value of the axis with the best mean."""
    low: Number
    """The peak lies between `low` and `high`, tested values of the axis."""
    high: Number
    kind: Literal["interior", "edge", "plateau", "flat"]
    """`interior`, `edge`, `plateau` (some values tie) or `flat` (all do)."""
    tied: tuple[Number, ...]
    """The best value and those statistically indistinguishable from it, rising."""
    at_edge: bool
    """Whether one of `tied` is the first or the last of the axis."""
    mean: float
    """Of the metric at `value`."""
    mean_low: float | None
    mean_high: float | None
    samples: int
    worst: float
    """The mean of the metric at the worst value of the axis."""


@dataclass(frozen=True)
class Crossover(Part):
    """Where one contender passes another along an axis. Source and validity: `search.find_crossovers`."""

    axis: str
    column: str
    a: str
    b: str
    at: Settings
    """Values of the other axes."""
    value: float
    """Of the axis, where the straight lines through the means cross."""
    low: Number
    """The last tested value at which `below` is surely ahead."""
    high: Number
    """The first tested value at which `above` is."""
    below: str
    """Who is ahead below `low`."""
    above: str


@dataclass(frozen=True)
class Pair(Part):
    """Two contenders at one setting, over replications that met the same requests and routing; `a` has the better mean."""

    at: Settings
    a: str
    b: str
    ratio: float | None
    """Mean of `a` over mean of `b`; None where that of `b` is not above zero."""
    percent: float | None
    """By how much the mean of `a` exceeds that of `b`, in percent of the latter."""
    percent_low: float | None
    percent_high: float | None
    difference: float
    """Mean of the paired differences a - b, in the unit of the metric."""
    difference_low: float | None
    difference_high: float | None
    verdict: Literal["better", "tie"]
    """`better` or `tie` (`statistics.paired_difference`)."""
    samples: int


@dataclass(frozen=True)
class ShareOfAxis(Part):
    """How much of the variation of the metric is due to one axis of a sampled design."""

    axis: str
    column: str
    share: float
    """Of the variance of ranks, 0 to 1."""
    direction: float | None
    """Spearman's rank correlation, -1 to 1; None for an axis without numbers, or of which one value was drawn."""


@dataclass(frozen=True)
class Driver(Part):
    """What the metric of a policy varies with. Source and validity: `driven.driven`."""

    policy: str
    settings: int
    """Settings that were drawn."""
    explained: float | None
    """Share of the variance of ranks that all axes explain together; None where too few settings were drawn."""
    note: str
    """Why there is no answer, or where it is not to be trusted; else empty."""
    axes: tuple[ShareOfAxis, ...]
    """The largest share first."""


@dataclass(frozen=True)
class FrontPoint(Part):
    """A setting that no other beats in throughput, cost and energy at once; None for a measure that is not weighed."""

    settings: Settings
    policy: str
    throughput_tok_s: float
    """Output tokens per second."""
    cost_usd_per_Mtok: float | None = None
    """USD per million output tokens."""
    energy_J_per_tok: float | None = None
    """Joules per output token."""


@dataclass(frozen=True)
class WarmUp(Part):
    """What was left out of `steady_tok_s` at the start of the runs."""

    cut: Number | str
    """`auto` (MSER-5), `none`, or the passes that the experiment names."""
    runs: int
    """Runs that have a steady state at all."""
    steps_mean: float | None
    """Decode passes left out, on average."""
    unsettled: int
    """Runs too short to settle."""


@dataclass(frozen=True)
class PointFailure(Part):
    """A point without a result."""

    point: str
    """Name of its file."""
    settings: Settings
    policy: str
    replicate: int
    status: Literal["refused", "failed"]
    error: str


@dataclass(frozen=True)
class Answer(Part):
    """What a sweep found: its sentences first, then the numbers behind them."""

    format: str
    metric: str
    """Column of the table that the experiment is about."""
    goal: Literal["highest", "lowest"]
    level: float
    """Of the confidence intervals, 0 to 1."""
    experiment: str
    points: Counts
    sentences: tuple[str, ...]
    """The most wanted first."""
    constraints: tuple[str, ...]
    """What a setting has to keep to be the best, in words."""
    best: Leader | None
    """None where no point has the metric and keeps the constraints."""
    bounds: tuple[BoundReached, ...]
    """The best of them first."""
    lossy: dict[str, tuple[str, ...]]
    """Policy -> what it does to the model's output at most, for those that change it."""
    peaks: tuple[Peak, ...]
    """Of grids: along each axis with three numbers or more, for each policy and setting of the other axes."""
    contenders: str
    """What `a` and `b` of pairs and crossovers name: `policy`, or the column of the only axis without numbers."""
    crossovers: tuple[Crossover, ...]
    pairs: tuple[Pair, ...]
    drivers: tuple[Driver, ...]
    """Of sampled designs."""
    pareto: tuple[FrontPoint, ...]
    """The fastest first."""
    not_weighed: tuple[str, ...]
    """Measures of the front that are unknown for some setting."""
    warm_up: WarmUp
    failures: tuple[PointFailure, ...]

    def _repr_html_(self) -> str:
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f"<p>{html.escape(self.experiment)}</p><ul>{sentences}</ul>"


@dataclass(frozen=True)
class Ends(Part):
    """Two tested values of an axis."""

    low: Number
    high: Number


@dataclass(frozen=True)
class Optimum(Part):
    """The best setting of a policy that a search found among those that keep the constraints."""

    policy: str
    settings: Settings
    between: dict[str, Ends]
    """Column of a searched axis -> the tested values between which the best lies."""
    mean: float
    low: float | None
    high: float | None
    samples: int
    """Replications."""
    runs: int
    """Settings tried."""


@dataclass(frozen=True)
class OutOfReach(Part):
    """A policy, at fixed values of the axes without numbers, that keeps the constraints at no setting tried."""

    policy: str
    settings: Settings
    missed: tuple[str, ...]
    """Constraints that every setting misses, in words."""
    runs: int
    """Settings tried."""


@dataclass(frozen=True)
class SearchAnswer(Answer):
    """What `optimize` found: the answer of all its points, and the best values of each policy."""

    optimum: tuple[Optimum, ...]
    """The best policy first."""
    out_of_reach: tuple[OutOfReach, ...]
