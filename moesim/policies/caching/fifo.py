"""FIFO caching: as LRU, but the expert that came in first leaves, however often it was used since.

Knows the past of the run only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.policies.kit.cached import CachePolicy, Eviction

__all__ = ["FIFO"]


class FIFO(CachePolicy):
    """A cache per layer; a miss is uploaded and kept, the expert that came in first makes room.

    Source: yardstick of caching studies; Huang et al. 2023 (arXiv:2303.06182) compare their LIFO with it. Inferred: an expert
    that the running layer uses never leaves.
    """

    kind: Literal["fifo"] = "fifo"

    source: ClassVar[str] = "yardstick of Huang et al. (arXiv:2303.06182)"

    def rule(self) -> Eviction:
        """First in, first out."""
        return "fifo"
