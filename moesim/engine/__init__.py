"""When it happens: the clock, the lanes, the flows and the walk through passes and layers. The only importer of simpy."""

from moesim.engine.run import SimulationOptions, simulate

__all__ = ["SimulationOptions", "simulate"]
