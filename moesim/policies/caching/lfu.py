"""LFU caching: as LRU, but the expert used in the fewest visits so far leaves.

Knows the past of the run only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.policies.kit.cached import CachePolicy, Eviction

__all__ = ["LFU"]


class LFU(CachePolicy):
    """A cache per layer; a miss is uploaded and kept, the least frequently used expert of the same layer makes room.

    Source: the counter cache of MoE-Infinity's and EdgeMoE's comparisons (arXiv:2401.14361, arXiv:2308.14352). Inferred: use is
    counted in visits, from the start of the run and without ageing; ties go to the least recently used.
    """

    kind: Literal["lfu"] = "lfu"

    source: ClassVar[str] = "baseline of MoE-Infinity (arXiv:2401.14361)"

    def rule(self) -> Eviction:
        """Least frequently used."""
        return "lfu"
