"""Verbs that share their name with a package: `moesim.report(...)` and `moesim.report.figures` both work.

Python puts a package into its parent under its own name, over any function of that name; so the package itself is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["callable_package"]


def callable_package(name: str, verb: str) -> None:
    """Lets the package `name` be called as the function `verb` of `moesim.api`."""

    class Verb(ModuleType):
        """A package that is called as its verb."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module("moesim.api"), verb)(*args, **kwargs)

    sys.modules[name].__class__ = Verb
