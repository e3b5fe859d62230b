"""Plain data: numpy values turned into JSON types, and one canonical way to write them as bytes.

Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.errors import MoesimError

__all__ = ["canonical", "plain"]


def plain(value: Any, path: str = "result") -> Any:
    """`value` in JSON types only; tuples and arrays become lists, keys become text.

    Raises MoesimError, with the path of the culprit, for a number that is not finite or a type that JSON lacks.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist(), path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MoesimError(f"{path} is {value}; results hold finite numbers, or null where there is none")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise MoesimError(f"{path} is a {type(value).__name__}, which JSON cannot hold")


def canonical(value: Any) -> bytes:
    """The one JSON text of `value`: sorted keys, no spaces, UTF-8."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()
