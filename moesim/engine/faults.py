"""Tiers that fail and come back while the clock runs: between two passes, homes there turn to the copies kept elsewhere.

Decides nothing: where experts live next is for the policy to say, which sees `view.down`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moesim.contract import Deployment, Problem
from moesim.engine.clock import LIMIT, SECOND
from moesim.engine.residency import Residency
from moesim.engine.tables import Placement
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.hardware import Memory
from moesim.hardware.fault import Fault

__all__ = ["Faults", "fallback_of"]


def fallback_of(problem: Problem, deployment: Deployment, faults: Sequence[Fault]) -> str | None:
    """The tier that keeps a copy of every expert; InputError for faults that can't be simulated on this machine."""
    mistakes = [mistake for number, fault in enumerate(faults) for mistake in _mistakes(problem, deployment, fault, number)]
    if mistakes:
        raise InputError(*mistakes)
    return faults[0].fallback if faults else deployment.backup


def _mistakes(problem: Problem, deployment: Deployment, fault: Fault, number: int) -> Iterator[Mistake]:
    hosts, where = problem.system.host_tiers, f"faults[{number}]"
    for key, tier in (("tier", fault.tier), ("fallback", fault.fallback)):
        if tier not in hosts:
            known = ", ".join(hosts) or "none"
            told = f"no host tier '{tier}' in this machine; it has {known}.{did_you_mean(tier, hosts)}"
            yield Mistake(told, f"{where}.{key}")
    if fault.tier == fault.fallback:
        yield Mistake(f"'{fault.tier}' cannot stand in for itself", f"{where}.fallback")
    busy = {
        "the KV cache": deployment.plan.kv,
        "activations on their way to and from the host": problem.main_memory,
        **{f"the near-data unit '{name}'": tier for tier, name in problem.costs.ndp_of.items()},
        **{f"what passes through on its way from '{n}'": t.stage for n, t in _memories(problem) if t.stage},
    }
    for what, tier in busy.items():
        if tier == fault.tier:
            yield Mistake(f"'{tier}' holds {what}, which cannot do without it", f"{where}.tier")
    if deployment.backup is not None and deployment.backup != fault.fallback:
        yield Mistake(f"the policy keeps its spare copies in '{deployment.backup}'; name that tier", f"{where}.fallback")


def _memories(problem: Problem) -> Iterator[tuple[str, Memory]]:
    for name, tier in problem.system.tiers.items():
        if isinstance(tier, Memory):
            yield name, tier


class Faults:
    """The faults of one run in the order of time."""

    def __init__(self, problem: Problem, faults: Sequence[Fault], residency: Residency, placement: Placement) -> None:
        self._tiers, self._residency, self._placement = problem.tiers, residency, placement
        self.notes: list[str] = []
        """What happened, for the result."""
        changes = [(_reached(fault.at), True, fault) for fault in faults]
        changes += [(_reached(fault.until), False, fault) for fault in faults if fault.until is not None]
        self._left = sorted(changes, key=lambda change: (change[0], change[1]))

    def meet(self, now: int) -> None:
        """Between two passes, at `now` ps: what was due by then happens."""
        while self._left and self._left[0][0] <= now:
            _, fails, fault = self._left.pop(0)
            tier = self._tiers.index(fault.tier)
            if fails:
                lost = self._residency.fail(tier)
                self._placement.refresh()
                text = f"fails: {lost} experts that lived there are read from '{fault.fallback}'"
            else:
                self._residency.down[tier] = False
                text = "is back, empty"
            self.notes.append(f"tier '{fault.tier}' {text} (met at {now / 1e12:.6g} s)")


def _reached(seconds: float) -> int:
    """ps at which a moment is met; one that no run lives to see lies at the end of the clock."""
    return round(min(seconds * SECOND, float(LIMIT)))
