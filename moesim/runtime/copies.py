"""How a serving program copies weights and caches to the GPU: straight from pinned memory, or through a staging buffer.

Knows rates and shares of links; nothing of what is copied.
"""

from __future__ import annotations

from moesim.hardware.experts import PositiveShare
from moesim.spec import Spec
from moesim.units import Bandwidth

__all__ = ["Copies"]


class Copies(Spec):
    """Copies to GPU memory.

    Source: see the profiles. Valid: copies of megabytes; small ones pay the set-up of the link.
    """

    share: PositiveShare = 1.0
    """Share of the link's pinned rate that copies reach."""
    rate: Bandwidth | None = None
    """The most B/s of copies: what pageable memory or packing on the host yields; without it, whatever the link gives."""
    staged: bool = False
    """Whether a copy first crosses the host's memory into a pinned buffer: it then reads its source, writes and reads the
    buffer, all of which contend for that memory."""
