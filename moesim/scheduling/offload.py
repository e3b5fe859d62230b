"""The prefix cache below the pool: tiers of the host that keep KV blocks which the pool has forgotten.

Knows keys of blocks; nothing of links and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Sized

from moesim.scheduling.sequence import POOL, BlockMove, Sequence
from moesim.spec import Spec
from moesim.units import Size

__all__ = ["BlockTiers", "Key", "OffloadTier", "contradiction"]

Key = tuple[int, int]
"""What identifies the tokens of a block, and all before them, as `Sequence.key` gives it."""


class OffloadTier(Spec):
    """A tier that keeps KV blocks for the prefix cache; the room counts against the tier."""

    tier: str
    """Tier of the host."""
    room: Size
    """Bytes of it set aside."""


def contradiction(offload: Sized[OffloadTier], prefix_caching: bool) -> str | None:
    """What is wrong with tiers below a pool that shares prefixes or not."""
    if offload and not prefix_caching:
        return "offload: without prefix_caching no block is looked for"
    tiers = [level.tier for level in offload]
    return f"offload: a tier stands there twice ({', '.join(tiers)})" if len(set(tiers)) < len(tiers) else None


class BlockTiers:
    """Which blocks lie in which tier, the first tier first; in each the one that was used longest ago is the first to go.

    A block is copied to the first tier when a step has filled it, without anything waiting for that. What finds no place there
    goes to the next tier, and from the last it is lost. A block that is found in a later tier comes to lie in the first again.
    Source: vLLM 0.19.0, v1/kv_offload (blocks are stored when they are full, and lie in an LRU), for one tier; SGLang 0.5.9,
    mem_cache/hiradix_cache.py, for tiers behind the first. Valid: a block of the pool is not taken again before its copy has
    left, which takes less than a step where links are not crowded.
    """

    def __init__(self, rooms: Sized[tuple[str, int]], size: int) -> None:
        """`rooms`: tiers and how many blocks of `size` tokens each has room for."""
        self.tiers = [tier for tier, _ in rooms]
        self.totals = [total for _, total in rooms]
        self.size = size
        self._keys: list[OrderedDict[Key, None]] = [OrderedDict() for _ in rooms]
        self.hits = [0] * (len(rooms) + 1)
        """Tokens that requests found in the pool, and in each tier, so far."""

    @property
    def used(self) -> list[int]:
        """Blocks in each tier."""
        return [len(keys) for keys in self._keys]

    def find(self, sequence: Sequence, first: int) -> list[int]:
        """Place of the tier of each block of `sequence` from number `first` on, up to the first that none has.

        At least the last token of the sequence is left to compute.
        """
        places = []
        for block in range(first, (sequence.tokens - 1) // self.size):
            place = self._place(sequence.key(block, self.size))
            if place is None:
                break
            places.append(place)
        return places

    def fetch(self, sequence: Sequence, first: int, places: list[int]) -> list[BlockMove]:
        """Blocks of `sequence` from number `first` on, which lie in `places`, are copied to the pool for it."""
        for block, place in reversed([*enumerate(places, first)]):  # the head of a prefix is the last to go
            self._keys[place].move_to_end(sequence.key(block, self.size))
            self.hits[place + 1] += self.size
        counts = [places.count(place) for place in range(len(self.tiers))]
        ways = zip(counts, self.tiers, strict=True)
        return [BlockMove(count, tier, POOL, sequence.number, awaited=False) for count, tier in ways if count]

    def raise_up(self, key: Key) -> None:
        """A block has come to the pool: a later tier gives it up, so that it is stored in the first one anew."""
        for keys in self._keys[1:]:
            keys.pop(key, None)

    def store(self, keys: list[Key]) -> list[BlockMove]:
        """Blocks that steps have filled, or that came from a later tier, lie in the first tier from now on."""
        source, moves = POOL, []
        keys = keys[::-1]
        for tier, total, lru in zip(self.tiers, self.totals, self._keys, strict=True):
            new = [key for key in keys if self._place(key) is None]
            lru.update(dict.fromkeys(new))
            keys = [lru.popitem(last=False)[0] for _ in range(len(lru) - total)]
            if new:
                moves.append(BlockMove(len(new), source, tier, awaited=False))
            source = tier
        return moves

    def _place(self, key: Key) -> int | None:
        return next((place for place, keys in enumerate(self._keys) if key in keys), None)
