"""moesim: a discrete-event simulator of Mixture-of-Experts inference on GPUs, AMX CPUs, CXL memory and near-data units.

The public verbs load on first use, so that `import moesim` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moesim.version import __version__

if TYPE_CHECKING:
    from moesim.api import compare, explain, export, reproduce, run, sweep
    from moesim.contract import Policy
    from moesim.results.result import Result
    from moesim.scenario import load

__all__ = ["Policy", "Result", "__version__", "compare", "explain", "export", "load", "reproduce", "run", "sweep"]

_HOMES = {
    "Policy": "moesim.contract",
    "Result": "moesim.results.result",
    "compare": "moesim.api",
    "explain": "moesim.api",
    "export": "moesim.api",
    "load": "moesim.scenario",
    "reproduce": "moesim.api",
    "run": "moesim.api",
    "sweep": "moesim.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moesim' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
