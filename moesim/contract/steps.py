"""Who is in the next step: what a scheduler answers, and when the engine asks it.

A step is what passes all layers together: one token each of sequences that decode, and parts of prompts. The engine owns the
clock, a scheduler owns the queue:

    scheduler = make(problem, deployment)
    while True:
        step = scheduler.compose(now)       # ps since the start
        if step is None: break              # all is done
        if isinstance(step, int):           # no request waits: idle until that moment, ps, and ask again
            ...
        else:
            ...                             # the engine times the step
            scheduler.ended(step, end)      # each output token of the step is there at `end`

A scheduler sees nothing of the future but what the job states. `moesim.scheduling.rounds` is the simplest: an offline
job in rounds of a batch.

Short names: S sequences of a step, R requests of the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from moesim.arrays import BoolArray, IntArray
from moesim.hardware.device import Phase

__all__ = ["Join", "KvMove", "Pace", "Scheduler", "Series", "StepPlan"]


class KvMove(NamedTuple):
    """KV blocks on their way from one tier to another."""

    nbytes: float
    source: str
    target: str
    items: int = 1
    """Parts between which more urgent copies go ahead."""
    request: int = -1
    """The request that waits for them while others run, if one does."""
    awaited: bool = True
    """Whether the step begins when they have come; else they move beside it."""


@dataclass(frozen=True, eq=False)
class StepPlan:
    """The sequences of one step. All arrays are [S]; a request is in a step once at most."""

    requests: IntArray
    """Numbers of the requests."""
    new_tokens: IntArray
    """Tokens that each computes, at least 1."""
    before: IntArray
    """Tokens of each that are in the KV cache already: the new ones come behind them and attend to them.

    New tokens from the length of the prompt on are generated ones: one of them is a decode, more are a sequence that lost its
    cache and is computed again."""
    yields: BoolArray
    """Whether an output token of it comes out of the step: its last token known so far is among the new ones."""
    dropped: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """[n] requests whose cache was given up since the step before, though they are not done."""
    from_prefix: IntArray | None = None
    """Tokens of each, of those before the new ones, that it has just been given from a cache of prefixes; None without one."""
    moves: tuple[KvMove, ...] = ()
    """KV blocks that change their tier before the step begins, or set off when it does. A step without requests is a pause: the
    scheduler is asked again when those have come that a request waits for."""


class Pace(NamedTuple):
    """How fast steps went of late, by which a scheduler may guess in which of them a request will arrive."""

    now: int
    """ps"""
    step: int
    """ps of a step that decodes."""
    token: float
    """ps by which a token of a prompt makes a step longer."""
    most: int
    """Steps of a series at most."""


class Join(NamedTuple):
    """The guess that a request arrives while a step of a series runs: the steps behind it hold for that case alone."""

    step: int
    """Number of the step."""
    arrival: int
    """ps"""
    until: int | None
    """When (ps) the next one arrives, as `Scheduler.until`."""


@dataclass(frozen=True, eq=False)
class Series:
    """n steps, one right after another. Arrays are [N], over the sequences of the first step, then over those of the next."""

    sizes: IntArray
    """[n] sequences of each step."""
    requests: IntArray
    """[N] number of the request of each sequence."""
    new_tokens: IntArray
    """[N] tokens that pass the layers."""
    before: IntArray
    """[N] tokens of the sequence that the cache holds already."""
    yields: BoolArray
    """[N] whether a token comes out."""
    dropped: IntArray
    """As in the first step; no later one drops any."""
    from_prefix: IntArray | None = None
    joins: Sequence[Join] = ()
    """Requests that are expected to arrive meanwhile, in order."""

    @classmethod
    def of(cls, steps: Sequence[StepPlan]) -> Series:
        """Steps that were composed one by one; only the first drops any."""
        sizes = np.array([len(step.requests) for step in steps])
        joined = None
        if any(step.from_prefix is not None for step in steps):
            joined = np.concatenate(
                [np.zeros_like(step.before) if step.from_prefix is None else step.from_prefix for step in steps]
            )
        return cls(
            sizes,
            np.concatenate([step.requests for step in steps]),
            np.concatenate([step.new_tokens for step in steps]),
            np.concatenate([step.before for step in steps]),
            np.concatenate([step.yields for step in steps]),
            steps[0].dropped,
            joined,
        )

    @property
    def prefix_tokens(self) -> IntArray:
        """[N] as `from_prefix`, 0 without a cache of prefixes."""
        return np.zeros_like(self.before) if self.from_prefix is None else self.from_prefix

    def first(self, steps: int) -> Series:
        """The first `steps` of them."""
        if steps == len(self.sizes):
            return self
        end = int(self.sizes[:steps].sum())
        from_prefix = None if self.from_prefix is None else self.from_prefix[:end]
        first = self.requests[:end], self.new_tokens[:end], self.before[:end]
        return Series(self.sizes[:steps], *first, self.yields[:end], self.dropped, from_prefix, self.joins)


class Scheduler(Protocol):
    """Composes steps; asked at the start of each."""

    def compose(self, now: int) -> StepPlan | int | None:
        """The step that starts at `now` (ps); a later moment (ps) until which no request has work; None when all is done."""

    def ended(self, step: StepPlan, end: int) -> None:
        """The step that `compose` returned last has ended at `end` (ps)."""

    def sure(self, most: int, pace: Pace | None = None) -> Series:
        """The step composed last and up to `most` - 1 that are sure to follow it, if each begins before `until`.

        No KV block moves before any of them but the first. With a `pace` they may go on past `until`, if the series says how
        (`Series.joins`): the engine walks them as long as what it says of the arrival is true.
        """

    def landed(self, requests: Sequence[int]) -> None:
        """All KV blocks that these requests waited for have come; said before `compose`."""

    def until(self) -> int | None:
        """When (ps) something happens that steps behind the one composed last depend on; None if nothing more does."""

    def passed(self, ends: Sequence[int]) -> None:
        """The first of the steps that are `sure` have ended at `ends` (ps), each but the first begun before `until`, or as the
        series said."""

    def follows(self) -> Phase | None:
        """Of the step that is sure to follow the one composed last: `prefill` if it holds tokens of prompts, else `decode`.

        None where none is sure. A pipeline that streams weights starts with those of the next step only if one is sure.
        """

    def foreseen(self) -> list[StepPlan] | None:
        """All steps of the run, for bounds that know it beforehand; None where they depend on the clock."""

    def kv_room(self) -> float:
        """Bytes set aside for the KV cache, of which no step may hold more; inf where nothing is set aside."""
