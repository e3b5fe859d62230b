"""moesim: a discrete-event simulator of Mixture-of-Experts inference on GPUs, AMX CPUs, CXL memory and near-data units.

The public verbs load on first use, so that `import moesim` costs next to nothing.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moesim.version import __version__

if TYPE_CHECKING:
    from moesim.api import check, compare, explain, export, list, optimize, report, reproduce, run, sweep
    from moesim.contract import Policy
    from moesim.results.notebook import Comparison
    from moesim.results.result import Result
    from moesim.results.sweeps.result import SweepResult
    from moesim.scenario import load

__all__ = [
    "Comparison", "Policy", "Result", "SweepResult", "__version__", "check", "compare", "explain", "export", "list", "load",
    "optimize", "report", "reproduce", "run", "sweep",
]  # fmt: skip

_VERBS = ("check", "compare", "export", "list", "optimize", "reproduce", "run", "sweep")
_PACKAGES = ("explain", "report")
"""Verbs that are called like a package of ours (`callable_package`)."""
_HOMES = {
    "Comparison": "moesim.results.notebook",
    "Policy": "moesim.contract",
    "Result": "moesim.results.result",
    "SweepResult": "moesim.results.sweeps.result",
    "load": "moesim.scenario",
    **dict.fromkeys(_VERBS, "moesim.api"),
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"moesim.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'moesim' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> builtins.list[str]:
    return sorted(__all__)


def callable_package(name: str, verb: str) -> None:
    """Lets the package `name` be called as `verb` of `moesim.api`: `moesim.report(...)` and `moesim.report.figures` both work.

    Python puts a package into its parent under its own name, over any function of that name; so the package itself is called.
    """

    class Verb(ModuleType):
        """A package that is called as its verb."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module("moesim.api"), verb)(*args, **kwargs)

    sys.modules[name].__class__ = Verb
