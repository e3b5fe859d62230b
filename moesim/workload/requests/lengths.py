"""Owns how long prompts and outputs are: fixed numbers, distributions, or the rows of a file.

Knows nothing of routing; draws come from the stream `lengths` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moesim.arrays import IntArray
from moesim.errors import InputError, Mistake
from moesim.portable import exponential, logarithm
from moesim.spec import Spec
from moesim.streams import Streams
from moesim.workload.csvfile import column_names, read_columns

__all__ = ["LONGEST", "NO_LENGTH", "UNREAD", "FromTable", "Lengths", "LogNormal", "UniformLengths", "draw_lengths", "unread"]

UNREAD = ("arrival_s", "cached_prefix_tokens_infinite_cache", "prefix_row")
"""Columns that `moesim import` writes and that lengths do not read."""

LONGEST = 20_000_000
"""Most tokens of a prompt or of an output: twice the longest context of a published model (Llama-4 Scout, 10 million)."""
NO_LENGTH = f"is not a number of tokens (1, 2, ... {LONGEST:,})"
"""What a message says of a row that no request can have."""

_PART = {"prompt": 0, "output": 1, "rows": 2}


class LogNormal(Spec):
    """Lognormal lengths, rounded and kept within bounds."""

    kind: Literal["lognormal"] = "lognormal"
    median: float = Field(gt=0)
    """Tokens that half of the requests stay below."""
    sigma: float = Field(ge=0)
    """Standard deviation of the natural logarithm."""
    minimum: int = Field(default=1, ge=1, le=LONGEST)
    """Shorter ones are drawn out to this many tokens."""
    maximum: int = Field(default=1_000_000, ge=1, le=LONGEST)
    """Longer ones are cut to this many tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class UniformLengths(Spec):
    """Whole numbers from `minimum` to `maximum`, each as likely."""

    kind: Literal["uniform"] = "uniform"
    minimum: int = Field(ge=1, le=LONGEST)
    """The fewest tokens."""
    maximum: int = Field(ge=1, le=LONGEST)
    """The most tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class FromTable(Spec):
    """Lengths of real requests: one column of a CSV file. Prompt and output from the same file use the same rows.

    Lengths only: arrival times that the file may hold are read by `arrivals` of an online workload (`kind: trace`); the result
    says in a note what is not read.
    """

    kind: Literal["table"] = "table"
    path: str
    """Relative to the scenario's folder; may end in .gz."""
    column: str | None = None
    """Default: `prompt_tokens` for prompts, `output_tokens` for outputs."""
    pick: Literal["sampled", "file"] = "sampled"
    """`sampled`: rows at random with replacement; `file`: the first rows in the order of the file."""
    maximum: int | None = Field(default=None, ge=1, le=LONGEST)
    """Longer ones are cut to this many tokens."""


Lengths = (
    Annotated[int, Field(ge=1, le=LONGEST)] | Annotated[LogNormal | UniformLengths | FromTable, Field(discriminator="kind")]
)


def draw_lengths(lengths: Lengths, requests: int, streams: Streams, part: Literal["prompt", "output"], base: Path) -> IntArray:
    """[R] tokens. A longer job begins with the lengths of a shorter one."""
    if isinstance(lengths, int):
        return np.full(requests, lengths, dtype=np.int64)
    generator = streams.spawn("lengths", _PART[part])
    if isinstance(lengths, FromTable):
        return _from_table(lengths, requests, streams, part, base)
    if isinstance(lengths, UniformLengths):
        return generator.integers(lengths.minimum, lengths.maximum, size=requests, endpoint=True, dtype=np.int64)
    drawn = exponential(logarithm(lengths.median) + lengths.sigma * generator.standard_normal(requests))
    # clipped as floats: an extreme draw must not overflow the integer
    return np.clip(np.rint(drawn), lengths.minimum, lengths.maximum).astype(np.int64)


def _from_table(lengths: FromTable, requests: int, streams: Streams, part: str, base: Path) -> IntArray:
    path = base / lengths.path
    column = lengths.column or f"{part}_tokens"
    table = read_columns(path, (column,))
    values = table.columns[column]
    most = LONGEST if lengths.maximum is None else np.inf
    mistakes = table.refuse((values < 1) | (values > most) | (values != np.rint(values)), column, NO_LENGTH)
    if mistakes:
        raise InputError(*mistakes)
    if lengths.pick == "file":
        if requests > len(values):
            raise InputError(Mistake(f"{requests} requests asked for; the file has {len(values)}", file=str(path)))
        row = np.arange(requests)
    else:
        row = streams.spawn("lengths", _PART["rows"]).integers(0, len(values), size=requests)
    return np.minimum(values[row], lengths.maximum or LONGEST).astype(np.int64)


def unread(lengths: Iterable[Lengths | None], base: Path) -> tuple[str, ...]:
    """What the files of lengths hold beside lengths that no workload reads, one note for each file."""
    paths = dict.fromkeys(base / part.path for part in lengths if isinstance(part, FromTable))
    held = {path: [name for name in UNREAD if name in column_names(path)] for path in paths}
    return tuple(
        f"{path.name} has {' and '.join(names)}, of which its lengths take nothing; 'arrivals: {{kind: trace}}' of an online "
        "workload does"
        for path, names in held.items()
        if names
    )
