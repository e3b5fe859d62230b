"""Owns the comparison of runs: what was decided and what came of it, as labelled digests that tell where two runs part.

Knows recorded runs only.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Deployment, Dispatch, Moves, Visit
from moesim.engine.run import Outcome
from moesim.testing.watched import Call, Run

__all__ = ["decided", "differences", "digest", "first_difference", "record", "same_answer", "trace"]

Trace = list[tuple[str, str]]


def digest(value: Any) -> str:
    """A short hash of plain values and arrays; integer types of different width are alike."""
    return hashlib.sha256(_plain(value).encode()).hexdigest()[:16]


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.kind}{value.shape}{value.tolist()}"
    if isinstance(value, tuple | list):
        return f"[{','.join(_plain(part) for part in value)}]"
    return repr(value.item() if isinstance(value, np.generic) else value)


def decided(call: Call) -> dict[str, Any]:
    """The parts of an answer that mean something: the device of an expert without tokens does not."""
    if isinstance(call.answer, Dispatch) and isinstance(call.seen, Visit):
        counts = call.seen.counts if call.answer.counts is None else call.answer.counts
        device: IntArray = np.where(counts > 0, call.answer.device, -1)
        return {**call.answer._asdict(), "device": device}
    return call.answer._asdict() if isinstance(call.answer, Moves) else {"answer": repr(call.answer)}


def same_answer(first: Call, second: Call) -> str | None:
    """The part in which two answers differ, None if they are the same."""
    a, b = decided(first), decided(second)
    return next((name for name in a if digest(a[name]) != digest(b.get(name))), None)


def trace(run: Run) -> Trace:
    """(label, digest) of every decision in order, then of everything that the run left; made to be compared or sent."""
    entries: Trace = []
    if run.deployment is not None:
        entries += [(f"deploy: {field.name}", digest(getattr(run.deployment, field.name))) for field in fields(Deployment)]
    for call in run.calls:
        entries += [(f"{call.where}: {name}", digest(value)) for name, value in decided(call).items()]
    if run.error is not None:
        entries.append(("error", digest(f"{type(run.error).__name__}: {run.error}")))
    if run.outcome is not None:
        entries += [(name, digest(value)) for name, value in record(run.outcome).items()]
    return entries


def first_difference(a: Trace, b: Trace) -> str | None:
    """The label at which two traces part, None if they are the same."""
    for (label, left), (_, right) in zip(a, b, strict=False):
        if left != right:
            return label
    return None if len(a) == len(b) else (a if len(a) > len(b) else b)[min(len(a), len(b))][0]


def record(outcome: Outcome) -> dict[str, Any]:
    """What two engines must agree on; lanes that did nothing are left out."""
    r = outcome.recorder
    return {
        "makespan": r.makespan,
        "passes": r.passes,
        "first_token": r.first_token.tolist(),
        "finish": r.finish.tolist(),
        "busy": {lane: t for lane, t in sorted(r.busy.items()) if t},
        "critical": {lane: t for lane, t in sorted(r.critical.items()) if t},
        "moved": {name: b for name, b in sorted(r.moved.items()) if b},
        "caused": dict(sorted(r.caused.items())),
        "expert_tokens": {name: n for name, n in sorted(r.expert_tokens.items()) if n},
        "quality": {**asdict(r.quality), "precision": dict(sorted(r.quality.precision.items()))},
        "prefetches": asdict(r.prefetches),
        "peak": r.peak,
        "visits": r.layer_visits,
        "layers": {f.name: getattr(r.layers, f.name).tolist() for f in fields(r.layers)},
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two records; sums of bytes may differ in the last digits."""
    changed = {}
    for key in a:
        if key in ("moved", "caused"):
            equal = a[key].keys() == b[key].keys() and all(abs(v - b[key][n]) <= 1e-9 * v for n, v in a[key].items())
        else:
            equal = a[key] == b[key]
        if not equal:
            changed[key] = (a[key], b[key])
    return changed
