"""What an experiment file may say: which values are varied, how they are combined, how often each run is repeated.

Knows the form only; which paths exist and which values are possible, the scenario says.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.spec import Spec

__all__ = [
    "KINDS",
    "Axis",
    "Design",
    "Experiment",
    "Grid",
    "LatinHypercube",
    "Limit",
    "List",
    "LogRange",
    "Range",
    "Sobol",
    "Tpe",
    "Zip",
]

Edge = float | str
"""A number, or a quantity as text (`16 GB/s`)."""


class List(Spec):
    """The values themselves; a plain list is short for this."""

    kind: Literal["list"] = "list"
    values: tuple[Any, ...] = Field(min_length=1)
    """What the path is set to, one after another: whatever may stand there in a scenario."""
    labels: tuple[int | float | str, ...] | None = None
    """What tables and figures call the values, where they are not numbers that speak for themselves."""


class Range(Spec):
    """Equal steps from `low` to `high`, both included."""

    kind: Literal["range"] = "range"
    low: Edge
    """The first value."""
    high: Edge
    """The last value, in the unit of `low`."""
    points: int | None = Field(None, ge=2)
    """How many values; this or `step`."""
    step: Edge | None = None
    """Distance of two values, in the unit of `low`; the last value is the last that does not pass `high`."""
    whole: bool = False
    """Rounds each value to a whole number: for counts in a design that draws between the ends."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Range:
        if self.points is not None and self.step is not None:
            raise ValueError("points: 'points' and 'step' say the same thing; give one of them")
        return self


class LogRange(Spec):
    """Equal ratios from `low` to `high`, both included; values between are rounded to six digits."""

    kind: Literal["log"] = "log"
    low: Edge
    """The first value, above zero."""
    high: Edge
    """The last value, in the unit of `low`."""
    points: int | None = Field(None, ge=2)
    """How many values; a design that draws between the ends needs none."""
    whole: bool = False
    """Rounds each value to a whole number."""


Column = Annotated[List | Range | LogRange, Field(discriminator="kind")]


class Zip(Spec):
    """Several paths that move together: the first values of all, then the second ones, and so on."""

    kind: Literal["zip"] = "zip"
    paths: dict[str, Column] = Field(min_length=1)
    """Dotted path -> its values; all paths have equally many."""
    labels: tuple[int | float | str, ...] | None = None
    """What tables and figures call the steps, in a column that is called like the axis; without, they show every path."""


Axis = List | Range | LogRange | Zip
KINDS: dict[str, type[Axis]] = {"list": List, "range": Range, "log": LogRange, "zip": Zip}
"""What an axis may be."""


class Grid(Spec):
    """Every value of an axis with every value of all others."""

    kind: Literal["grid"] = "grid"


class LatinHypercube(Spec):
    """Random settings, one in each of equally many slices of every axis (scipy.stats.qmc.LatinHypercube)."""

    kind: Literal["latin_hypercube"] = "latin_hypercube"
    points: int = Field(ge=1)
    """How many settings."""
    seed: int = Field(0, ge=0)
    """Of the draw of the settings; the runs' own randomness is the scenario's `seed`."""


class Sobol(Spec):
    """Settings of a scrambled Sobol' sequence, which fill the space evenly (scipy.stats.qmc.Sobol)."""

    kind: Literal["sobol"] = "sobol"
    points: int = Field(ge=1)
    """How many settings: a power of two, which keeps the balance of the sequence."""
    seed: int = Field(0, ge=0)
    """Of the scrambling."""

    @model_validator(mode="after")
    def _power_of_two(self) -> Sobol:
        if self.points & (self.points - 1):
            below = 1 << (self.points.bit_length() - 1)
            raise ValueError(
                f"points: {self.points} is not a power of two, which a Sobol' design needs; {below} or {2 * below}"
            )
        return self


class Tpe(Spec):
    """Settings that Optuna proposes from what the ones before gave, numbers, words and policies alike: for `moesim optimize`.

    The first ones are the first value of every axis, and each further value (of a range its other end) by itself, with every
    policy; then a Parzen estimator in several variables, four settings at a time whatever the number of processes. Settings
    that miss a constraint tell it where not to look. Without Optuna (`pip install moesim[optimize]`) the grid is searched.
    Source: Bergstra et al., Algorithms for hyper-parameter optimization, NIPS 2011; optuna.samplers.TPESampler.
    """

    kind: Literal["tpe"] = "tpe"
    points: int = Field(ge=1)
    """How many settings are tried, those of the first look included; a setting that is proposed twice is run once."""
    seed: int = Field(0, ge=0)
    """Of the proposals; the runs' own randomness is the scenario's `seed`."""


Design = Annotated[Grid | LatinHypercube | Sobol | Tpe, Field(discriminator="kind")]


class Limit(Spec):
    """What a number of a run must not pass for its setting to count, in the mean over the replications."""

    at_least: Edge | None = None
    """The lowest value."""
    at_most: Edge | None = None
    """The highest value."""

    @model_validator(mode="after")
    def _limits_something(self) -> Limit:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        return self


class Experiment(Spec):
    """Many runs of one scenario that differ in the values of the axes, in the policy and in the random numbers."""

    name: str = ""
    """How the results call it; the file's name if not given. Letters, digits, '-', '_' and '.'."""
    summary: str = ""
    """One sentence: what is varied, and what for."""
    source: str = ""
    """Paper and section that the experiment follows."""
    expect: str = ""
    """What should come out, in words."""
    scenario: Any
    """The name or the path of a scenario, or a mapping that extends one."""
    policies: tuple[Any, ...] | None = Field(None, min_length=1)
    """Names, or mappings with `kind`, parameters and, to tell two of a kind apart, `label`; default: the scenario's own."""
    axes: dict[str, Annotated[Axis, Field(discriminator="kind")]] = Field(default_factory=dict)
    """Dotted path -> values; a zip axis carries any name. A `policy.` path holds for the policies that have it."""
    design: Design = Grid()
    """How the values of several axes are combined; a word is short for its `kind`."""
    replications: int = Field(1, ge=1)
    """Runs of each setting, every one with random numbers of its own, which all settings and policies share."""
    metric: str = "throughput_tok_s"
    """The column of the table that answers are about, or an axis: with constraints, the highest rate that keeps them, say."""
    goal: Literal["highest", "lowest"] | None = None
    """Which end of the metric is best; default: the highest throughput, hit rate or share or value of an axis, the
    lowest of all else."""
    constraints: dict[str, Limit] = Field(default_factory=dict)
    """Column of the table -> what it must keep for a setting to be best: `ttft_s.p99: {at_most: 2 s}`, `slo.attainment:
    {at_least: 99 %}`, `machine_usd: {at_most: 20 kUSD}`, `power_W: {at_most: 900 W}`."""
    level: float = Field(0.95, gt=0, lt=1)
    """Confidence level of every interval."""
    warm_up: Literal["auto", "none"] | Annotated[int, Field(ge=0)] = "auto"
    """Decode passes left out of `steady_tok_s`: by MSER-5 for each run (`auto`), `none`, or a number of passes."""
    bound: bool = True
    """Whether each run is held against its bound; without, a run of a small scenario is several times as fast."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.\-]*", name):
            raise ValueError(f"'{name}' names files; write letters, digits, '-', '_' and '.'")
        return name
