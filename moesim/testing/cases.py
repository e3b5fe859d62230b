"""Owns the cases of the conformance suite: what every policy has to keep to, one function per promise.

A case looks at the runs of a bench; it raises Violation where the promise is broken and NotApplicable where it was not made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from moesim.contract import Dispatch, Visit
from moesim.errors import InputError
from moesim.testing import legality
from moesim.testing.bench import Bench, NotApplicable, Violation
from moesim.testing.compare import differences, first_difference, record, same_answer, trace
from moesim.testing.elsewhere import OtherProcess
from moesim.testing.honesty import memoryless_is_honest, no_peeking, no_state_leaks
from moesim.testing.symmetry import labels_mean_nothing
from moesim.testing.watched import Run, run_world
from moesim.testing.worlds import impossible_worlds

__all__ = ["CASES"]

Case = Callable[[Bench], None]


def _judge(runs: Iterable[Run], check: Callable[[Run], Iterable[str]]) -> None:
    """The first violation in each world, all worlds at once."""
    texts = []
    for run in runs:
        text = next(iter(check(run)), None)
        if text is not None:
            texts.append(f"{run.world.name}: {text}")
    if texts:
        raise Violation("\n".join(texts))


def runs_or_refuses(bench: Bench) -> None:
    """It runs, or says with InputError in `deploy` that machine or model does not suit it; it suits at least one world."""

    def check(run: Run) -> Iterable[str]:
        if run.error is not None and not run.refused:
            slot = "deploy" if run.deployment is None else f"the run, after {len(run.calls)} calls,"
            yield f"{slot} raised {type(run.error).__name__}: {run.error}"
        elif run.refused and not str(run.error).strip():
            yield "deploy refused without a reason"

    _judge(map(bench.run, bench.worlds), check)
    if not any(run.outcome for run in map(bench.run, bench.worlds)):
        reasons = "; ".join(f"{run.world.name}: {run.error}" for run in map(bench.run, bench.worlds))
        raise Violation(f"it runs in none of the worlds; hand in worlds that suit it ({reasons})")
    for world in impossible_worlds():
        try:
            bench.policy.deploy(world.problem())
        except InputError:
            continue
        except Exception as error:
            raise Violation(f"{world.name}: deploy raised {type(error).__name__}, not InputError: {error}") from error
        raise Violation(f"{world.name}: deploy placed a model that has no room there ({world.summary})")


def capacity(bench: Bench) -> None:
    """What is placed fits every tier, and no tier ever holds more than it has."""
    _judge(bench.begun(), legality.capacity)


def shapes(bench: Bench) -> None:
    """Deployment, Dispatch and Moves have the documented shapes, types and ranges."""

    def check(run: Run) -> Iterable[str]:
        if run.deployment is not None:
            yield from legality.deployment_shapes(run.deployment, run.problem)
            for call in run.calls:
                check_of = legality.dispatch_shapes if call.slot == "dispatch" else legality.moves_shapes
                yield from check_of(call, run.problem, run.deployment.expert_bytes)

    _judge(bench.begun(), check)


def legal_devices(bench: Bench) -> None:
    """A CPU gets experts that live in host memory, a near-data unit those of its own tier."""
    _judge(bench.begun(), lambda run: (text for call in run.calls for text in legality.devices(call, run.problem)))


def conservation(bench: Bench) -> None:
    """Every routed (token, expert) pair is computed exactly once, on the device that `dispatch` named, or reported (I1).

    What a dispatch skips, replaces or calls stale stands in the run's `quality`, pair by pair.
    """

    def check(run: Run) -> Iterable[str]:
        assert run.outcome is not None
        job, table, names = run.world.job, run.world.routing, run.problem.devices
        sent, counted = dict.fromkeys(names, 0), dict.fromkeys(("skipped", "replaced", "stale"), 0)
        for call in run.calls:
            if isinstance(call.answer, Dispatch) and isinstance(call.seen, Visit):
                counts, routed_here = legality.computed(call), call.seen.counts
                per_device = np.bincount(call.answer.device[counts > 0], counts[counts > 0], len(names))
                sent = {name: sent[name] + int(n) for name, n in zip(names, per_device, strict=True)}
                counted["skipped"] += int(routed_here.sum() - counts.sum())
                counted["replaced"] += int(np.maximum(counts - routed_here, 0).sum())
                counted["stale"] += 0 if call.answer.stale is None else int(call.answer.stale.sum())
        computed = {name: run.outcome.recorder.expert_tokens.get(name, 0) for name in names}
        quality = run.outcome.recorder.quality
        if computed != sent:
            yield f"devices computed {computed} pairs and were given {sent}"
        routed = int((job.prompt + job.output - 1).sum()) * table.top_k * job.layers
        if sum(computed.values()) + quality.skipped != routed:
            yield f"{sum(computed.values())} pairs were computed and {quality.skipped} skipped, {routed} were routed"
        for name, number in counted.items():
            if getattr(quality, name) != number:
                yield f"quality tells of {getattr(quality, name)} pairs {name}, the dispatches of {number}"
        if sum(quality.precision.values()) != sum(computed.values()):
            yield f"quality tells the precision of {sum(quality.precision.values())} of {sum(computed.values())} pairs"

    _judge(bench.ended(), check)


def deterministic(bench: Bench) -> None:
    """The same problem gives the same decisions and the same picoseconds, run after run (I7)."""

    def check(run: Run) -> Iterable[str]:
        again = bench.frozen(run.world)
        if again.error is not None:  # for `read_only` to report
            again = run_world(run.world, bench.policy)
        label = first_difference(trace(run), trace(again))
        if label is not None:
            yield f"a second run differs, first in: {label}"

    _judge(bench.ended(longest=2), check)


def deterministic_elsewhere(bench: Bench) -> None:
    """Another process under another hash seed decides the same; where the class can be imported there."""
    runs = bench.ended(longest=2)
    worlds = [run.world for run in runs]
    if bench.process is not None:
        traces = bench.process.traces(bench.policy, worlds)
    else:
        with OtherProcess() as process:
            traces = process.traces(bench.policy, worlds)

    def check(run: Run) -> Iterable[str]:
        label = first_difference(trace(run), traces[run.world.name])
        if label is not None:
            yield f"under another PYTHONHASHSEED it differs, first in: {label}"

    _judge(runs, check)


def read_only(bench: Bench) -> None:
    """It does not write to what it is shown: problem, visit, step and view."""

    def check(run: Run) -> Iterable[str]:
        frozen = bench.frozen(run.world)
        if frozen.error is not None:
            at = "deploy" if frozen.deployment is None else f"a call after {len(frozen.calls)} others"
            yield f"{at} raised {type(frozen.error).__name__} when all arrays were read-only: {frozen.error}"

    _judge(bench.ended(longest=2), check)


def engines_agree(bench: Bench) -> None:
    """Timed by the reference engine, its run takes the same decisions and the same picoseconds (I9)."""

    def check(run: Run) -> Iterable[str]:
        by_reference = run_world(run.world, bench.policy, engine="reference")
        if by_reference.outcome is None or run.outcome is None:
            yield f"by the reference engine it raised {type(by_reference.error).__name__}: {by_reference.error}"
            return
        for first, second in zip(run.calls, by_reference.calls, strict=False):
            if first.where == second.where and (part := same_answer(first, second)):
                yield f"by the reference engine it answers differently: {first.where}: {part}"
        for name, (fast, plain) in differences(record(run.outcome), record(by_reference.outcome)).items():
            yield f"{name} differs: {fast} by the kernel, {plain} by the reference engine"

    _judge(bench.ended(longest=4), check)


def decision_cost(bench: Bench) -> None:
    """What a decision costs is reported, never judged: clocks on shared machines prove nothing."""
    if bench.ended() and bench.decision_seconds() is None:
        raise NotApplicable("no layer was visited")


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        runs_or_refuses,
        capacity,
        shapes,
        legal_devices,
        conservation,
        deterministic,
        deterministic_elsewhere,
        labels_mean_nothing,
        no_peeking,
        read_only,
        no_state_leaks,
        memoryless_is_honest,
        engines_agree,
        decision_cost,
    )
}
"""Name -> case, in the order in which they are worth reading."""
