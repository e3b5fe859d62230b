"""Tiers that fail and come back while the clock runs, and tiers and links that are slow: all met between two passes. Homes in a
tier that fails turn to the copies kept elsewhere.

Decides nothing: where experts live next is for the policy to say, which sees `view.down`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.arrays import BoolArray
from moesim.clock import LIMIT, SECOND
from moesim.contract import Deployment, Problem
from moesim.engine.machine import Machine
from moesim.engine.programs.durations import Placement
from moesim.engine.residency import Residency
from moesim.errors import InputError, Mistake, did_you_mean
from moesim.hardware import Memory
from moesim.hardware.fault import Fault
from moesim.results.levels import Disruption
from moesim.units import format_bytes

__all__ = ["Faults", "fallback_of"]


def fallback_of(problem: Problem, deployment: Deployment, faults: Sequence[Fault]) -> str | None:
    """The tier that keeps a copy of every expert; InputError for faults that can't be simulated on this machine."""
    mistakes = [mistake for number, fault in enumerate(faults) for mistake in _mistakes(problem, deployment, fault, number)]
    if mistakes:
        raise InputError(*mistakes)
    return next((fault.fallback for fault in faults if fault.fallback is not None), deployment.backup)


def _mistakes(problem: Problem, deployment: Deployment, fault: Fault, number: int) -> Iterator[Mistake]:
    hosts, where = problem.system.host_tiers, f"faults[{number}]"
    if fault.rate is not None:
        yield from _not_slowed(problem, fault, where)
        return
    for key, tier in (("tier", fault.name), ("fallback", fault.fallback or "")):
        if tier not in hosts:
            known = ", ".join(hosts) or "none"
            message = f"no host tier '{tier}' in this machine; it has {known}.{did_you_mean(tier, hosts)}"
            yield Mistake(message, f"{where}.{key}")
    if fault.tier == fault.fallback:
        yield Mistake(f"'{fault.tier}' cannot stand in for itself", f"{where}.fallback")
    busy = {
        "the KV cache": deployment.plan.kv,
        **{f"KV blocks that left GPU memory for '{tier}'": tier for tier in problem.job.kv_aside},
        "activations on their way to and from the host": problem.main_memory,
        **{f"the near-data unit '{name}'": tier for tier, name in problem.costs.ndp_of.items()},
        **{f"what passes through on its way from '{n}'": t.stage for n, t in _memories(problem) if t.stage},
    }
    for content, tier in busy.items():
        if tier == fault.tier:
            yield Mistake(f"'{tier}' holds {content}, which cannot do without it", f"{where}.tier")
    if deployment.backup is not None and deployment.backup != fault.fallback:
        yield Mistake(f"the policy keeps its spare copies in '{deployment.backup}'; name that tier", f"{where}.fallback")


def _not_slowed(problem: Problem, fault: Fault, where: str) -> Iterator[Mistake]:
    """A fault that slows what has no rates of its own."""
    known = sorted({name.partition(":")[0] for name in problem.system.resources()})
    known = known if fault.device is None else list(problem.devices)
    if fault.name not in known:
        message = f"nothing called '{fault.name}' in this machine has rates; there are {', '.join(known)}."
        yield Mistake(f"{message}{did_you_mean(fault.name, known)}", f"{where}.{fault.kind}")


def _memories(problem: Problem) -> Iterator[tuple[str, Memory]]:
    for name, tier in problem.system.tiers.items():
        if isinstance(tier, Memory):
            yield name, tier


