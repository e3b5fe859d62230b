"""Owns the runs of one policy that the cases look at: each is made once, when a case first asks for it.

Knows worlds and runs; the cases judge them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from moesim.contract import Policy
from moesim.testing.watched import Run, run_world
from moesim.testing.worlds import World, small_worlds

if TYPE_CHECKING:
    from moesim.testing.elsewhere import OtherProcess

__all__ = ["Bench", "NotApplicable", "Violation", "instance"]


class Violation(AssertionError):  # noqa: N818 - a verdict, as is the next
    """A policy does not do what its slots promise; the text says where."""


class NotApplicable(Exception):  # noqa: N818
    """A case has nothing to say about this policy; the text says why."""


class Bench:
    """A policy and the worlds that it is tried in (default: `small_worlds()`).

    `process`: another process that is there already, for the case that needs one.
    """

    def __init__(
        self, policy: Policy | type[Policy], tried: Sequence[World] | None = None, process: OtherProcess | None = None
    ) -> None:
        self.policy, self.process = instance(policy), process
        self.worlds = small_worlds() if tried is None else list(tried)
        self._runs: dict[str, Run] = {}
        self._frozen: dict[str, Run] = {}

    def run(self, world: World) -> Run:
        """The plain run in a world: with the engine's own choice of closed form or events."""
        if world.name not in self._runs:
            self._runs[world.name] = run_world(world, self.policy)
        return self._runs[world.name]

    def frozen(self, world: World) -> Run:
        """Another run in a world, that is shown read-only arrays."""
        if world.name not in self._frozen:
            self._frozen[world.name] = run_world(world, self.policy, frozen=True)
        return self._frozen[world.name]

    def begun(self) -> list[Run]:
        """Runs in which the policy placed the model, whatever came of it."""
        return [run for run in map(self.run, self.worlds) if run.deployment is not None]

    def ended(self, longest: int | None = None) -> list[Run]:
        """Runs that came to their end; `longest`: so many at most, the longest walks first. NotApplicable if there are none."""
        runs = [run for run in self.begun() if run.outcome is not None]
        if not runs:
            raise NotApplicable("no run came to its end, see runs_or_refuses")
        return runs if longest is None else sorted(runs, key=lambda run: -len(run.calls))[:longest]

    def decision_seconds(self) -> float | None:
        """Median wall-clock seconds of `dispatch` plus those of `adapt`, per visit of a layer; None without a visit."""
        calls = [call for run in self._runs.values() for call in run.calls]
        dispatch = [call.seconds for call in calls if call.slot == "dispatch"]
        adapt = [call.seconds for call in calls if call.slot == "adapt" and call.layer >= 0]
        return median(dispatch) + (median(adapt) if adapt else 0.0) if dispatch else None


def instance(policy: Policy | type[Policy]) -> Policy:
    """The policy itself, or one of the class with its defaults."""
    return policy() if isinstance(policy, type) else policy
