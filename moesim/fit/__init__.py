"""From measured points to the parameters of component models: what is fitted on what, and how well it holds elsewhere.

Knows the cost models and tables of measurements; knows nothing of scenarios, profiles or runs.
"""

from moesim.fit.gpu import GPUS, ExpertFit
from moesim.fit.loads import Loads, loads
from moesim.fit.solve import Fit, Residuals

__all__ = ["GPUS", "ExpertFit", "Fit", "Loads", "Residuals", "loads"]
