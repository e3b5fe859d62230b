"""Scenarios: strict YAML with line and column, what extends what, named profiles and models, every mistake at once.

The only importer of yaml. What no run needs loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moesim.scenario.overrides import Override
from moesim.scenario.scenario import LoadedScenario, load, load_data
from moesim.scenario.schema import Scenario, Simulation

if TYPE_CHECKING:
    from moesim.scenario.checking import check
    from moesim.scenario.editors import json_schema

__all__ = ["LoadedScenario", "Override", "Scenario", "Simulation", "check", "json_schema", "load", "load_data"]

_HOMES = {"check": "checking", "json_schema": "editors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
