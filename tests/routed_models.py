"""Models as laws of routing see them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RoutedModel"]


class RoutedModel(NamedTuple):
    """A name and three sizes: experts of a layer, experts of a token, layers with experts."""

    name: str
    experts: int
    top_k: int
    n_moe: int
