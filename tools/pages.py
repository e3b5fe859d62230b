"""Writes a page of docs/, or says whether it is stale. Knows files, not what stands on a page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from moesim.writing import write

__all__ = ["written"]


def written(place: Path, make: Callable[[], str], arguments: list[str]) -> int:
    """Writes what `make` gives to `place`, or to the file named; with `--check` writes nothing, and 1 if `place` is stale."""
    if arguments == ["--check"]:
        stale = place.read_text("utf-8") != make()
        sys.stderr.write(f"{'stale' if stale else 'up to date'}: docs/{place.name}\n")
        return int(stale)
    target = Path(arguments[0]) if arguments else place
    write(target, make())
    return 0
