"""Owns how functions become machine code: by numba, where that is there, and kept in the cache folder for later processes.

Knows numba and the cache folder, nothing of what the functions do. A module that is compiled is complete in itself, because
numba notices no change in others. It names what is compiled in `FUNCTIONS`, imports no numba and runs as plain Python, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from moesim.cache import CODE, folder
from moesim.errors import InputError
from moesim.writing import folder_target

__all__ = ["compiled", "loaded", "ready"]

logger = logging.getLogger("moesim.jit")


def loaded() -> bool:
    """Whether this process has paid for numba's import already."""
    return "numba" in sys.modules


def ready(module: ModuleType) -> bool:
    """Whether an earlier process has compiled `module`, as it is now, and numba is there."""
    return importlib.util.find_spec("numba") is not None and any(_place(module).rglob("*.nbi"))


@cache
def compiled(module: ModuleType) -> SimpleNamespace | None:
    """The functions of `module.FUNCTIONS`, compiled when first called with a kind of arguments; None without numba.

    Threads run them side by side. Where the cache folder cannot be written, they are compiled for this process alone.
    """
    try:
        import numba
    except ImportError:
        return None
    place = _place(module)
    kept = _writable(place)
    if not ready(module):
        often = "once on this machine" if kept else f"for this process alone, as {folder()} cannot be written to"
        logger.warning("compiling %s, %s; takes some seconds", module.__name__, often)
    scope = dict(vars(module))
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(place)
    try:
        for function in module.FUNCTIONS:
            twin = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
            twin.__module__, twin.__qualname__ = module.__name__, function.__qualname__
            scope[function.__name__] = numba.njit(cache=kept, nogil=True)(twin)
    finally:
        config.CACHE_DIR = before
    return SimpleNamespace(**{function.__name__: scope[function.__name__] for function in module.FUNCTIONS})


def _place(module: ModuleType) -> Path:
    """Folder for the machine code of this source on this Python."""
    digest = hashlib.sha256(Path(str(module.__file__)).read_bytes() + sys.version.encode())
    return folder() / CODE / f"{module.__name__}-{digest.hexdigest()[:16]}"


def _writable(place: Path) -> bool:
    try:
        folder_target(place)
    except InputError:
        return False
    return True
