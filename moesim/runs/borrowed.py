"""Owns what borrowed routing adds to the uncertainty of a run: the presets that a model could as well have borrowed.

Knows scenarios and sticky routing; nothing of machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moesim.arrays import IntArray
from moesim.scenario.scenario import LoadedScenario
from moesim.streams import Streams
from moesim.workload.routing.sticky import Sticky

__all__ = ["borrowed_note", "chosen", "lenders"]


def lenders(loaded_scenario: LoadedScenario) -> dict[str, LoadedScenario]:
    """Preset -> the scenario with the routing of that preset. Empty where the routing is not borrowed."""
    scenario: Any = loaded_scenario.scenario
    routing = scenario.workload.routing
    names = routing.lenders(scenario.model) if isinstance(routing, Sticky) else ()
    return {name: _under(loaded_scenario, name) for name in names}


def _under(loaded_scenario: LoadedScenario, preset: str) -> LoadedScenario:
    scenario: Any = loaded_scenario.scenario
    routing = scenario.workload.routing.model_copy(update={"preset": preset})
    workload = scenario.workload.model_copy(update={"routing": routing})
    return replace(loaded_scenario, scenario=scenario.model_copy(update={"workload": workload}), job_and_table=None)


def chosen(count: int, draws: int, streams: Streams) -> IntArray:
    """[draws] which of `count` presets each draw takes, all alike; the first of many draws are the draws of fewer."""
    taken: IntArray = (streams["borrowed routing"].random(draws) * count).astype(int)
    return taken


def borrowed_note(names: Sequence[str]) -> str:
    """What a reader should know of such a study; empty for no names."""
    return f"no routing was fitted to this model: each draw borrows one of {', '.join(names)}" if names else ""
