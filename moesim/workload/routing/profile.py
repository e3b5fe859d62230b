"""Owns what a placement may know beforehand: the kinds of popularity profile that a workload can ask for.

Knows no routing law: a law is asked for draws of its own or for its record, see `Routing.learn`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.spec import Spec

__all__ = ["HeldOut", "OtherTasks", "Profile", "Same", "Stratified", "Table", "Uniform"]


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
    """The named tasks of the trace that is replayed, or domains of sticky routing: a profile from another domain, say."""

    kind: Literal["tasks"] = "tasks"
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks in the trace, or of domains of the law, of which other requests than the run's are drawn."""


class Stratified(Spec):
    """Prompts of a few of the run's own requests, drawn from each topic in proportion to its size.

    What they use is counted while they are prefilled, before the run. Source: CoX-MoE, expert-aware stratification.
    Inferred: a request's domain (`sticky`) or task (`trace`) is its stratum; other routing has a single one.
    Valid: a batch that is known beforehand; a benefit that it shows does not carry over to other requests.
    """

    kind: Literal["stratified"] = "stratified"
    prototypes: int = Field(default=32, ge=1)
    """Requests that are prefilled to count."""
    by: Literal["topic", "chance"] = "topic"
    """Whether each topic gets its share of the prototypes, or they are drawn from all requests alike."""


class Uniform(Spec):
    """Nothing is known: every expert as popular as the next."""

    kind: Literal["uniform"] = "uniform"


class Table(Spec):
    """A CSV file with the columns layer, expert and a count or share."""

    kind: Literal["table"] = "table"
    path: str
    """Relative to the scenario's folder."""


Profile = Annotated[Same | HeldOut | OtherTasks | Stratified | Uniform | Table, Field(discriminator="kind")]
