"""Compiles all that the package compiles: `python -m tests.machine_code`, once for all processes of a run of the tests."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import moesim
from moesim import jit

PACKAGE = Path(moesim.__file__).parent


def modules() -> list[ModuleType]:
    """Those that name what numba compiles of them."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if "\nENTRIES = " in path.read_text("utf-8")]
    return [importlib.import_module(".".join(("moesim", *path.relative_to(PACKAGE).with_suffix("").parts))) for path in files]


if __name__ == "__main__":
    for module in modules():
        jit.native(module)
