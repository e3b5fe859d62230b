"""Slots, as the server of llama.cpp has them: a request takes a free slot and keeps it to its end.

Knows tokens only.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moesim.scheduling.base import Batching, Chosen, Room, Session
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.sequence import Batch, Sequence

__all__ = ["Slots", "SlotsSession"]


_CELLS = 16
"""Cells that the pool counts together where slots share them."""


class Slots(Batching):
    """One token of every slot that generates, then prompt tokens of the others up to `n_batch`, in passes of `n_ubatch` tokens.

    What a batch yields comes out when its last pass has ended; nothing is ever preempted.
    Source: llama.cpp, tools/server/README-dev.md, tools/llama-bench/README.md (2026). Valid: no prompt cache, first come first
    served.
    """

    kind: Literal["slots"] = "slots"
    slots: int = Field(default=4, ge=1)
    """Slots (`-np`)."""
    n_batch: int = Field(default=2048, ge=1)
    """Most tokens between two results (`-b`)."""
    n_ubatch: int = Field(default=512, ge=1)
    """Most tokens that pass the layers together (`-ub`)."""
    n_ctx: int | None = Field(default=None, ge=1)
    """Tokens of all slots together (`-c`), of which each has an equal share. If not given, slots share what memory leaves, and
    a request waits until its whole length fits (`-kvu`)."""

    source: ClassVar[str] = "llama.cpp"

    @model_validator(mode="after")
    def _batch_holds_slots(self) -> Self:
        if self.slots > self.n_batch:
            raise ValueError(f"slots {self.slots} exceeds n_batch {self.n_batch}: each slot needs one token of a batch")
        return self

    @property
    def block(self) -> int:
        return _CELLS

    @property
    def most_tokens(self) -> int:
        return self.n_ubatch

    @property
    def most_sequences(self) -> int:
        return self.slots

    def session(self, room: Room) -> SlotsSession:
        if self.n_ctx is None:
            return SlotsSession(self, BlockPool(room.tokens // _CELLS, _CELLS, prefix_cache=False))
        return SlotsSession(self, BlockPool(self.slots, max(self.n_ctx // self.slots, 1), prefix_cache=False))


class SlotsSession(Session):
    """The slots, and a pool for their cells: with `n_ctx` one block for each slot, as long as its share of the context."""

    def __init__(self, rules: Slots, pool: BlockPool) -> None:
        super().__init__(pool, rules)
        self.rules = rules
        self._passes: deque[Chosen] = deque()
        """What is left of the batch under way."""
        self._yields: list[Sequence] = []
        self._slot: dict[int, int] = {}

    def refuses(self, sequence: Sequence) -> str | None:
        needed = sequence.prompt + sequence.output
        if self.rules.n_ctx is not None and needed > self.pool.size:
            return f"it needs {needed:,} tokens of context, and a slot has {self.pool.size:,}"
        return super().refuses(sequence)

    def schedule(self) -> Batch | None:
        if not self._passes:
            self._passes.extend(self._cut(self._compose()))
        if not self._passes:
            return None
        batch = self._batch(self._passes.popleft())
        self._yields += batch.yields
        batch.yields[:] = []
        if not self._passes:
            batch.yields[:], self._yields = self._yields, []
        return batch

    def finish(self, batch: Batch) -> list[Sequence]:
        ended = super().finish(batch)
        for sequence in ended:
            del self._slot[sequence.number]
        return ended

    def _compose(self) -> Chosen:
        free = deque(slot for slot in range(self.rules.slots) if slot not in self._slot.values())
        while self.waiting and free:
            sequence = self.waiting[0]
            if self.pool.needed(sequence.prompt + sequence.output) > self.pool.free:
                break
            self._admit(sequence, [])
            self.pool.extend(sequence, sequence.prompt + sequence.output)
            self._slot[sequence.number] = free.popleft()
        chosen = [(sequence, 1) for sequence in self.running if sequence.computed >= sequence.prompt]
        left = self.rules.n_batch - len(chosen)
        reading = [sequence for sequence in self.running if sequence.computed < sequence.prompt]
        for sequence in sorted(reading, key=lambda sequence: self._slot[sequence.number]):
            new = min(sequence.prompt - sequence.computed, left)
            if new:
                chosen.append((sequence, new))
                left -= new
        return chosen

    def _cut(self, chosen: Chosen) -> list[Chosen]:
        """The batch in passes of at most `n_ubatch` tokens; a prompt may go on in the next."""
        passes: list[Chosen] = []
        left = 0
        for sequence, count in chosen:
            while count:
                if not left:
                    passes.append([])
                    left = self.rules.n_ubatch
                new = min(count, left)
                passes[-1].append((sequence, new))
                count, left = count - new, left - new
        return passes
