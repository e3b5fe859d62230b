"""Scenarios: strict YAML with line and column, what extends what, named profiles and models, every mistake at once.

The only importer of yaml.
"""

from moesim.scenario.checking import check
from moesim.scenario.editors import json_schema
from moesim.scenario.overrides import Override
from moesim.scenario.scenario import LoadedScenario, load, load_data
from moesim.scenario.schema import Scenario, Simulation

__all__ = ["LoadedScenario", "Override", "Scenario", "Simulation", "check", "json_schema", "load", "load_data"]
