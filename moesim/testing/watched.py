"""Owns the record of one run under watch: every call of a slot with what was handed in, what came back and how long it took.

Knows the slots; judges nothing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, cast

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Deployment, Desk, Dispatch, Foresight, Moves, Policy, Problem, Step, View, Visit
from moesim.engine import SimulationOptions, simulate
from moesim.engine.machine import EngineKind
from moesim.engine.run import Outcome
from moesim.errors import InputError
from moesim.testing.worlds import World

__all__ = ["Call", "Left", "Predictions", "Run", "Watched", "copied", "run_world"]


@dataclass(frozen=True)
class Call:
    """One call of `dispatch` or `adapt`; all arrays are copies made at that moment."""

    slot: str
    index: int
    """Number of the pass."""
    phase: str
    layer: int
    """MoE layer; -1 for an `adapt` after a pass."""
    seen: Visit | Step
    """What the slot was asked about."""
    answer: Any
    """The Dispatch or Moves that came back."""
    resident: BoolArray
    """[L, E]"""
    in_flight: BoolArray
    """[L, E]"""
    home: IntArray
    """[L, E]"""
    copy_bytes: FloatArray
    """[L, E] bytes of the copies in GPU memory or on their way there; meaningless for others."""
    seconds: float
    """Wall-clock time of the call."""

    @property
    def where(self) -> str:
        """What a reader calls this call."""
        place = f"layer {self.layer}" if self.layer >= 0 else "at its end"
        return f"{self.slot} of pass {self.index} ({self.phase}), {place}"


class Left(Exception):  # noqa: N818 - nothing is wrong
    """What follows in a run tells nothing more."""


Predictions = dict[tuple[int, int], IntArray | None]
"""(number of the call, depth) -> tokens [E] that the policy's foresight predicted."""


@dataclass
class Run:
    """A policy's run in a world: as much of it as there was."""

    world: World
    problem: Problem
    calls: list[Call] = field(default_factory=list)
    deployment: Deployment | None = None
    """A copy of what `deploy` answered, without `state`, `cache` and `pool`, which change; None where it raised."""
    outcome: Outcome | None = None
    error: Exception | None = None
    predictions: Predictions = field(default_factory=dict)
    """What the policy's foresight said."""

    @property
    def refused(self) -> bool:
        """Whether `deploy` said that the model or the machine does not suit the policy."""
        return self.deployment is None and isinstance(self.error, InputError)


class Watched:
    """A policy that behaves as another one and writes down its calls; everything else that is asked of it goes through.

    `frozen` hands in read-only copies of all arrays. `before(run so far, slot, what is asked)` is called before each call,
    and may end the run with Left. `ids` [L, E] stands in for the order by expert id that the engine takes when a dispatch gives
    none. `predictions` holds what the foresight said in another run, which it says again wherever it is asked again.
    `all_seeing`: it is never wrong.
    """

    def __init__(
        self,
        policy: Policy,
        run: Run,
        *,
        frozen: bool = False,
        before: Callable[[Run, str, Visit | Step], None] | None = None,
        ids: IntArray | None = None,
        predictions: Predictions | None = None,
        all_seeing: bool = False,
    ) -> None:
        self._policy, self._run, self._frozen, self._before, self._ids = policy, run, frozen, before, ids
        self._predictions, self._all_seeing = predictions or {}, all_seeing

    batched = False
    """Every visit is asked about alone."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    @property
    def foresight(self) -> Foresight | None:
        """The policy's, made perfect if it is to be all-seeing."""
        declared = self._policy.foresight
        if declared is None or not self._all_seeing:
            return declared
        return declared.model_copy(update={"recall": (1.0,) * self._run.problem.layers})

    def deploy(self, problem: Problem) -> Deployment:
        """As the policy does."""
        self._run.problem = problem
        deployment = self._policy.deploy(problem)
        self._run.deployment = copied(replace(deployment, state=None, cache=None, pool=None))
        return deployment

    def decider(self, desk: Desk, view: View) -> None:
        """Nobody decides without being watched."""

    def dispatch(self, visit: Visit, view: View) -> Dispatch:
        """As the policy does."""
        answer: Dispatch = self._call("dispatch", visit, view)
        return answer if self._ids is None or answer.order is not None else answer._replace(order=self._ids[visit.layer])

    def adapt(self, step: Step, view: View) -> Moves:
        """As the policy does."""
        answer: Moves = self._call("adapt", step, view)
        return answer

    def _call(self, slot: str, seen: Visit | Step, view: View) -> Any:
        run = self._run
        if self._before is not None:
            self._before(run, slot, seen)
        seen = self._heard(seen)
        snapshot = copied(seen)
        assert view.copy_bytes is not None
        state = view.resident.copy(), view.in_flight.copy(), view.home.copy(), view.copy_bytes.copy()
        handed = copied(seen, writeable=False) if self._frozen else seen
        begin = time.perf_counter()
        answer = getattr(self._policy, slot)(handed, view)
        seconds = time.perf_counter() - begin
        run.calls.append(Call(slot, seen.index, seen.phase, seen.layer, snapshot, copied(answer), *state, seconds))
        return answer

    def _heard(self, seen: Visit | Step) -> Visit | Step:
        """The same visit or step, with what its foresight says written down."""
        foreseen, call, run, predictions = seen.foreseen, len(self._run.calls), self._run, self._predictions
        if foreseen is None:
            return seen

        def ahead(depth: int) -> IntArray | None:
            key = call, depth
            answer = predictions[key] if key in predictions else foreseen(depth)
            run.predictions[key] = None if answer is None else answer.copy()
            return answer

        if isinstance(seen, Step):
            return replace(seen, foreseen=ahead)
        seen.foreseen = ahead
        return seen


_PLAIN = (int, float, str, type(None))
"""Types of what holds no arrays: most of what a visit or a dispatch consists of."""


def copied(original: Any, *, writeable: bool = True) -> Any:
    """A visit, step, deployment, dispatch or moves with copies of its arrays."""
    if isinstance(original, _PLAIN):
        return original
    if isinstance(original, np.ndarray):
        array = original.copy()
        array.flags.writeable = writeable
        return array
    if isinstance(original, tuple) and hasattr(original, "_fields"):
        return type(original)(*(copied(part, writeable=writeable) for part in original))
    if isinstance(original, Visit):
        twin = copy.copy(original)
        for name in Visit.__slots__:
            setattr(twin, name, copied(getattr(original, name), writeable=writeable))
        return twin
    if is_dataclass(original) and not isinstance(original, type):
        arrays = {name: value for name, value in _fields(original).items() if isinstance(value, np.ndarray)}
        return replace(original, **{name: copied(value, writeable=writeable) for name, value in arrays.items()})
    return original


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def run_world(
    world: World,
    policy: Policy,
    *,
    engine: EngineKind = "auto",
    **watching: Any,
) -> Run:
    """Runs a policy in a world under watch; what it raises is kept, not raised. `watching`: parameters of `Watched`."""
    problem = world.problem()
    if watching.get("frozen", False):
        _freeze(problem)
    run = Run(world, problem)
    watched = cast("Policy", Watched(policy, run, **watching))
    try:
        run.outcome = simulate(problem, watched, world.routing, SimulationOptions(engine=engine))
    except Exception as error:  # whatever it is belongs to the report
        run.error = error
    return run


def _freeze(problem: Problem) -> None:
    for array in (problem.popularity, problem.job.prompt, problem.job.output, problem.job.arrival):
        array.flags.writeable = False
