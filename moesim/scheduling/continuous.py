"""Continuous batching as vLLM 0.19 does it: one token of every running sequence or its next chunk, then new ones.

Knows tokens and blocks only.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Sized
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moesim.scheduling.base import Batching, Chosen, Room, Session, urgency
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.offload import OffloadTier, contradiction
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.steady import Joiner, Steady
from moesim.scheduling.swap import SwapBook, SwapSpace
from moesim.spec import Unread

__all__ = ["Continuous", "ContinuousSession"]


class Continuous(Batching):
    """Each request catches up with its prompt and its outputs; running ones first, in the order of their admission.

    Without a free block the last admitted sequence is preempted: it loses its blocks and goes to the front of the queue, to be
    computed again, or brought back from where `swap` keeps them. A step that preempts admits no request. With
    `asynchronous` the next step is scheduled while the present one runs, so an arrival waits for up to two steps, and a
    sequence that ends holds its place for one more.
    Source: vLLM 0.19.0, v1/core/sched/{scheduler,async_scheduler}.py, v1/engine/core.py; defaults of its API server on GPUs of
    70 GiB and more. Valid: no speculation, no structured output, requests that end at a length known beforehand.
    """

    unread: ClassVar[tuple[Unread, ...]] = (Unread(("long_prefill_token_threshold",), when={"chunked_prefill": False}),)

    kind: Literal["continuous"] = "continuous"
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    """Most tokens of a step."""
    max_num_seqs: int = Field(default=1024, ge=1)
    """Most sequences that run at a time."""
    chunked_prefill: bool = True
    """Whether prompts are cut to what is left of a step; else one waits until it fits whole, and a request whose tokens exceed
    a step is refused, for it could not be computed again."""
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    """Longest chunk of a prompt, 0 for no limit."""
    asynchronous: bool = True
    """Whether a step is scheduled before the results of the one before are known."""
    block_size: int = Field(default=16, ge=1)
    """Tokens of a KV block."""
    num_gpu_blocks_override: int | None = Field(default=None, ge=1)
    """KV blocks, instead of what memory leaves."""
    prefix_caching: bool = True
    """Whether blocks with equal first tokens are shared."""
    order: Literal["fcfs", "priority"] = "fcfs"
    """Who waits and who is preempted: by arrival, or by `priority` and then arrival."""
    swap: SwapSpace | None = None
    """Where a preempted sequence leaves its KV blocks until it is admitted again; None: it is computed again."""
    offload: tuple[OffloadTier, ...] = ()
    """Tiers of the host that keep KV blocks for the prefix cache when the pool has forgotten them, the first one first."""

    source: ClassVar[str] = "vLLM 0.19.0"

    @model_validator(mode="after")
    def _budget_holds_all(self) -> Self:
        if self.max_num_seqs > self.max_num_batched_tokens:
            text = f"max_num_seqs {self.max_num_seqs} exceeds max_num_batched_tokens {self.max_num_batched_tokens}"
            raise ValueError(f"{text}: each running sequence needs one token of a step")
        return self

    @property
    def steps_ahead(self) -> int:
        return 2 if self.asynchronous else 1

    @property
    def block(self) -> int:
        return self.block_size

    @property
    def most_tokens(self) -> int:
        return self.max_num_batched_tokens

    @property
    def most_sequences(self) -> int:
        return self.max_num_seqs

    @model_validator(mode="after")
    def _offloads_once(self) -> Self:
        if self.offload and self.swap is not None:
            raise ValueError("swap: with offload the blocks of a preempted sequence lie in a tier already; leave swap out")
        if text := contradiction(self.offload, self.prefix_caching):
            raise ValueError(text)
        return self

    @property
    def aside(self) -> Mapping[str, float]:
        swap = {} if self.swap is None else {self.swap.tier: self.swap.room}
        return swap | {level.tier: level.room for level in self.offload}

    def session(self, room: Room) -> ContinuousSession:
        blocks = self.num_gpu_blocks_override or room.tokens // self.block_size
        session = ContinuousSession(self, BlockPool(blocks, self.block_size, prefix_cache=self.prefix_caching))
        if self.swap is not None:
            session.swap = SwapBook(self.swap.tier, int(self.swap.room // (room.token_bytes * self.block_size)))
        session.keep_below(self.offload, room)
        return session


class ContinuousSession(Session):
    """The queue and the running list of `Continuous`."""

    def __init__(self, rules: Continuous, pool: BlockPool) -> None:
        super().__init__(pool, rules, by_priority=rules.order == "priority")
        self.rules = rules

    def refuses(self, sequence: Sequence) -> str | None:
        limit = self.rules.max_num_batched_tokens
        if not self.rules.chunked_prefill and sequence.prompt > limit:
            return f"its prompt of {sequence.prompt:,} tokens exceeds max_num_batched_tokens {limit:,} without chunked_prefill"
        again = sequence.prompt + sequence.output - 1
        if not self.rules.chunked_prefill and again > limit:
            return f"preempted, it may have to compute {again:,} tokens in a step, beyond max_num_batched_tokens {limit:,}"
        return super().refuses(sequence)

    def schedule(self) -> Batch | None:
        while True:
            chosen, budget, preempts = self._running()
            if not preempts:
                self._admit_waiting(chosen, budget)
            if chosen:
                return self._batch(chosen)
            if not preempts or self._under_way:
                return None
            # the step has preempted all that it began with, and leaves the others to the next one

    @property
    def _under_way(self) -> bool:
        """Whether a step that has not ended will yield a token."""
        return any(sequence.pending for queue in (self.running, self.waiting) for sequence in queue)

    def steady(self, most: int, ahead: int) -> Steady | None:
        going = [sequence for sequence in self.running if sequence.sampled + sequence.pending < sequence.output]
        if not going or self.tiers is not None or not all(map(_decodes, going)):
            return None
        computed, output, held = np.array(
            [(s.computed, s.output - s.sampled - s.pending, len(s.blocks)) for s in going], dtype=np.int64
        ).T
        steps = min(most, int(output.max()))
        if self.waiting:  # the first place that comes free is taken
            full = len(going) == len(self.running) == self.rules.max_num_seqs
            steps = min(steps, int(output.min()) + ahead - 1) if full else 0
        size, free = self.pool.size, self.pool.free
        while steps and int(np.maximum(-(-(computed + np.minimum(steps, output)) // size) - held, 0).sum()) > free:
            steps //= 2
        return Steady(going, computed, output, steps) if steps else None

    def joins(self, joiners: Sized[Joiner], steady: Steady) -> int:
        rules, pool = self.rules, self.pool
        blocks = np.array([len(sequence.blocks) for sequence in steady.sequences])
        last = steady.computed + np.minimum(steady.steps, steady.remaining)
        free = 0 if self.waiting else pool.free - int(np.maximum(-(-last // pool.size) - blocks, 0).sum())
        for number, (sequence, step, _, _) in enumerate(joiners):
            budget = rules.max_num_batched_tokens - len(steady.sequences) - number
            free -= pool.needed(sequence.prompt + min(steady.steps - step, sequence.output))
            if free < 0 or step >= steady.steps or len(self.running) + number >= rules.max_num_seqs:
                return number
            if sequence.shared or self._cut(sequence.prompt, budget) < sequence.prompt or self.refuses(sequence) is not None:
                return number
        return len(joiners)

    def _cut(self, tokens: int, budget: int) -> int:
        """How many of `tokens` a step takes that has `budget` left."""
        threshold = self.rules.long_prefill_token_threshold
        return min(min(tokens, threshold) if threshold else tokens, budget)

    def _running(self) -> tuple[Chosen, int, bool]:
        """Who of the running goes on, what is left of the budget, and whether a request was preempted."""
        chosen: Chosen = []
        budget, place, preempts = self.rules.max_num_batched_tokens, 0, False
        running, pool = self.running, self.pool
        while place < len(running) and budget > 0:
            sequence = running[place]
            place += 1
            if sequence.pending and sequence.sampled + sequence.pending >= sequence.output:
                continue  # its last token is under way
            new = self._cut(sequence.tokens + sequence.pending - sequence.computed, budget)
            tokens = sequence.computed + new
            # within a block there is nothing to take, nor anything that the prefix cache does not know
            while (new > 1 or tokens % pool.size <= 1) and not pool.extend(sequence, tokens):
                preempts, victim = True, self._victim()
                place -= running.index(victim) < place
                budget += self._withdraw(victim, chosen)
                self._preempt(victim)
                self._go_ahead(victim)
                if victim is sequence:
                    return chosen, budget, preempts
            chosen.append((sequence, new))
            budget -= new
        return chosen, budget, preempts

    def _victim(self) -> Sequence:
        return max(self.running, key=urgency) if self.by_priority else self.running[-1]

    @staticmethod
    def _withdraw(victim: Sequence, chosen: Chosen) -> int:
        """Takes `victim` out of the step; how many tokens that gives back."""
        for place, (sequence, new) in enumerate(chosen):
            if sequence is victim:
                del chosen[place]
                return new
        return 0

    def _admit_waiting(self, chosen: Chosen, budget: int) -> None:
        """Lets waiting sequences join while budget, places and blocks last."""
        rules, pool = self.rules, self.pool
        while self.waiting and budget > 0 and len(self.running) < rules.max_num_seqs:
            sequence = self._first()
            hits = [] if sequence.blocks else pool.match(sequence)
            if not sequence.blocks and not pool.fits(sequence.tokens, hits):
                break
            if self.tiers is not None and not sequence.blocks and (places := self.tiers.find(sequence, len(hits))):
                self._load(sequence, hits, places)
                continue
            missing = sequence.tokens - self._there(sequence, hits)
            if not rules.chunked_prefill and missing > budget:
                break
            new = self._cut(missing, budget)
            self._admit(sequence, hits)
            pool.extend(sequence, sequence.computed + new)
            chosen.append((sequence, new))
            budget -= new

    def _first(self) -> Sequence:
        """The first of those that wait; where nobody runs and it finds no blocks, the first that has them already.

        By priority it is ahead of who would free them. Source: none; vLLM 0.19.0 would compose no step ever again.
        """
        first, holders = self.waiting[0], (sequence for sequence in self.waiting if sequence.blocks)
        stuck = not self.running and not first.blocks and not self.pool.fits(first.tokens, self.pool.match(first))
        return next(holders, first) if stuck else first


def _decodes(sequence: Sequence) -> bool:
    """Whether the next token to compute is one that came out; the last of a prompt may be the only one that is left, too."""
    began = sequence.sampled + sequence.pending > 0
    return began and sequence.tokens + sequence.pending - sequence.computed == 1
