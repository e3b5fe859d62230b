"""A link between two nodes: rates per direction, what both directions share, the fixed cost of a copy.

Knows nothing of what is at its ends.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Len

from moesim.spec import Spec
from moesim.units import Bandwidth, Duration, EnergyPerByte, Money, Size

__all__ = ["Link"]


class Link(Spec):
    """A full-duplex link; a copy takes `setup` + bytes / rate, and at least `floor`.

    Source: pinned copies over PCIe Gen4 x16 (jimmy01081122/platform): 27-29 us up to 64 KiB, then 14 us + bytes / 27.5 GB/s
    within 5 %. Valid: pinned memory, 4 KiB and more.
    """

    kind: Literal["link"] = "link"
    name: str = ""
    """How a bill calls the part; the file name of its profile if not given."""
    ends: Annotated[tuple[str, ...], Len(2, 2)]
    """The two nodes; `forward` is from the first to the second."""
    rate: Bandwidth
    """B/s forward."""
    reverse: Bandwidth | None = None
    """B/s backward; as forward if not given."""
    both: Bandwidth | None = None
    """B/s of the two directions in sum when both are busy; without it they do not disturb each other."""
    setup: Duration = 0.0
    """Fixed seconds of a copy."""
    floor: Duration = 0.0
    """The least seconds of a copy, however small: issuing it takes as long."""
    serial: bool = False
    """A copy engine: one copy at a time in each direction, queued first come, first served."""
    chunk: Size | None = None
    """Bytes after which a running copy lets another one go ahead; never if not given."""
    energy: EnergyPerByte | None = None
    """J per byte carried; without it the machine's energy is not known."""
    price: Money = 0.0
    """USD of cards and cables."""

    @property
    def backward(self) -> float:
        """B/s from the second end to the first."""
        return self.rate if self.reverse is None else self.reverse

    def direction(self, source: str) -> str:
        """`forward` for traffic that leaves `source`, `reverse` for traffic towards it."""
        return "forward" if source == self.ends[0] else "reverse"

    def opposite(self, node: str) -> str:
        """The end that is not `node`."""
        return self.ends[1] if node == self.ends[0] else self.ends[0]
