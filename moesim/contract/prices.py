"""Remembers durations by what they depend on, so that runs on one machine do not compute the same ones again and again.

Knows nothing of what a price is for. What it holds is bounded, and all of it is let go at once when it is full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from moesim.arrays import FloatArray

__all__ = ["Prices", "key_of"]

_LONGEST, _MOST = 4096, 1 << 16
"""Most numbers in one price that is remembered, and in all of them."""


def key_of(numbers: Any) -> Hashable | None:
    """A key for a number, or for an array [..]: its type, shape and bytes; None for more numbers than are worth remembering."""
    if isinstance(numbers, int | float):
        return numbers
    array = np.asarray(numbers)
    return (array.dtype.char, array.shape, array.tobytes()) if array.size <= _LONGEST else None


class Prices:
    """Durations, s, that were asked for before; those of more than `most` numbers together make room for later ones."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._held = 0
        self._known: dict[Hashable, FloatArray] = {}

    def of(self, key: tuple[Hashable | None, ...], price: Callable[[], FloatArray]) -> FloatArray:
        """What `price` gives for this `key`, not to be written to; asked anew each time where a part of the key is None."""
        if None in key:
            return price()
        known = self._known.get(key)
        if known is None:
            known = price()
            known.flags.writeable = False
            if self._held + known.size > self._most:
                self._known.clear()
                self._held = 0
            self._known[key] = known
            self._held += known.size + 1
        return known
