"""Policies of one scenario run side by side in processes: the same answer as one after another, sooner.

Knows what `compare_loaded` does; adds nothing to it but the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.contract import Policy
from moesim.errors import InputError, Mistake
from moesim.results.result import Result
from moesim.runs.pools import cores, outcomes
from moesim.runs.run import RunOptions, compare_loaded, policies_for, run_loaded
from moesim.runs.worker import built
from moesim.scenario.scenario import LoadedScenario

__all__ = ["compare_in"]


@dataclass(frozen=True)
class Entrant:
    """One policy on the scenario that all share."""

    number: int
    label: str
    loaded_scenario: LoadedScenario
    policy: Policy
    command: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """The policy; two of a class may run."""
        return f"{self.label} ({self.number})"

    @property
    def base(self) -> Path:
        """The scenario's folder."""
        return self.loaded_scenario.base

    @property
    def kinds(self) -> Sequence[type[Any]]:
        """Classes that may come from a session or from beside the scenario."""
        return [type(self.policy), type(getattr(self.loaded_scenario.scenario.workload, "routing", None))]

    def run(self) -> Result | str:
        """The result, or why the policy cannot run here."""
        try:
            return run_loaded(
                built(self.loaded_scenario, "compared"),
                RunOptions(command=self.command),
                policy=self.policy,
                policy_name=self.label,
            )
        except InputError as error:
            return "; ".join(mistake.message for mistake in error.mistakes)


def compare_in(
    loaded_scenario: LoadedScenario,
    names: Iterable[str | Policy],
    *,
    jobs: int | None = None,
    started: Callable[[str, int, int], None] | None = None,
    finished: Callable[[Result], object] | None = None,
    command: Sequence[str] | None = None,
) -> tuple[list[Result], dict[str, str]]:
    """`compare_loaded` in `jobs` processes (default: one for each core)."""
    if jobs is not None and jobs < 1:
        raise InputError(Mistake(f"must be at least 1, got {jobs}", file="--jobs"))
    policy_names = list(names)
    policies = policies_for(policy_names, loaded_scenario)
    processes = min(jobs if jobs is not None else cores(), len(policies))
    if processes <= 1:
        return compare_loaded(loaded_scenario, policy_names, started=started, finished=finished, command=command)
    words = None if command is None else tuple(command)
    entrants = [Entrant(number, name, loaded_scenario, policy, words) for number, (name, policy) in enumerate(policies)]
    finished_runs: dict[int, Result | str] = {}
    with closing(outcomes(entrants, jobs=processes)) as done:
        for entrant, outcome in done:
            finished_runs[entrant.number] = outcome
            if finished is not None and isinstance(outcome, Result):
                finished(outcome)
            if started is not None:
                started(entrant.label, len(finished_runs), len(entrants))
    sentences = [(entrant.label, finished_runs[entrant.number]) for entrant in entrants]
    results = [outcome for _, outcome in sentences if isinstance(outcome, Result)]
    refused = {label: outcome for label, outcome in sentences if isinstance(outcome, str)}
    if not results:
        raise InputError(*(Mistake(text, name) for name, text in refused.items()))
    return results, refused
