"""Which values of a resolved machine or runtime are figures, whose origin matters, and not names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moesim.units import split

__all__ = ["figures"]

_NAMES = frozenset({
    "kind", "name", "mode", "calls", "kernels_used", "description", "at", "memory", "ends", "inside", "of", "stage", "use",
    "profile", "source",
})  # fmt: skip
"""Keys that name things rather than measure them."""


def figures(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted path, from `path` on, and value of every figure in plain `data`; a list of figures is one, infinities are none."""
    if isinstance(data, Mapping):
        for key, item in data.items():
            if key not in _NAMES:
                yield from figures(item, f"{path}.{key}")
    elif isinstance(data, list) and any(isinstance(item, Mapping | list) for item in data):
        for index, item in enumerate(data):
            yield from figures(item, f"{path}.{index}")
    elif isinstance(data, list):
        if any(_is_figure(item) for item in data):
            yield path, data
    elif _is_figure(data):
        yield path, data


def _is_figure(value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and split(value) is not None
