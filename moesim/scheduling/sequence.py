"""Owns a request while it is served (`Sequence`) and what passes the layers together (`Batch`).

Knows numbers of tokens; no clock and no machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import IntArray

__all__ = ["POOL", "Batch", "BlockMove", "Sequence"]

POOL = ""
"""What a `BlockMove` calls the pool of KV blocks, in GPU memory."""


class Sequence:
    """One request: how far its prompt and its output have come, and the KV blocks that it holds."""

    __slots__ = (
        "__weakref__",
        "blocks",
        "computed",
        "from_prefix",
        "hits",
        "indexed",
        "number",
        "output",
        "pending",
        "preemptions",
        "priority",
        "prompt",
        "sampled",
        "shared",
    )

    def __init__(
        self, number: int, prompt: int, output: int, *, priority: int = 0, shared: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.number = number
        """Number of the request, in order of arrival."""
        self.prompt = prompt
        """Prompt tokens."""
        self.output = output
        """Tokens to generate; the scheduler stops the request at this length."""
        self.priority = priority
        """Lower goes first, where the scheduler looks at it."""
        self.shared = shared
        """(tokens, number) of prompts that begin with the same tokens, as many of them; falling, the last is the oldest."""
        self.computed = 0
        """Tokens whose keys and values a scheduled step has computed, or will have."""
        self.sampled = 0
        """Output tokens that have come out."""
        self.pending = 0
        """Output tokens that steps under way will yield."""
        self.blocks: list[int] = []
        """KV blocks that it holds, first token first."""
        self.indexed = 0
        """Of these, those that the prefix cache knows."""
        self.preemptions = 0
        """How often it lost its blocks."""
        self.from_prefix = 0
        """Tokens that the prefix cache saved at its latest admission, until the next step tells of them."""
        self.hits = 0
        """Prompt tokens that the prefix cache saved at its first admission."""

    @property
    def tokens(self) -> int:
        """Tokens that are known: prompt and outputs so far."""
        return self.prompt + self.sampled

    @property
    def done(self) -> bool:
        """Whether its last token has come out."""
        return self.sampled >= self.output

    def key(self, block: int, size: int) -> tuple[int, int]:
        """What identifies the tokens up to the end of block number `block` of `size` tokens each."""
        end, owner = (block + 1) * size, self.number
        for tokens, number in self.shared:
            if end > tokens:
                break
            owner = number
        return owner, block


class BlockMove(NamedTuple):
    """KV blocks on their way between the pool and a tier of the host, or between two of these."""

    blocks: int
    source: str
    target: str
    request: int = -1
    """The request that waits for them while others run, if one does."""
    awaited: bool = True
    """Whether the next step begins when they have come; else they move beside it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What passes the layers together: S sequences, each with its next tokens."""

    sequences: list[Sequence]
    """[S] in the order in which they were scheduled."""
    new_tokens: IntArray
    """[S] tokens that each contributes: 1 while decoding, else a chunk of its prompt (or of what it has to compute again)."""
    attended: IntArray
    """[S] tokens that each attends to, the new ones included."""
    samples: NDArray[np.bool_]
    """[S] whether the step computes an output token of it: not while a prompt is incomplete."""
    yields: list[Sequence]
    """Sequences whose output token comes out when the step ends."""
    from_prefix: IntArray
    """[S] tokens of each, of those before its new ones, that the prefix cache has just given to it."""
    entered: tuple[Sequence, ...] = ()
    """Sequences that were admitted since the step before."""
    preempted: tuple[Sequence, ...] = ()
    """Sequences that lost their blocks since the step before."""
    moves: tuple[BlockMove, ...] = ()
    """KV blocks that change their tier before the step begins."""

    @property
    def tokens(self) -> int:
        """All new tokens."""
        return int(self.new_tokens.sum())

    @property
    def numbers(self) -> IntArray:
        """[S] numbers of the requests."""
        return np.array([sequence.number for sequence in self.sequences], dtype=np.int64)
