"""Owns the word for each policy's own program, and which one that is.

Knows nodes and policy classes; finds no profiles.
"""

from __future__ import annotations

from pathlib import Path as FilePath

from moesim.errors import InputError
from moesim.scenario.schema import DEFAULT_RUNTIME, policy_class
from moesim.scenario.tree import Node

__all__ = ["OWN", "own_program"]

OWN = "own"
"""Name of a runtime that stands for the program of the policy's own system."""


def own_program(policy: Node | None, base: FilePath) -> str:
    """Name of the program of the policy's own system; the default where the policy is not known, which is reported later."""
    kind = policy.child("kind") if policy is not None else None
    try:
        return policy_class(str(kind.value), base).runtime if kind is not None else DEFAULT_RUNTIME
    except InputError:
        return DEFAULT_RUNTIME
