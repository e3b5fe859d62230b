"""The least time of a run's work on its machine: `limits` asks, `dual` answers, `summit` finds the best dual."""

from moesim.results.bound.limits import Bound, Dense, FurtherGpus, Limits, PhaseWork, lower_bound

__all__ = ["Bound", "Dense", "FurtherGpus", "Limits", "PhaseWork", "lower_bound"]
