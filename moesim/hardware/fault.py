"""A memory device that fails during a run, and comes back empty.

Knows times and names; what becomes of the bytes is for the engine and the policy to say.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from moesim.spec import Spec
from moesim.units import Duration, format_seconds

__all__ = ["Fault"]


class Fault(Spec):
    """A host tier cannot be read from `at` on; its experts are read from spare copies in another tier.

    Valid: met between two passes, so that copies under way still land; whatever lay in the tier is lost.
    """

    tier: str
    """The tier that fails."""
    at: Duration
    """Seconds from the start of the run."""
    until: Duration | None = None
    """When it is back, empty; never if not given."""
    fallback: str
    """Host tier that keeps a copy of every expert all along."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.until is not None and self.until <= self.at:
            message = f"{format_seconds(self.until)} is not after {format_seconds(self.at)}, when it fails"
            raise ValueError(f"until: {message}")
        return self
