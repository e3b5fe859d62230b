"""Compiles all that the package compiles: `python -m tests.machine_code`, once for all processes of a run of the tests.

As many modules at once as there are cores, the largest first.
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import moesim
from moesim import jit

PACKAGE = Path(moesim.__file__).parent


def modules() -> list[ModuleType]:
    """Those that name what numba compiles of them."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if "\nENTRIES = " in path.read_text("utf-8")]
    return [importlib.import_module(".".join(("moesim", *path.relative_to(PACKAGE).with_suffix("").parts))) for path in files]


def _compile(name: str) -> None:
    jit.native(importlib.import_module(name))


if __name__ == "__main__":
    largest_first = sorted(modules(), key=lambda module: -len(module.FUNCTIONS))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_compile, [module.__name__ for module in largest_first]))