class Faults:
    """The faults of one run in the order of time."""

    def __init__(self, machine: Machine, faults: Sequence[Fault], residency: Residency, placement: Placement) -> None:
        self._machine, self._tiers = machine, machine.problem.tiers
        self._residency, self._placement = residency, placement
        self._events: list[_Event] = []
        """What happened, and how the placement recovered from it."""
        changes = [(_reached(fault.at), True, fault) for fault in faults]
        changes += [(_reached(fault.until), False, fault) for fault in faults if fault.until is not None]
        self._left = sorted(changes, key=lambda change: (change[0], change[1]))

    @property
    def any(self) -> bool:
        """Whether something fails in this run, or has failed."""
        return bool(self._left or self._events)

    def meet(self, now: int) -> None:
        """Between two passes, at `now` ps: what was due by then happens."""
        for event in self._events:
            event.follow(self._residency, now)
        while self._left and self._left[0][0] <= now:
            _, begins, fault = self._left.pop(0)
            if fault.rate is not None:
                slow = self._machine.slow if fault.device is None else self._machine.slow_device
                slow(fault.name, fault.rate if begins else 1.0)
                self._events.append(_Event(fault, -1, now, None, begins))
                continue
            tier = self._tiers.index(fault.name)
            lost = self._residency.fail(tier) if begins else None
            if begins:
                self._placement.refresh()
            else:
                self._residency.down[tier] = False
            self._events.append(_Event(fault, tier, now, lost, begins, over=not begins and not self._stranded))

    @property
    def _stranded(self) -> bool:
        """Whether experts are read from the fallback, for they have no other home and are not in GPU memory either."""
        residency = self._residency
        return bool(((residency.home == residency.backup) & ~residency.resident).any())

    @property
    def notes(self) -> list[str]:
        """What happened, for the result, and what the run did not live to see."""
        unmet = [
            f"the fault of {fault.kind} '{fault.name}' at {fault.at:.6g} s is not met: the run ends before"
            for _, begins, fault in self._left
            if begins
        ]
        return [*(event.note(self._residency) for event in self._events), *unmet]

    @property
    def recoveries(self) -> list[dict[str, Any]]:
        """Per event: what moved until placement had recovered, how long that took, and what its bytes take on idle links.

        Nothing recovers where a tier comes back and no expert was read from the fallback then.
        """
        return [event.record(self._residency, self._machine.problem) for event in self._events if event.fault.rate is None]

    @property
    def disruptions(self) -> list[Disruption]:
        """When each fault was met and was over, and what it took."""
        ends = {id(event.fault): event.met for event in self._events if not event.begins}
        return [
            Disruption(event.fault.name, event.fault.rate, event.met, ends.get(id(event.fault)), event.count)
            for event in self._events
            if event.begins
        ]


@dataclass
class _Event:
    """A tier failed, with the experts that it `lost`, or came back; or something became slow, or no longer is."""

    fault: Fault
    tier: int
    met: int
    lost: BoolArray | None
    begins: bool
    moved: int = 0
    """Experts that have another home than the fallback again, or have come to live in the tier."""
    last: int = 0
    """ps at which the last of them had."""
    over: bool = False
    """What comes later is everyday adaptation: a pass has brought no more of them, or nothing was stranded at a return."""

    @property
    def count(self) -> int:
        """Experts that were lost."""
        return 0 if self.lost is None else int(np.count_nonzero(self.lost))

    def follow(self, residency: Residency, now: int) -> None:
        """Counts homes between two passes."""
        if self.over or self.fault.rate is not None:
            return
        here = residency.home == self.tier if self.lost is None else self.lost & (residency.home != residency.backup)
        count = int(np.count_nonzero(here))
        if count > self.moved:
            arrived = residency.arrived
            last = max(arrived.values(), default=now) if self.lost is not None else arrived.get(self.tier, now)
            self.moved, self.last = count, max(last, self.met)
        else:
            self.over = self.moved > 0

    def record(self, residency: Residency, problem: Problem) -> dict[str, Any]:
        """As `Faults.recoveries`; the bytes come from the fallback, on its fastest way where the tier was lost."""
        fallback, hosts = self.fault.fallback or "", problem.system.host_tiers
        targets = [self.fault.name] if self.lost is None else [tier for tier in hosts if tier != fallback]
        rate = max(problem.costs.path(fallback, tier).rate for tier in targets)
        nbytes = self.moved * float(residency.bytes.mean())
        return {
            "tier": self.fault.name,
            "event": "returned" if self.lost is None else "lost",
            "met_s": self.met / SECOND,
            "experts": self.moved,
            "bytes": nbytes,
            "recovery_s": (self.last - self.met) / SECOND if self.moved else None,
            "idle_links_s": nbytes / rate,
        }

    def note(self, residency: Residency) -> str:
        """One sentence: what happened, and by when what had moved."""
        name, when = self.fault.name, f"(met at {self.met / SECOND:.6g} s)"
        if self.fault.rate is not None:
            left = f"has {100 * self.fault.rate:.3g} % of its rates" if self.begins else "has all of its rates again"
            return f"{self.fault.kind} '{name}' {left} {when}"
        if self.lost is None:
            text = f"tier '{name}' is back, empty {when}"
        else:
            text = f"tier '{name}' fails: {self.count} experts that lived there are read from '{self.fault.fallback}' {when}"
        if not self.moved:
            return text
        nbytes, later = format_bytes(self.moved * float(residency.bytes.mean())), (self.last - self.met) / 1e12
        who = "experts live there" if self.lost is None else "of them have another home"
        return f"{text}; {self.moved} {who} ({nbytes}) {later:.4g} s later"


def _reached(seconds: float) -> int:
    """ps at which a moment is met; one that no run lives to see lies at the end of the clock."""
    return round(min(seconds * SECOND, float(LIMIT)))
