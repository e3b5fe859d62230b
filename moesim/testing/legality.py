"""Owns what the contract of the slots asks of an answer by itself: shapes, types, devices that can do it, bytes that fit.

Knows one recorded run; each check gives a text for every violation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.arrays import FloatArray, IntArray
from moesim.contract import Deployment, Dispatch, Moves, Overlap, PhasePlan, Problem, Serial, Step, Visit
from moesim.testing.watched import Call, Run

__all__ = ["capacity", "computed", "deployment_shapes", "devices", "dispatch_shapes", "moves_shapes"]

_SLACK = 1.0 + 1e-12


def _is(array: Any, shape: tuple[int | None, ...], kind: Any) -> bool:
    """Whether it is an array of that kind and shape (None: any length)."""
    if not isinstance(array, np.ndarray) or array.ndim != len(shape) or not np.issubdtype(array.dtype, kind):
        return False
    return all(length in (None, actual) for length, actual in zip(shape, array.shape, strict=True))


def _what(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else repr(array)


def deployment_shapes(deployment: Deployment, problem: Problem) -> Iterator[str]:
    """[L, E] arrays of the right types, indices within range, names that exist, counts of at least 1."""
    shape = (problem.layers, problem.experts)
    array_kinds = {"home": np.integer, "resident": np.bool_, "expert_bytes": np.floating}
    wrong = [name for name, kind in array_kinds.items() if not _is(getattr(deployment, name), shape, kind)]
    for name in wrong:
        kinds = {"home": "int", "resident": "bool", "expert_bytes": "float"}
        yield f"deploy: {name} is {_what(getattr(deployment, name))}, not {kinds[name]} [L, E] = {list(shape)}"
    if wrong:
        return
    if deployment.home.min() < 0 or deployment.home.max() >= len(problem.tiers):
        yield f"deploy: home holds indices outside the {len(problem.tiers)} tiers"
    elif not deployment.resident[deployment.home == problem.gpu_tier_index].all():
        yield "deploy: an expert whose home is GPU memory is not resident"
    if not (np.isfinite(deployment.expert_bytes).all() and (deployment.expert_bytes > 0).all()):
        yield "deploy: expert_bytes has values that are not positive numbers"
    if not 1 <= deployment.plan.batch <= problem.job.requests:
        yield f"deploy: batch is {deployment.plan.batch}, not 1 to {problem.job.requests}"
    if min(deployment.plan.staging, deployment.plan.expert_batch, deployment.plan.swap) < 0:
        counts = (
            f"staging {deployment.plan.staging}, expert_batch {deployment.plan.expert_batch} and swap {deployment.plan.swap}"
        )
        yield f"deploy: {counts} must not be negative"
    if deployment.pieces < 1:
        yield f"deploy: pieces is {deployment.pieces}; a whole expert is one"
    if deployment.plan.kv not in problem.tiers:
        yield f"deploy: kv names '{deployment.plan.kv}', which is not a tier ({', '.join(problem.tiers)})"
    for home in deployment.plan.homes.tiers:
        if home not in problem.system.host_tiers:
            yield f"deploy: homes name '{home}', which is not a host tier ({', '.join(problem.system.host_tiers)})"
    if not isinstance(deployment.plan.prefill.pipeline, Overlap | Serial):
        yield f"deploy: the pipeline of prefill is {deployment.plan.prefill.pipeline}; it knows Overlap and Serial"
    for phase, plan in (("prefill", deployment.plan.prefill), ("decode", deployment.plan.decode)):
        yield from _plan(phase, plan, problem)


def _plan(phase: str, plan: PhasePlan, problem: Problem) -> Iterator[str]:
    if plan.micro_batch < 1:
        yield f"deploy: the micro-batch of {phase} is {plan.micro_batch}"
    for name in (plan.projections, plan.core, plan.output):
        if name not in problem.devices:
            yield f"deploy: {phase} names '{name}', which is not a device ({', '.join(problem.devices)})"
        elif name in problem.system.further_gpus:
            yield f"deploy: {phase} attends on '{name}'; the GPU that attends is '{problem.system.attending_gpu}'"


def dispatch_shapes(call: Call, problem: Problem, stored: FloatArray) -> Iterator[str]:
    """`device` [E] int, `order` [E] a permutation, `load` [E] bool; the other fields as `_lossy` and `_behind` say."""
    answer, shape = call.answer, (problem.experts,)
    if not isinstance(answer, Dispatch):
        yield f"{call.where}: returned {_what(answer)}, not a Dispatch"
        return
    if not _is(answer.device, shape, np.integer):
        yield f"{call.where}: device is {_what(answer.device)}, not int [E] = {list(shape)}"
    if answer.order is not None and not _is(answer.order, shape, np.integer):
        yield f"{call.where}: order is {_what(answer.order)}, not int [E] = {list(shape)}"
    elif answer.order is not None and (np.sort(answer.order) != np.arange(problem.experts)).any():
        yield f"{call.where}: order is not a permutation of the experts: {answer.order.tolist()}"
    if answer.source is not None and not _is(answer.source, shape, np.integer):
        yield f"{call.where}: source is {_what(answer.source)}, not int [E] = {list(shape)}"
    if answer.load is not None and not _is(answer.load, shape, np.bool_):
        yield f"{call.where}: load is {_what(answer.load)}, not bool [E] = {list(shape)}"
    yield from _lossy(answer, call, stored)
    yield from _behind(answer, call, problem, stored)


def _lossy(answer: Dispatch, call: Call, stored: FloatArray) -> Iterator[str]:
    """`counts` and `stale` [E] int of 0 or more, no more than was routed and than is computed; `nbytes` [E] in (0, stored]."""
    shape = call.seen.counts.shape
    fields: tuple[tuple[str, Any, str], ...] = (
        ("counts", np.integer, "int"),
        ("stale", np.integer, "int"),
        ("nbytes", np.floating, "float"),
    )
    answers = [(name, getattr(answer, name), kind, text) for name, kind, text in fields]
    wrong = [(name, array, text) for name, array, kind, text in answers if array is not None and not _is(array, shape, kind)]
    for name, array, text in wrong:
        yield f"{call.where}: {name} is {_what(array)}, not {text} [E] = {list(shape)}"
    if wrong:
        return
    counts = computed(call)
    if (counts < 0).any():
        yield f"{call.where}: counts has less than no tokens: {counts.tolist()}"
    if counts.sum() > call.seen.counts.sum():
        yield f"{call.where}: counts holds {counts.sum()} tokens, the router gave out {call.seen.counts.sum()}"
    if answer.stale is not None and ((answer.stale < 0) | (answer.stale > counts)).any():
        yield f"{call.where}: stale holds more tokens of an expert than it computes, or less than none"
    if answer.nbytes is not None and not ((answer.nbytes > 0) & (answer.nbytes <= stored[call.layer] * _SLACK)).all():
        yield f"{call.where}: nbytes lies outside (0, bytes of the stored copy]"


def _behind(answer: Dispatch, call: Call, problem: Problem, stored: FloatArray) -> Iterator[str]:
    """`moves` of a dispatch keeps nothing and evicts no expert that the layer runs."""
    if answer.moves is None:
        return
    if answer.moves.keep is not None:
        yield f"{call.where}: moves.keep is for adapt; what a visit uploads is there only when it has run"
        return
    violations = list(moves_shapes(replace(call, answer=answer.moves), problem, stored))
    yield from violations
    if not violations and answer.moves.evict is not None:
        mine = answer.moves.evict[answer.moves.evict[:, 0] == call.layer, 1]
        if (computed(call)[mine] > 0).any():
            yield f"{call.where}: moves.evict drops an expert that the layer runs"


def computed(call: Call) -> IntArray:
    """[E] tokens that the experts of a dispatch compute."""
    counts: IntArray = call.seen.counts if call.answer.counts is None else call.answer.counts
    return counts


def moves_shapes(call: Call, problem: Problem, stored: FloatArray) -> Iterator[str]:
    """All int and within range: `keep` [n], `evict`, `load` [n, 2], `migrate`, `replicate`, `retire`,
    `stay` [n, 3].

    `load_bytes` [n] in (0, stored].
    """
    answer, seen = call.answer, call.seen
    if not isinstance(answer, Moves):
        yield f"{call.where}: returned {_what(answer)}, not Moves"
        return
    limits = np.array([problem.layers, problem.experts, len(problem.tiers)])
    columns = {"evict": 2, "load": 2, "migrate": 3, "replicate": 3, "retire": 3, "stay": 3}
    for name, width in columns.items():
        array = getattr(answer, name)
        if array is None:
            continue
        if not _is(array, (None, width), np.integer):
            yield f"{call.where}: {name} is {_what(array)}, not int [n, {width}]"
        elif (array < 0).any() or (array >= limits[:width]).any():
            yield f"{call.where}: {name} names a layer, an expert or a tier that does not exist"
        elif width == 3 and (array[:, 2] == problem.gpu_tier_index).any():
            yield f"{call.where}: {name} leads into GPU memory; that is what load is for"
    if answer.load_source is not None and not _is(
        answer.load_source, (len(answer.load) if answer.load is not None else 0,), np.integer
    ):
        yield f"{call.where}: load_source is {_what(answer.load_source)}, not int [n] with one entry for each copy of load"
    if answer.load_bytes is not None:
        yield from _load_bytes(answer, call, stored)
    if not isinstance(seen, Step):
        return
    if answer.keep is not None and not _is(answer.keep, (None,), np.integer):
        yield f"{call.where}: keep is {_what(answer.keep)}, not int [n]"
    elif answer.keep is not None and not set(answer.keep.tolist()) <= set(seen.uploaded.tolist()):
        yield f"{call.where}: keep names experts that were not uploaded for the layer"


def _load_bytes(answer: Moves, call: Call, stored: FloatArray) -> Iterator[str]:
    load, nbytes = answer.load, answer.load_bytes
    if load is None or not _is(load, (None, 2), np.integer) or not _is(nbytes, (len(load),), np.floating):
        yield f"{call.where}: load_bytes is {_what(nbytes)}, not float [n] with one entry for each copy of load"
    elif nbytes is not None and not ((nbytes > 0) & (nbytes <= stored[load[:, 0], load[:, 1]] * _SLACK)).all():
        yield f"{call.where}: load_bytes lies outside (0, bytes of the stored copy]"


def devices(call: Call, problem: Problem) -> Iterator[str]:
    """Active experts go to the GPU that attends, to a CPU that reads their home in the host, or to the device of their home."""
    if call.slot != "dispatch" or not isinstance(call.answer, Dispatch) or not isinstance(call.seen, Visit):
        return
    if np.shape(call.answer.device) != call.seen.counts.shape:
        return  # reported by the check of shapes
    home, active = call.home[call.layer], computed(call) > 0
    units = np.array([problem.local_index.get(tier, -1) for tier in range(len(problem.tiers))])
    reached = call.resident[call.layer] | call.in_flight[call.layer] | (problem.gpu_at[home] == problem.attending_index)
    legal = (call.answer.device == problem.attending_index) & reached
    legal |= (call.answer.device == units[home]) & (units[home] >= 0)
    if problem.cpu_index >= 0:
        legal |= (call.answer.device == problem.cpu_index) & np.isfinite(call.seen.cpu)
    for expert in np.flatnonzero(active & ~legal).tolist():
        chosen = int(call.answer.device[expert])
        name = f"'{problem.devices[chosen]}'" if 0 <= chosen < len(problem.devices) else f"{chosen}, which is not a device"
        yield f"{call.where}: expert {expert} with its weights in '{problem.tiers[int(home[expert])]}' was given to {name}"
        return


def capacity(run: Run) -> Iterator[str]:
    """No tier ever holds more than it has: at the start, at each call of a slot, and at the peak of the run."""
    problem, start = run.problem, run.deployment
    if start is None or list(deployment_shapes(start, problem)):
        return  # reported by the check of shapes
    free = problem.gpu_free(start.plan)
    taken = problem.host_overhead(start.plan)
    if (held := float(start.expert_bytes[start.resident].sum())) > max(free, 0.0) * _SLACK or free < 0:
        yield f"deploy: residents take {held:.0f} bytes of GPU memory, which has {free:.0f} left for them"
    for index, tier in enumerate(problem.tiers):
        here = start.home == index
        here = here if start.replicas is None else here | start.replicas[index]
        used = float(start.expert_bytes[here].sum()) + taken.get(tier, 0.0)
        if tier != problem.gpu_tier and used > problem.usable(tier) * _SLACK:
            yield f"deploy: '{tier}' would hold {used:.0f} bytes and has {problem.usable(tier):.0f}"
    for call in run.calls:
        held = float(call.copy_bytes[call.resident | call.in_flight].sum())
        if held > free * _SLACK:
            yield f"{call.where}: copies take {held:.0f} bytes of GPU memory, which has {free:.0f} for them"
            break
    for tier, used in run.outcome.recorder.peak.items() if run.outcome else ():
        if used > problem.usable(tier) * _SLACK:
            yield f"'{tier}' held {used:.0f} bytes at its peak and has {problem.usable(tier):.0f}"
