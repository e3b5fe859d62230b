"""What an importer is asked and what it answers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Imported", "Shape"]


class Shape(Protocol):
    """What is asked of the model whose routing was recorded."""

    @property
    def layers(self) -> int:
        """All of them."""

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Those with experts."""

    experts: int
    top_k: int


class Imported(NamedTuple):
    """What was written."""

    rows: int
    unit: str
    """Such as `requests` or `tokens of 12 sequences`."""
    notes: tuple[str, ...] = ()
    """What to know before the file is used."""
