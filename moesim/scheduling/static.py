"""Static batching: a round of requests runs to its end before the next one starts.

Knows tokens and blocks only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from moesim.scheduling.base import Batching, Chosen, Room, Session
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.sequence import Batch

__all__ = ["Static", "StaticSession"]


class Static(Batching):
    """A round takes the requests that wait, up to `batch` of them and as far as their whole KV caches fit.

    Prompts run first, whole, in steps of at most `max_num_batched_tokens` tokens (a longer prompt alone); then all decode
    together. Sequences that end leave the round and are not replaced. Source: FasterTransformer and Orca (OSDI 2022,
    section 2), which calls this request-level scheduling.
    """

    kind: Literal["static"] = "static"
    batch: int = Field(default=32, ge=1)
    """Most requests of a round."""
    max_num_batched_tokens: int = Field(default=16384, ge=1)
    """Tokens of prompts that pass the layers together."""
    block_size: int = Field(default=16, ge=1)
    """Tokens of a KV block."""

    source: ClassVar[str] = "Orca (OSDI 2022), section 2"

    @property
    def block(self) -> int:
        return self.block_size

    @property
    def most_tokens(self) -> int:
        return max(self.max_num_batched_tokens, self.batch)

    @property
    def most_sequences(self) -> int:
        return self.batch

    def session(self, room: Room) -> StaticSession:
        return StaticSession(self, BlockPool(room.tokens // self.block_size, self.block_size, prefix_cache=False))


class StaticSession(Session):
    """The round under way."""

    def __init__(self, rules: Static, pool: BlockPool) -> None:
        super().__init__(pool, rules)
        self.rules = rules

    def schedule(self) -> Batch | None:
        if not self.running:
            while self.waiting and len(self.running) < self.rules.batch:
                sequence = self.waiting[0]
                if self.pool.needed(sequence.prompt + sequence.output) > self.pool.free:
                    break
                self._admit(sequence, [])
                self.pool.extend(sequence, sequence.prompt + sequence.output)
        chosen: Chosen = []
        budget = self.rules.max_num_batched_tokens
        for sequence in self.running:
            if sequence.computed:
                continue
            if chosen and sequence.prompt > budget:
                break
            chosen.append((sequence, sequence.prompt))
            budget -= sequence.prompt
        return self._batch(chosen or [(sequence, 1) for sequence in self.running]) if self.running else None
