"""Owns the conformance suite as a plain function: every case on one policy, and a report of what came of it.

Needs no test runner.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moesim.contract import Policy
from moesim.testing.bench import Bench, NotApplicable, Violation
from moesim.testing.cases import CASES
from moesim.testing.elsewhere import OtherProcess
from moesim.testing.worlds import World

__all__ = ["CaseResult", "Report", "check_policy"]


@dataclass(frozen=True)
class CaseResult:
    """What came of one case."""

    name: str
    verdict: Literal["pass", "fail", "skip"]
    reason: str = ""
    """What is wrong, or why the case has nothing to say; empty for a pass."""

    def __str__(self) -> str:
        reason = "; ".join(self.reason.splitlines())
        return f"{self.verdict}  {self.name}" + (f": {reason}" if reason else "")


@dataclass(frozen=True)
class Report:
    """What came of all cases; prints one line for each."""

    policy: str
    cases: tuple[CaseResult, ...]
    worlds: dict[str, str]
    """World -> `ran`, or why the policy was not run there."""
    decision_s: float | None
    """Median seconds of `dispatch` plus `adapt` per visit of a layer, on this computer."""

    @property
    def ok(self) -> bool:
        """Whether no case failed."""
        return not self.failed

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that did."""
        return [case for case in self.cases if case.verdict == "fail"]

    def __str__(self) -> str:
        ran = [name for name, outcome in self.worlds.items() if outcome == "ran"]
        cost = "" if self.decision_s is None else f", {1e6 * self.decision_s:.0f} us per decision"
        last = f"{self.policy}: {len(self.failed)} of {len(self.cases)} cases failed; "
        return "\n".join([*map(str, self.cases), f"{last}ran in {len(ran)} of {len(self.worlds)} worlds{cost}"])


def check_policy(
    policy: Policy | type[Policy],
    *,
    worlds: Sequence[World] | None = None,
    cases: Sequence[str] | None = None,
    process: OtherProcess | None = None,
    quiet: bool = False,
) -> Report:
    """Runs every case (or those named) on a policy, in `worlds` (default: all shipped ones), and prints a line for each.

    Policies may be defined in a notebook; the case that needs another process is then skipped. `process`: one that is
    there already, for many policies in turn; it knows their modules as they were when it first imported them.
    """
    bench = Bench(policy, worlds, process)
    chosen = CASES if cases is None else {name: CASES[name] for name in cases}
    results = tuple(_result(name, bench) for name in chosen)
    outcomes = {world.name: str(run.error or "ran") for world in bench.worlds for run in [bench.run(world)]}
    report = Report(type(bench.policy).__name__, results, outcomes, bench.decision_seconds())
    if not quiet:
        sys.stdout.write(f"{report}\n")
    return report


def _result(name: str, bench: Bench) -> CaseResult:
    try:
        CASES[name](bench)
    except NotApplicable as why:
        return CaseResult(name, "skip", str(why))
    except Violation as why:
        return CaseResult(name, "fail", str(why))
    except Exception as error:  # a policy that breaks in a case's own hands
        return CaseResult(name, "fail", f"{type(error).__name__}: {error}")
    return CaseResult(name, "pass")
