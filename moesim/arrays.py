"""The types of arrays that all parts hand to each other; shapes stand in docstrings, in brackets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoolArray", "FloatArray", "IntArray", "distinct"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def distinct(values: IntArray) -> IntArray:
    """[m] the distinct ones of `values` [n], rising; as `np.unique`, which loads numpy.ma (a tenth of a small run) for it."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))]
