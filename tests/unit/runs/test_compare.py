"""Policies beside each other in one comparison: all of them and one's own, each once, objects of one class by parameters."""

from __future__ import annotations

from typing import Any

import moesim
from moesim import plugins
from moesim.policies.baselines.on_demand import OnDemand
from moesim.policies.caching.lru import LRU
from moesim.runs.run import distinct_labels, loaded, policies_for

SMALL: dict[str, Any] = {"workload.requests": 1, "workload.prompt": 8, "workload.output": 2}


class Mine(OnDemand):
    """One's own."""

    margin: float = 1.0


def test_all_may_stand_beside_ones_own() -> None:
    scenario = loaded("quickstart", **SMALL)
    names = [name for name, _ in policies_for(["lru", "all", Mine()], scenario)]
    assert names == ["lru", *(name for name in plugins.names("policies") if name != "lru"), f"{Mine.__module__}:Mine"]


def test_objects_of_one_class_are_named_by_the_parameters_in_which_they_differ_from_it() -> None:
    name = f"{Mine.__module__}:Mine"
    assert distinct_labels([Mine(margin=2.0), LRU()]) == [name, "lru"]
    assert distinct_labels([Mine(), Mine(margin=2.0), LRU()]) == [name, f"{name}(margin=2.0)", "lru"]
    assert distinct_labels([LRU(capacity=3), LRU()], ["lru"]) == ["lru(capacity=3)", "lru"]
    assert distinct_labels([LRU(capacity=3)], ["lru", {"kind": "lru"}]) == ["lru(capacity=3)"]
    ranked = moesim.compare("quickstart", [Mine(), Mine(margin=2.0)], **SMALL)
    assert sorted(run["policy"] for run in ranked["results"]) == [name, f"{name}(margin=2.0)"]


def test_what_a_session_defines_has_no_module_in_its_name() -> None:
    class Typed(Mine):
        """As if typed into a notebook."""

    Typed.__module__, Typed.__qualname__ = "__main__", "Typed"
    assert distinct_labels([Typed()]) == ["Typed"]
