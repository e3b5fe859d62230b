"""Prefill first, as SGLang 0.5.9 does it: while requests can join, prompts run and no decode does.

Knows tokens and blocks only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moesim.scheduling.base import Batching, Chosen, Room, Session
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.offload import OffloadTier, contradiction
from moesim.scheduling.sequence import Batch, Sequence

__all__ = ["PrefillFirst", "PrefillFirstSession"]

_LONGEST_GUESS = 4096
"""Most output tokens that admission reckons with (CLIP_MAX_NEW_TOKENS)."""
_RATIO, _SMALLEST, _DECAY_STEPS = 0.7, 0.14, 600
"""Share of its output that a running request is expected to need at first; the least share of that, and steps until then."""
_RETRACT_STEPS = 20
"""Decode steps that must fit after a retraction."""


class PrefillFirst(Batching):
    """A step is a batch of prompts if any can join, else one token of every running sequence.

    A request joins if its prompt and its whole output fit beside what the running ones are expected to need still. That
    expectation starts at a share of their outputs and falls with every decode step; when memory runs out after all, the
    sequences with the fewest output tokens are retracted, to be computed again. One prompt at a time is cut into chunks.
    Source: SGLang 0.5.9, srt/managers/scheduler.py, schedule_policy.py, schedule_batch.py. Valid: first come first served; a
    sequence that ends leaves a hole in the step that is under way, where SGLang computes one more token of it.
    """

    kind: Literal["prefill_first"] = "prefill_first"
    max_prefill_tokens: int = Field(default=16384, ge=1)
    """Most new tokens of a prefill step; its first request may exceed it."""
    chunked_prefill_size: int = Field(default=8192, ge=1)
    """Tokens of a prefill step beyond which a prompt is cut."""
    max_running_requests: int = Field(default=2048, ge=1)
    """Most sequences that run at a time."""
    conservativeness: float = Field(default=1.0, gt=0)
    """Factor on the share of their outputs that running sequences are expected to need."""
    mixed_chunk: bool = False
    """Whether running sequences decode in prefill steps, too."""
    overlap: bool = True
    """Whether a step is scheduled before the results of the one before are known."""
    page_size: int = Field(default=16, ge=1)
    """Tokens of a KV page; SGLang's default is 1, many attention kernels force 16 to 128."""
    prefix_caching: bool = True
    """Whether pages with equal first tokens are shared."""
    offload: tuple[OffloadTier, ...] = ()
    """Tiers of the host that keep pages for the prefix cache when the pool has forgotten them, the first one first, as the
    hierarchical cache does; all that a request finds there is copied before it joins."""

    beside: ClassVar[int] = 1
    source: ClassVar[str] = "SGLang 0.5.9"

    @property
    def steps_ahead(self) -> int:
        return 2 if self.overlap else 1

    @property
    def block(self) -> int:
        return self.page_size

    @property
    def most_tokens(self) -> int:
        return max(self.chunked_prefill_size, self.max_running_requests)

    @property
    def most_sequences(self) -> int:
        return self.max_running_requests

    @model_validator(mode="after")
    def _offloads_what_it_finds(self) -> Self:
        if text := contradiction(self.offload, self.prefix_caching):
            raise ValueError(text)
        return self

    @property
    def aside(self) -> Mapping[str, float]:
        return {level.tier: level.room for level in self.offload}

    def session(self, room: Room) -> PrefillFirstSession:
        pool = BlockPool(room.tokens // self.page_size, self.page_size, prefix_cache=self.prefix_caching)
        session = PrefillFirstSession(self, pool)
        session.keep_below(self.offload, room)
        return session


class PrefillFirstSession(Session):
    """The queue, the running list and the expectation of `PrefillFirst`."""

    def __init__(self, rules: PrefillFirst, pool: BlockPool) -> None:
        super().__init__(pool, rules)
        self.rules = rules
        self.chunked: Sequence | None = None
        """The running sequence whose prompt is cut and not complete."""
        self._first = min(_RATIO * rules.conservativeness, 1.0)
        self.ratio = self._first
        """Share of their remaining outputs that running sequences are expected to need."""

    def refuses(self, sequence: Sequence) -> str | None:
        room = self.pool.total * self.pool.size
        needed = sequence.prompt + min(sequence.output, _LONGEST_GUESS)
        if needed >= room:
            return f"it is admitted only where more than {needed:,} tokens fit, and there is room for {room:,}"
        return super().refuses(sequence)

    def schedule(self) -> Batch | None:
        chosen = self._prefill()
        if chosen and not self.rules.mixed_chunk:
            return self._batch(chosen)
        prompts = {id(sequence) for sequence, _ in chosen}
        decoding = [sequence for sequence in self.running if id(sequence) not in prompts and self._decodes(sequence)]
        self._make_room(decoding)
        chosen += [(sequence, 1) for sequence in decoding if self.pool.extend(sequence, sequence.computed + 1)]
        return self._batch(chosen) if chosen else None

    def _decodes(self, sequence: Sequence) -> bool:
        """Whether its prompt is computed and its last token is not under way."""
        complete = sequence.computed >= sequence.tokens + sequence.pending - 1
        return complete and sequence is not self.chunked and sequence.sampled + sequence.pending < sequence.output

    def _reserved(self) -> float:
        """Tokens that running sequences are expected to need still."""
        left = sum(min(sequence.output - sequence.sampled - sequence.pending, _LONGEST_GUESS) for sequence in self.running)
        return left * self.ratio

    def _prefill(self) -> Chosen:
        rules, pool = self.rules, self.pool
        chosen: Chosen = []
        tokens, chunk = rules.max_prefill_tokens, rules.chunked_prefill_size
        if rules.mixed_chunk:
            decoding = sum(self._decodes(sequence) for sequence in self.running)
            tokens, chunk = tokens - decoding, chunk - decoding
        room = pool.free * pool.size - self._reserved()
        if self.chunked is not None:
            sequence = self.chunked
            new = min(sequence.tokens - sequence.computed, max(chunk, 1))
            if not pool.extend(sequence, sequence.computed + new):
                return chosen
            self.chunked = None if sequence.computed + new == sequence.tokens else sequence
            chosen.append((sequence, new))
            tokens, chunk, room = tokens - new, chunk - new, room - new
        while self.waiting and self.chunked is None and len(self.running) < rules.max_running_requests and chunk > 0:
            sequence = self.waiting[0]
            hits = [] if sequence.blocks else pool.match(sequence)
            missing = sequence.tokens - self._there(sequence, hits)
            needed = (0 if sequence.blocks else missing) + min(sequence.output - sequence.sampled, _LONGEST_GUESS)
            if not self._joins(sequence, hits, needed < room) or (chosen and missing > tokens):
                break
            if self.tiers is not None and not sequence.blocks and (places := self.tiers.find(sequence, len(hits))):
                self._load(sequence, hits, places)
                room -= needed
                continue
            new = min(missing, chunk)
            self._admit(sequence, hits)
            pool.extend(sequence, sequence.computed + new)
            chosen.append((sequence, new))
            self.chunked = sequence if new < missing else None
            tokens, chunk, room = tokens - new, chunk - new, room - needed
        return chosen

    def _joins(self, sequence: Sequence, hits: list[int], has_room: bool) -> bool:
        """Whether the first of those that wait finds pages: it has them already, where they came from another tier."""
        if sequence.blocks:
            return has_room or not self.running
        return has_room and self.pool.fits(sequence.tokens, hits)

    def _make_room(self, decoding: list[Sequence]) -> None:
        """Retracts of `decoding` until a token of each of the others fits; the expectation follows."""
        size, pool = self.pool.size, self.pool
        missing = sum(pool.needed(sequence.computed + 1) - len(sequence.blocks) for sequence in decoding)
        if missing <= pool.free:
            if decoding:
                step = self._first * (1.0 - _SMALLEST) / _DECAY_STEPS
                self.ratio = max(self.ratio - step, self._first * _SMALLEST)
            return
        retracts = False
        decoding.sort(key=lambda sequence: (-sequence.sampled, sequence.prompt))
        while len(decoding) > 1 and (not retracts or pool.free * size < len(decoding) * _RETRACT_STEPS):
            victim = decoding.pop()
            self._preempt(victim)
            self.waiting.append(victim)
            retracts = True
        decoded = sum(sequence.sampled for sequence in decoding)
        outputs = sum(sequence.output for sequence in decoding)
        self.ratio = min((decoded + _RETRACT_STEPS * len(decoding)) / (outputs + 1), 1.0)
        decoding.sort(key=self.running.index)
