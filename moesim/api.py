"""The public verbs in Python: what a notebook calls. Each says what it takes; the command line calls the same functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moesim.policies.base import Policy
from moesim.results.compare import compare as rank
from moesim.scenario.explain import Explanation
from moesim.scenario.explain import explain as explain_loaded
from moesim.scenario.run import compare_loaded, loaded, run
from moesim.validation import CaseResult
from moesim.validation import reproduce as reproduce_cases

__all__ = ["compare", "explain", "reproduce", "run"]


def compare(
    scenario: Any, policies: Iterable[str | Policy] = ("all",), *, seed: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """Runs several policies on the same requests and routing: `{"scenario", "results": [summaries, best first], "pairs"}`.

    `policies` are names (`all` for every one known) or Policy objects; one that cannot run on this scenario stands under
    `refused` with the reason. Raises InputError when none can.
    """
    given = list(policies)
    this = loaded(scenario, seed=seed, **overrides)
    results, refused = compare_loaded(this, given)
    return {**rank(results), "refused": refused}


def explain(scenario: Any, *, policy: Any = None, **overrides: Any) -> Explanation:
    """What fits where, rooflines and break-even points of a scenario, before anything runs."""
    return explain_loaded(loaded(scenario, policy=policy, **overrides))


def reproduce(ids: Iterable[str] = ()) -> list[CaseResult]:
    """Published numbers beside simulated ones, for the cases named or all of them."""
    return reproduce_cases(list(ids))
