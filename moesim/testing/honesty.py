"""Owns the cases on what a policy may know: not the future, not another run, and nothing but its visit if it says so.

Knows recorded runs; compares decisions, never times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.contract import Deployment, Policy, Step, View, Visit
from moesim.testing.bench import Bench, NotApplicable, Violation
from moesim.testing.compare import first_difference, same_answer, trace
from moesim.testing.watched import Left, Run, copied, run_world
from moesim.testing.worlds import World
from moesim.workload.table import RoutingTable

__all__ = ["memoryless_is_honest", "no_peeking", "no_state_leaks"]


def no_peeking(bench: Bench) -> None:
    """No decision changes when the routing of later layers and passes does; `deploy` knows no routing but the profile.

    A declared `foresight` says again what it said, whatever the routing: decisions may rest on that, on nothing else to come.
    """
    if bench.policy.clairvoyant:
        raise NotApplicable("declared clairvoyant: a bound that is shown the whole run")
    if bench.policy.imitates:
        raise NotApplicable("declared to imitate the future with a stated skill: it is shown the whole run")
    texts = []
    for run in bench.ended(longest=2):
        for since, table in _other_futures(run.world):
            leave = partial(_leave_where_they_part, run)
            rerouted = run_world(run.world.rerouted(table), bench.policy, predictions=run.predictions, before=leave)
            text = _foreseen(run, rerouted)
            if text is not None:
                texts.append(f"{run.world.name}: {text} depends on routing that comes later ({since})")
                break
    if texts:
        raise Violation("\n".join(texts))


def _other_futures(world: World) -> Iterator[tuple[str, RoutingTable]]:
    """Routing tables that agree with the world's up to some layer of some pass and with other draws from there on."""
    table, rng = world.routing, np.random.default_rng(0)
    passes, layers = table.decode.shape[1:3]
    prefill = rng.permuted(table.prefill, axis=2)
    drawn = np.argsort(rng.random((*table.decode.shape[:3], table.experts)), axis=-1)[..., : table.top_k]
    decode: NDArray[np.unsignedinteger[Any]] = drawn.astype(table.decode.dtype)

    def redrawn(prompts: int, position: int, known: int) -> RoutingTable:
        """The first `prompts` layers of prefill, `position` decode passes and `known` layers of the next are kept."""
        first, later = prefill.copy(), decode.copy()
        first[:, :prompts], later[:, :position] = table.prefill[:, :prompts], table.decode[:, :position]
        if position < passes:
            later[:, position, :known] = table.decode[:, position, :known]
        return RoutingTable(first, later, table.experts, table.profile)

    yield ("from the second layer on", redrawn(1, 0, 0)) if layers > 1 else ("all of it", redrawn(0, 0, 0))
    if passes:
        yield "from the first decode pass on", redrawn(layers, 0, 0)
        yield "from the middle of a later pass on", redrawn(layers, passes // 2, max(layers // 2, 1))


def _leave_where_they_part(run: Run, rerouted: Run, slot: str, seen: Visit | Step) -> None:
    """Ends `rerouted` where it is asked about something else than `run` was: nothing that it decides then can be compared."""
    number = len(rerouted.calls)
    if number == len(run.calls):
        raise Left
    call = run.calls[number]
    moment = (slot, seen.index, seen.phase, seen.layer)
    if moment != (call.slot, call.index, call.phase, call.layer) or not np.array_equal(seen.counts, call.seen.counts):
        raise Left


def _foreseen(run: Run, rerouted: Run) -> str | None:
    """The first decision that differs although all that had happened was the same."""
    if run.deployment is None or rerouted.deployment is None:
        return "deploy"
    starts = [trace(Run(candidate.world, candidate.problem, [], candidate.deployment)) for candidate in (run, rerouted)]
    if (label := first_difference(*starts)) is not None:
        return label
    for first, second in zip(run.calls, rerouted.calls, strict=False):
        if (part := same_answer(first, second)) is not None:
            return f"{first.where}: {part}"
    return None


def no_state_leaks(bench: Bench) -> None:
    """One object serves many runs at once: a run that another one interrupts, and the one that interrupts it, are as alone."""
    runs = bench.ended(longest=2)
    run, neighbour = runs[0], runs[-1]
    beside: list[Run] = []

    def disturb(so_far: Run, *_: Any) -> None:
        if len(so_far.calls) == len(run.calls) // 2:
            beside.append(run_world(neighbour.world, bench.policy))

    disturbed = run_world(run.world, bench.policy, before=disturb)
    pairs = [(run, disturbed, neighbour), *((neighbour, nested, run) for nested in beside)]
    texts = [
        f"{alone.world.name}: a run of '{guest.world.name}' beside it changes {label}; keep state in Deployment.state"
        for alone, together, guest in pairs
        if (label := first_difference(trace(alone), trace(together))) is not None
    ]
    if texts:
        raise Violation("\n".join(texts))


def memoryless_is_honest(bench: Bench) -> None:
    """A policy that says `memoryless` answers alike in any order, at any time, whatever the queues hold, and never adapts.

    One that names `sure_phases` moves nothing behind the layers of their passes.
    """
    policy = bench.policy
    if not policy.memoryless and not policy.sure_phases:
        raise NotApplicable("it does not say that it is memoryless")
    if policy.memoryless and policy.adapts != "never":
        raise Violation(f"it says that it is memoryless and adapts = '{policy.adapts}'")
    texts = []
    for run in bench.ended(longest=2):
        text = _remembers(run, policy) if policy.memoryless else _moves_experts(run, policy)
        if text is not None:
            texts.append(f"{run.world.name}: {text}")
    if texts:
        raise Violation("\n".join(texts))


def _remembers(run: Run, policy: Policy) -> str | None:
    """Asks everything again in another order, at another time, with full queues and no room left."""
    problem = replace(run.world.problem(), hindsight=run.problem.hindsight)
    start = policy.deploy(problem)
    view = _view(run, start)
    calls = [call for call in run.calls if isinstance(call.seen, Visit)]
    order = np.random.default_rng(0).permutation(len(calls)).tolist()
    for when, number in enumerate(order):
        call = calls[number]
        assert isinstance(call.seen, Visit)
        view.now, view.free_slots, view.backlog = 1000.0 - when, when % 3, {"pcie:forward": 0.1 * when}
        again = policy.dispatch(copied(call.seen), view)
        repeated = replace(call, answer=again)
        if (part := same_answer(call, repeated)) is not None:
            return f"asked again out of turn, {call.where} answers with another {part}"
    return None


def _moves_experts(run: Run, policy: Policy) -> str | None:
    """Asks for moves behind every layer of the phases in which there are to be none."""
    view = _view(run, policy.deploy(replace(run.world.problem(), hindsight=run.problem.hindsight)))
    for call in run.calls:
        if isinstance(call.seen, Visit) and call.phase in policy.sure_phases:
            nothing = np.zeros(0, dtype=np.int64)
            step = Step(call.index, call.phase, call.layer, call.seen.counts.copy(), nothing, call.seen.foreseen)
            if any(part is not None and len(part) for part in policy.adapt(step, view)):
                return f"it names '{call.phase}' in sure_phases and moves experts behind the layer of {call.where}"
    return None


def _view(run: Run, start: Deployment) -> View:
    resident, home = start.resident.copy(), start.home.copy()
    in_flight = np.zeros_like(resident)
    for array in (resident, in_flight, home):
        array.flags.writeable = False
    return View(run.problem, resident, in_flight, home, start.state)
