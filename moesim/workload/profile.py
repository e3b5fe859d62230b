"""Owns what a placement may know beforehand: the kinds of popularity profile that a workload can ask for.

Knows no routing law: a law is asked for draws of its own or for its record, see `Routing.learn`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.spec import Spec

__all__ = ["HeldOut", "OtherTasks", "Profile", "Same", "Table", "Uniform"]


class Same(Spec):
    """The run's own routing, counted over all of it: what only an oracle knows."""

    kind: Literal["same"] = "same"


class HeldOut(Spec):
    """Other requests of the same kind: fresh draws of the same law, or the sequences of a trace that the run leaves out."""

    kind: Literal["held_out"] = "held_out"
    requests: int = Field(default=64, ge=1)
    """Prototype requests drawn (a trace uses all sequences it has left)."""
    tokens: int = Field(default=256, ge=1)
    """Tokens of each prototype request (a trace: whole sequences)."""


class OtherTasks(Spec):
    """The named tasks of the trace that is replayed: a profile from another domain, say."""

    kind: Literal["tasks"] = "tasks"
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks in the trace."""


class Uniform(Spec):
    """Nothing is known: every expert as popular as the next."""

    kind: Literal["uniform"] = "uniform"


class Table(Spec):
    """A CSV file with the columns layer, expert and a count or share."""

    kind: Literal["table"] = "table"
    path: str
    """Relative to the scenario's folder."""


Profile = Annotated[Same | HeldOut | OtherTasks | Uniform | Table, Field(discriminator="kind")]
