"""LRU caching: experts are uploaded on demand and stay until others of their layer push them out.

Knows the past of the run only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from moesim.policies.kit.cached import CachePolicy, Eviction

__all__ = ["LRU"]


class LRU(CachePolicy):
    """A cache per layer; a miss is uploaded and kept, the least recently used expert of the same layer makes room.

    Source: Eliseev and Mazur 2023, arXiv:2312.17238 (mixtral-offloading). Valid: what happens when a layer uses more experts
    than its cache holds is not in the paper; see `LayerLru` for the rule taken here.
    """

    kind: Literal["lru"] = "lru"

    source: ClassVar[str] = "mixtral-offloading (arXiv:2312.17238)"

    def rule(self) -> Eviction:
        """Least recently used."""
        return "lru"
