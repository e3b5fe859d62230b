"""Keys of a model's configuration that a scenario leaves out.

Knows trees and JSON objects; reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.scenario.tree import Node

__all__ = ["left_out", "removed"]


def left_out(keys: Mapping[str, Node]) -> dict[str, Node]:
    """The keys with null that are not fields of a model."""
    from moesim.model import Architecture

    return {key: child for key, child in keys.items() if child.value is None and key not in Architecture.model_fields}


def removed(config: dict[str, Any], key: str) -> bool:
    """Takes `key` out of a configuration and of the sections nested in it; False when it is nowhere there."""
    there = config.pop(key, None) is not None
    sections = [removed(value, key) for value in config.values() if isinstance(value, dict)]
    return there or any(sections)
