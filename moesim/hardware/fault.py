"""A memory device that fails during a run and comes back empty; a tier, a link or a device that is slow for a while.

Knows times and names; what becomes of the bytes is for the engine and the policy to say.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from moesim.spec import Spec
from moesim.units import Duration, Share, format_seconds

__all__ = ["Fault"]


class Fault(Spec):
    """From `at` on a host tier cannot be read, and its experts are read from spare copies in another tier; or, with `rate`, a
    tier, a link or a device (a GPU, a CPU, a near-data unit) has only a share of its rates.

    Valid: met between two passes, so that copies under way still land; whatever lay in a tier that fails is lost. Where it is
    slow, everything that crosses it takes longer, set-up times included; policies go on deciding by nominal rates.
    """

    tier: str | None = None
    """The tier that fails, or is slow."""
    link: str | None = None
    """The link that is slow."""
    device: str | None = None
    """The device that is slow: all that it does takes longer, calls and the host's work in its steps included."""
    rate: Share | None = Field(default=None, gt=0, lt=1)
    """Share of its rates that is left; not given: a tier fails."""
    at: Duration
    """Seconds from the start of the run."""
    until: Duration | None = None
    """When it is back, empty; never if not given."""
    fallback: str | None = None
    """Host tier that keeps a copy of every expert all along, where a tier fails."""

    @property
    def name(self) -> str:
        """The tier, the link or the device."""
        return self.tier or self.link or self.device or ""

    @property
    def kind(self) -> str:
        """What it is of."""
        return "tier" if self.tier is not None else "link" if self.link is not None else "device"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if [self.tier, self.link, self.device].count(None) != 2:
            raise ValueError("give either tier, link or device")
        if self.rate is None and self.tier is None:
            raise ValueError(
                f"rate: missing; a {self.kind} is slow, it does not fail; write the share of its rate that is left"
            )
        if self.rate is None and self.fallback is None:
            raise ValueError("fallback: missing; a tier that fails needs a tier with copies, or rate: a share that is left")
        if self.rate is not None and self.fallback is not None:
            raise ValueError("fallback: what is slow is used all the same; leave it out")
        if self.until is not None and self.until <= self.at:
            message = f"{format_seconds(self.until)} is not after {format_seconds(self.at)}, when it fails"
            raise ValueError(f"until: {message}")
        return self
