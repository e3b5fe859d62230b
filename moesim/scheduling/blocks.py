"""Owns the KV blocks: which are free, which are held, and whose tokens a block still remembers (the prefix cache).

Knows counts and keys; nothing of bytes.
"""

from __future__ import annotations

from collections import OrderedDict

from moesim.scheduling.sequence import Sequence

__all__ = ["BlockPool"]

_NOBODY: tuple[int, int] = (-1, -1)
"""Key of a block that the prefix cache does not know; no tokens have it."""


class BlockPool:
    """`total` blocks of `size` tokens. Freed blocks keep their tokens until they are taken again, longest free first.

    A sequence that ends or is preempted gives its blocks back tail first, so the tail of a prefix is lost before its head.
    Source: vLLM 0.19.0, v1/core/block_pool.py and kv_cache_manager.py; there block 0 is a placeholder, which `total` leaves
    out. Where two blocks hold equal tokens, only the first is known to the cache.
    """

    def __init__(self, total: int, size: int = 16, *, prefix_cache: bool = True) -> None:
        self.total = total
        """Blocks in all."""
        self.size = size
        """Tokens of a block."""
        self.prefix_cache = prefix_cache
        self._freed: OrderedDict[int, None] = OrderedDict()
        """Blocks that were held and are free, longest free first; those that no sequence has held yet were free before them."""
        self._users: list[int] = []
        """By block that was ever held, from block 0 on: a machine may have millions, and a short run needs few."""
        self._key: list[tuple[int, int]] = []
        self._cached: dict[tuple[int, int], int] = {}
        self.fresh: list[tuple[int, int]] | None = None
        """Keys of blocks that the cache has come to know, for who empties it; None where nobody does."""

    @property
    def free(self) -> int:
        """Blocks that no sequence holds."""
        return self.total - len(self._users) + len(self._freed)

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return len(self._users) - len(self._freed)

    def needed(self, tokens: int) -> int:
        """Blocks for `tokens` tokens."""
        return -(-tokens // self.size)

    def match(self, sequence: Sequence) -> list[int]:
        """Cached blocks with the first tokens of `sequence`; at least its last token is left to compute."""
        hits: list[int] = []
        if not self.prefix_cache or not self._cached:
            return hits
        for block in range((sequence.tokens - 1) // self.size):
            place = self._cached.get(sequence.key(block, self.size))
            if place is None:
                break
            hits.append(place)
        return hits

    def fits(self, tokens: int, hits: list[int]) -> bool:
        """Whether the blocks of `tokens` tokens are free, `hits` of them being cached."""
        idle = sum(1 for block in hits if not self._users[block])
        return self.needed(tokens) - len(hits) + idle <= self.free

    def admit(self, sequence: Sequence, hits: list[int]) -> None:
        """Lets `sequence`, which holds nothing, hold its cached blocks; `computed` is what they cover."""
        for block in hits:
            if not self._users[block]:
                del self._freed[block]
            self._users[block] += 1
        sequence.blocks = list(hits)
        sequence.indexed = len(hits)
        sequence.computed = len(hits) * self.size

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks so that `sequence` can hold `tokens` tokens; False, and nothing changes, if too few are free."""
        if not self.hold(sequence, tokens):
            return False
        if self.prefix_cache:
            self.remember(sequence, min(tokens, sequence.tokens) // self.size)
        return True

    def hold(self, sequence: Sequence, tokens: int) -> bool:
        """As `extend`, but the prefix cache does not know the new blocks yet."""
        missing = -(-tokens // self.size) - len(sequence.blocks)
        if missing > 0:
            if missing > self.free:
                return False
            sequence.blocks += self._take(missing)
        return True

    def release(self, sequence: Sequence) -> None:
        """Takes all blocks of `sequence` back."""
        for block in reversed(sequence.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._freed[block] = None
        sequence.blocks = []
        sequence.indexed = 0

    def _take(self, number: int) -> list[int]:
        """The `number` blocks that have been free for longest; the cache forgets their tokens."""
        keys, cached, users = self._key, self._cached, self._users
        begun = len(users)
        taken = list(range(begun, min(begun + number, self.total)))
        users += [1] * len(taken)
        keys += [_NOBODY] * len(taken)
        for _ in range(number - len(taken)):
            block, _ = self._freed.popitem(last=False)
            key = keys[block]
            if key is not _NOBODY:
                if cached.get(key) == block:
                    del cached[key]
                keys[block] = _NOBODY
            users[block] = 1
            taken.append(block)
        return taken

    def remember(self, sequence: Sequence, full: int) -> None:
        """Lets the cache know the first `full` blocks of `sequence`."""
        for place in range(sequence.indexed, full):
            block, key = sequence.blocks[place], sequence.key(place, self.size)
            if self._cached.setdefault(key, block) == block:
                self._key[block] = key
                if self.fresh is not None:
                    self.fresh.append(key)
        sequence.indexed = max(sequence.indexed, full)
