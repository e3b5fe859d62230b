"""The slot of a scheduler: its parameters (`Batching`), and the session that composes one step after another.

Knows sequences and blocks; no clock. Plug-ins subclass both (group `schedulers`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Sized
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.offload import BlockTiers, Key, OffloadTier
from moesim.scheduling.sequence import POOL, Batch, BlockMove, Sequence
from moesim.scheduling.steady import Joiner, Steady
from moesim.scheduling.swap import SwapBook
from moesim.spec import Spec
from moesim.units import Size

__all__ = ["Batching", "Chosen", "Room", "Session", "urgency"]

Chosen = list[tuple[Sequence, int]]
"""(sequence, new tokens) of a step, in order."""


class Room(NamedTuple):
    """What the machine leaves for sequences."""

    tokens: int
    """Tokens whose keys and values fit beside everything else."""
    longest: int
    """Tokens of the longest sequence of the job, prompt and output."""
    token_bytes: float = 1.0
    """Bytes of the keys and values of a token."""


class Batching(Spec):
    """Parameters of a scheduler. `session` starts it on a machine."""

    source: ClassVar[str] = ""
    """Program and version whose rules these are."""
    beside: ClassVar[int] = 0
    """Tokens of the KV cache that have to be free beside its own for a sequence to be let in."""
    depth: ClassVar[int] = 1
    """Steps that may be scheduled before the results of the first are known: 2 where scheduling overlaps with computing."""

    @property
    def steps_ahead(self) -> int:
        """As `depth`, where a parameter decides."""
        return self.depth

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest step."""
        raise NotImplementedError

    @property
    def most_sequences(self) -> int:
        """Sequences that run at a time at most."""
        raise NotImplementedError

    @property
    def block(self) -> int:
        """Tokens of a block of the KV cache: a sequence takes whole ones."""
        return 1

    max_waiting: int | None = Field(default=None, ge=0)
    """Requests that may wait; one that arrives when so many do is refused. None: all are taken in."""
    kv_cache_memory: Size | None = None
    """Bytes set aside for keys and values, as vLLM's `--kv-cache-memory-bytes`. None: whole blocks for the longest requests of
    the policy's batch, and where every expert is resident all that is left of GPU memory. Less leaves room for experts."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest sequence, prompt and output; a longer request is refused, as vLLM does. None: as long as the cache holds."""

    @property
    def aside(self) -> Mapping[str, float]:
        """Tier of the host -> bytes of it that the scheduler takes for KV blocks."""
        return {}

    def session(self, room: Room) -> Session:
        """A fresh session with `room` for keys and values."""
        raise NotImplementedError


