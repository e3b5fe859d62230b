"""Owns the case that labels mean nothing: experts under other names are placed and timed as before.

Knows worlds in which ties do not decide; what a tie does is for the label alone to say.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import IntArray
from moesim.contract import Deployment, Policy, Visit
from moesim.testing.bench import Bench, NotApplicable, Violation
from moesim.testing.watched import Run, run_world

__all__ = ["labels_mean_nothing"]

_ALIKE = ("plan", "pieces", "activation_compression")


def labels_mean_nothing(bench: Bench) -> None:
    """Permuting the labels of each layer's experts permutes the placement and leaves the makespan as it is.

    Asked for in worlds without ties, and of a policy with foresight under a perfect one: which experts a predictor confuses is
    drawn by label. A policy that places by id on purpose says `symmetric: ClassVar[bool] = False` and
    why in `symmetric_reason`.
    """
    _declared(bench.policy)
    runs = [run for run in bench.ended() if run.world.distinct]
    if bench.policy.foresight is not None:
        runs = [run_world(run.world, bench.policy, all_seeing=True) for run in runs]
    if not runs:
        raise NotApplicable("it runs in no world without ties")
    texts = [f"{run.world.name}: {text}" for run in runs if (text := _asymmetry(run, bench.policy))]
    if texts:
        raise Violation("\n".join(texts))


def _declared(policy: Policy) -> None:
    if policy.symmetric:
        return
    reason = policy.symmetric_reason.strip()
    if not reason:
        raise Violation("it says symmetric = False and not why: give symmetric_reason")
    raise NotApplicable(f"declared not symmetric: {reason}")


def _asymmetry(run: Run, policy: Policy) -> str | None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(run.problem.experts), (run.problem.layers, 1))
    old = rng.permuted(labels, axis=1)
    # where a dispatch leaves the order to the engine, which goes by id, it goes by the old ids: that is not the policy's doing
    relabelled = run_world(run.world.relabelled(old), policy, ids=np.argsort(old, axis=1), all_seeing=True)
    if relabelled.outcome is None or run.outcome is None or relabelled.deployment is None or run.deployment is None:
        return f"under other labels it raised {type(relabelled.error).__name__}: {relabelled.error}"
    text = _other_placement(run.deployment, relabelled.deployment, old)
    if text is not None or _tied(run):
        return text
    before, after = run.outcome.recorder.makespan, relabelled.outcome.recorder.makespan
    if abs(before - after) > 1e-9 * before:  # sums of floats in another order may cost a picosecond
        return f"under other labels the run takes {after} ps instead of {before} ps"
    return None


def _other_placement(a: Deployment, b: Deployment, old: IntArray) -> str | None:
    for name in ("home", "resident", "expert_bytes"):
        if (np.take_along_axis(getattr(a, name), old, axis=1) != getattr(b, name)).any():
            return f"under other labels deploy chooses another {name}"
    wrong = [name for name in _ALIKE if getattr(a, name) != getattr(b, name)]
    return f"under other labels deploy chooses another {wrong[0]}" if wrong else None


def _tied(run: Run) -> bool:
    """Whether a visit had two experts with equally many tokens: the policy cut the batch, so ties came back."""
    counts = np.array([np.sort(call.seen.counts) for call in run.calls if isinstance(call.seen, Visit)])
    return bool((counts[:, 1:] == counts[:, :-1]).any())
