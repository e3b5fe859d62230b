"""How a serving program copies weights and caches to the GPU: straight from pinned memory, or through a staging buffer.

Knows rates and shares of links; nothing of what is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from moesim.hardware import Path
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
    storage: PositiveShare = 1.0
    """Share of that rate which copies from storage reach: below 1 where a program reads files in a few threads of its own."""
    staged: bool = False
    """Whether a copy first crosses the host's memory into a pinned buffer: it then reads its source, writes and reads the
    buffer, all of which contend for that memory."""

    adjacent: bool = False
    """Whether experts with neighbouring numbers that a layer uploads cross in one copy, so that only the first of a run pays
    the set-up of the link. Where a pipeline streams whole layers, each expert pays."""

    def over(self, path: Path, buffer: str, resources: Mapping[str, float], *, stored: bool = False) -> Path:
        """`path`, which leads to GPU memory, as this program copies; a staging buffer lies in tier `buffer`, and what comes
        from storage (`stored`) is slowed down there.

        `resources`: B/s of everything on the machine that copies share.
        """
        usage = dict(path.usage)
        if self.staged:
            for name in (f"{buffer}:write", f"{buffer}:read", f"{buffer}:total", f"{buffer}:total"):
                if name in resources:
                    usage[name] = usage.get(name, 0.0) + 1.0
        shared = min(resources[name] / used for name, used in usage.items())
        share = self.share * (self.storage if stored else 1.0)
        return path._replace(rate=min(path.rate * share, self.rate or math.inf, shared), usage=tuple(usage.items()))
