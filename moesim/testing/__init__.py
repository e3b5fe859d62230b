"""The conformance suite that the author of a policy runs: `PolicyCases` under pytest, `check_policy` anywhere else.

Loads on first use, so that `check_policy` works without pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.testing.bench import NotApplicable, Violation
    from moesim.testing.check import CaseResult, Report, check_policy
    from moesim.testing.policy_cases import PolicyCases
    from moesim.testing.worlds import World, machine, small_job, small_model, small_worlds

__all__ = [
    "CaseResult",
    "NotApplicable",
    "PolicyCases",
    "Report",
    "Violation",
    "World",
    "check_policy",
    "machine",
    "small_job",
    "small_model",
    "small_worlds",
]

_HOMES = {
    "CaseResult": "check",
    "NotApplicable": "bench",
    "PolicyCases": "policy_cases",
    "Report": "check",
    "Violation": "bench",
    "World": "worlds",
    "check_policy": "check",
    "machine": "worlds",
    "small_job": "worlds",
    "small_model": "worlds",
    "small_worlds": "worlds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moesim.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(f"moesim.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
