"""What an experiment is, as `experiment.json` says it: the one place that writes and reads that file.

Knows columns and values; not how points are planned or run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from moesim.results.sweeps.record import read_fields, validated

__all__ = ["FORMAT", "NAME", "DescribedAxis", "Description", "Limit"]

NAME = "experiment.json"
FORMAT = "moesim sweep 1"


@dataclass(frozen=True)
class DescribedAxis:
    """What is varied along one axis."""

    name: str
    columns: tuple[str, ...]
    """Columns of the table that it fills."""
    column: str
    """The first of them, which stands for it."""
    unit: str
    scale: str
    """`linear` or `log` of numbers, else `categories`."""
    values: tuple[Any, ...]
    """Of that column, as they are shown; low and high ends where values are drawn between them."""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.scale != "categories"


@dataclass(frozen=True)
class Limit:
    """A constraint: what a setting has to keep."""

    metric: str
    """The column that it is about."""
    at_least: float | None
    at_most: float | None


@dataclass(frozen=True)
class Description:
    """An experiment, resolved."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    name: str
    summary: str
    source: str
    expect: str
    scenario: str
    """Name of the scenario that is varied."""
    metric: str
    """Column of the table that is compared."""
    goal: Literal["highest", "lowest"]
    """Which values of the metric are best."""
    constraints: tuple[Limit, ...]
    level: float
    """Of all intervals, 0 to 1."""
    axes: tuple[DescribedAxis, ...]
    design: dict[str, Any]
    """The design as written, with its `kind`; `search` where `moesim optimize` looked on from one."""
    policies: tuple[str, ...]
    replications: int
    warm_up: Any
    points: int
    data: dict[str, Any]
    """The scenario, with all that it extends."""
    version: str
    physics: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> list[str]:
        """Columns of the settings: those of all axes."""
        return [name for axis in self.axes for name in axis.columns]

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if self.goal == "highest" else -1.0

    @property
    def document(self) -> dict[str, Any]:
        """What `experiment.json` holds."""
        return {"format": FORMAT, **asdict(self)}

    def text(self) -> str:
        """The contents of `experiment.json`."""
        return json.dumps(self.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Description:
        """The experiment of the sweep in `directory`. InputError with every mistake in its file."""
        fields = read_fields(directory / NAME, FORMAT)
        del fields["format"]
        return validated(cls, fields, directory / NAME)