class Session:
    """A scheduler at work: `refuses` and `add` when a request arrives, `schedule` for the next step, `finish` after it."""

    def __init__(self, pool: BlockPool, rules: Batching, *, by_priority: bool = False) -> None:
        self.pool = pool
        self.limits = rules
        self.by_priority = by_priority
        self.waiting: deque[Sequence] = deque()
        """In the order in which they are admitted."""
        self.running: list[Sequence] = []
        """In the order in which they were admitted."""
        self._entered: list[Sequence] = []
        self._preempted: list[Sequence] = []
        self.swap: SwapBook | None = None
        """Where preempted sequences leave their blocks; None where they are computed again."""
        self.tiers: BlockTiers | None = None
        """The prefix cache below the pool; None without one."""
        self.loading: list[Sequence] = []
        """Who waits for blocks from there; they hold all that they need to run."""
        self._fetched: list[Sequence] = []
        """These, and those whose blocks have come and who wait for a place, in the order in which they asked for them."""
        self._moves: list[BlockMove] = []
        self._filled: list[Key] = []
        """Blocks that the step composed last fills."""

    def keep_below(self, offload: Sized[OffloadTier], room: Room) -> None:
        """Lets tiers of the host keep what the pool forgets."""
        if offload:
            block = room.token_bytes * self.pool.size
            self.tiers = BlockTiers([(level.tier, int(level.room // block)) for level in offload], self.pool.size)
            self.pool.fresh = []

    @property
    def queued(self) -> int:
        """Requests that wait, for a place or for blocks of another tier."""
        return len(self.waiting) + len(self.loading)

    def add(self, sequence: Sequence) -> None:
        """A request joins the queue: one that has arrived, or lost its blocks and is no longer the first to be admitted."""
        self.waiting.append(sequence)
        if self.by_priority:
            self.waiting = deque(sorted(self.waiting, key=urgency))

    def resume(self, sequence: Sequence) -> bool:
        """A sequence that runs already, all its tokens but the last being in the cache; False, and it waits, without blocks."""
        if not self.pool.extend(sequence, sequence.prompt - 1):
            self.add(sequence)
            return False
        sequence.computed = sequence.from_prefix = sequence.prompt - 1
        self.running.append(sequence)
        return True

    def refuses(self, sequence: Sequence) -> str | None:
        """Why `sequence`, which has just arrived, is not taken in; None if it is."""
        limits, tokens = self.limits, sequence.prompt + sequence.output
        if limits.max_waiting is not None and self.queued >= limits.max_waiting:
            return f"{limits.max_waiting} requests wait already"
        if limits.max_model_len is not None and tokens > limits.max_model_len:
            return f"its {tokens:,} tokens exceed max_model_len {limits.max_model_len:,}"
        needed = self.pool.needed(tokens)
        if needed <= self.pool.total:
            return None
        return f"it needs {needed:,} KV blocks of {self.pool.size} tokens, and there are {self.pool.total:,}"

    def schedule(self) -> Batch | None:
        """The next step; None while nothing can run."""
        raise NotImplementedError

    def _admit(self, sequence: Sequence, hits: list[int]) -> None:
        """One of those that wait runs; `hits` are its blocks in the prefix cache, unless it has blocks already."""
        if not sequence.blocks:
            self._found(hits)
            self.pool.admit(sequence, hits)
        if self.swap is not None and (tokens := self.swap.tokens(sequence)):
            sequence.computed = max(sequence.computed, tokens)
            self._move(self.swap.give_back(sequence, len(hits)), out=False)
        sequence.from_prefix = sequence.computed
        if not sequence.preemptions:
            sequence.hits = sequence.computed
        self.waiting.remove(sequence)
        if sequence in self._fetched:
            self._fetched.remove(sequence)
        self.running.append(sequence)
        self._entered.append(sequence)

    def _found(self, hits: list[int]) -> None:
        if self.tiers is not None:
            self.tiers.hits[0] += len(hits) * self.pool.size

    def _load(self, sequence: Sequence, hits: list[int], places: list[int]) -> None:
        """The first of those that wait waits for blocks of other tiers instead, behind its `hits`, with all that it needs."""
        assert self.tiers is not None
        self._found(hits)
        self.pool.admit(sequence, hits)
        self.pool.hold(sequence, sequence.tokens)
        self._moves += self.tiers.fetch(sequence, len(hits), places)
        sequence.computed += len(places) * self.pool.size
        self.waiting.popleft()
        self.loading.append(sequence)
        self._fetched.append(sequence)

    def landed(self, requests: Sized[int]) -> None:
        """The blocks of these requests have come: they go ahead of those that wait and hold none."""
        for sequence in [sequence for sequence in self.loading if sequence.number in requests]:
            self.loading.remove(sequence)
            full = sequence.computed // self.pool.size
            if self.tiers is not None:
                for block in range(sequence.indexed, full):
                    self.tiers.raise_up(sequence.key(block, self.pool.size))
            self.pool.remember(sequence, full)
            self._go_ahead(sequence)

    def _go_ahead(self, sequence: Sequence) -> None:
        """`sequence` joins the queue before those that wait; only those that hold blocks, and asked for them before, are first.

        Behind others they would keep their blocks from these, which would wait for them forever.
        Source: vLLM 0.19.0, v1/core/sched/scheduler.py (`skipped_waiting` goes before `waiting`, unless by priority).
        """
        first = self._fetched[: self._fetched.index(sequence)] if sequence in self._fetched else self._fetched
        self.waiting.insert(sum(holder in self.waiting for holder in first), sequence)
        if self.by_priority:
            self.waiting = deque(sorted(self.waiting, key=urgency))

    def pause(self) -> Batch:
        """A step of nobody: blocks move, and nothing can run before some have come."""
        moves, self._moves = tuple(self._moves), []
        none = np.zeros(0, dtype=np.int64)
        return Batch([], none, none, none.astype(np.bool_), [], none, moves=moves)

    def _there(self, sequence: Sequence, hits: list[int]) -> int:
        """Tokens of a sequence that waits which need not be computed when it is admitted with `hits`."""
        if sequence.blocks:
            return sequence.computed
        cached = len(hits) * self.pool.size
        return cached if self.swap is None else max(cached, self.swap.tokens(sequence))

    def _preempt(self, victim: Sequence) -> None:
        """A running sequence loses its blocks; where it waits is for the caller to say."""
        self.running.remove(victim)
        ends = victim.sampled + victim.pending >= victim.output  # its last token is under way
        if self.swap is not None and victim.computed and not ends:
            blocks = self.pool.needed(victim.computed)
            self._move(blocks if self.swap.take(victim, blocks) else 0, out=True)
        self.pool.release(victim)
        victim.computed = 0
        victim.preemptions += 1
        self._preempted.append(victim)

    def _move(self, blocks: int, *, out: bool) -> None:
        """Blocks cross to the swap space, or back, before the next step."""
        if blocks and self.swap is not None:
            tier = self.swap.tier
            self._moves.append(BlockMove(blocks, *((POOL, tier) if out else (tier, POOL))))

    def _batch(self, chosen: Chosen) -> Batch:
        """The step of `chosen`; its tokens count as computed, and outputs that it will yield as pending, from here on."""
        new, attended, samples, yields, cached = [], [], [], [], []
        for sequence, count in chosen:
            sequence.computed += count
            complete = sequence.computed >= sequence.tokens + sequence.pending
            if complete:
                sequence.pending += 1
                yields.append(sequence)
            new.append(count)
            attended.append(sequence.computed)
            samples.append(complete)
            cached.append(sequence.from_prefix)
            sequence.from_prefix = 0
        if self.tiers is not None:
            self._moves += self.tiers.store(self._filled)
            self._filled, self.pool.fresh = self.pool.fresh or [], []
        entered, preempted, moves = tuple(self._entered), tuple(self._preempted), tuple(self._moves)
        self._entered, self._preempted, self._moves = [], [], []
        return Batch(
            [sequence for sequence, _ in chosen],
            np.array(new, dtype=np.int64),
            np.array(attended, dtype=np.int64),
            np.array(samples, dtype=np.bool_),
            yields,
            np.array(cached, dtype=np.int64),
            entered,
            preempted,
            moves,
        )

    def steady(self, most: int, ahead: int) -> Steady | None:
        """Up to `most` steps that `schedule` is sure to compose next if no request arrives, once for each of `ahead` composed
        ones that ends; None where it may do otherwise, or its rules do not say."""
        return None

    def joins(self, joiners: Sized[Joiner], steady: Steady) -> int:
        """How many of the `joiners`, from the first on, are sure to be admitted with their whole prompts when the steps of
        `steady` that they say are composed, and take nothing from those that run; 0 where its rules do not say."""
        return 0

    def finish(self, batch: Batch) -> list[Sequence]:
        """What `batch` yielded has come out: the sequences that end with it, which give their blocks back."""
        return self.come_out(batch.yields)

    def come_out(self, yields: list[Sequence]) -> list[Sequence]:
        """As `finish`, by the sequences that yield."""
        ended: list[Sequence] = []
        for sequence in yields:
            sequence.sampled += 1
            sequence.pending -= 1
            if sequence.sampled >= sequence.output:
                ended.append(sequence)
        for sequence in ended:
            self.pool.release(sequence)
            if self.swap is not None:
                self.swap.drop(sequence)
            # one that was preempted while its last token was under way ends in the queue
            (self.running if sequence in self.running else self.waiting).remove(sequence)
        return ended


def urgency(sequence: Sequence) -> tuple[int, int]:
    """Lowest first: priority, then arrival."""
    return sequence.priority, sequence.number
