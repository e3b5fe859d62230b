"""Where preempted sequences leave their KV blocks, so that nothing of them is computed again: a room in a tier of the host.

Knows blocks; nothing of links.
"""

from __future__ import annotations

from moesim.scheduling.sequence import Sequence
from moesim.spec import Spec
from moesim.units import Size

__all__ = ["SwapBook", "SwapSpace"]


class SwapSpace(Spec):
    """Room for the KV blocks of preempted sequences. A sequence that finds too little of it is computed again.

    All blocks that a sequence has filled are copied out before the step that takes its place begins, and back before the step
    that admits it again, but for those that the prefix cache has kept. Neither copy overlaps with a step.
    Source: vLLM 0.6, V0 engine: `--preemption-mode swap`, `--swap-space`; worker/worker.py (execute_worker) swaps before the
    model runs. There a run ends where the room does not suffice. Valid: blocks cross as one copy, not block by block.
    """

    tier: str
    """Tier of the host that has the room."""
    room: Size
    """Bytes of it set aside, as `--swap-space`."""


class SwapBook:
    """Who has how many of the `total` blocks of a swap space, and how often blocks went there and back."""

    def __init__(self, tier: str, total: int) -> None:
        self.tier = tier
        self.total = total
        self.used = 0
        """Blocks that sequences have there now."""
        self.most = 0
        """Most blocks that they had at a time."""
        self.sequences_out = self.sequences_in = 0
        """Sequences that were swapped out, and of these those that came back."""
        self.blocks_out = self.blocks_in = 0
        """Blocks that were copied there, and back."""
        self.without_room = 0
        """Preempted sequences that are computed again because too few blocks were free."""
        self._held: dict[int, tuple[int, int]] = {}

    def take(self, sequence: Sequence, blocks: int) -> bool:
        """Keeps the `computed` tokens of `sequence` in `blocks` blocks; False where too few are free."""
        if self.used + blocks > self.total:
            self.without_room += 1
            return False
        self._held[sequence.number] = sequence.computed, blocks
        self.used += blocks
        self.most = max(self.most, self.used)
        self.sequences_out += 1
        self.blocks_out += blocks
        return True

    def tokens(self, sequence: Sequence) -> int:
        """Tokens of `sequence` that are there."""
        return self._held.get(sequence.number, (0, 0))[0]

    def give_back(self, sequence: Sequence, shared: int) -> int:
        """`sequence` runs again, `shared` of its blocks being in the prefix cache: how many are copied back."""
        _, blocks = self._held[sequence.number]
        self.drop(sequence)
        self.sequences_in += 1
        missing = max(blocks - shared, 0)
        self.blocks_in += missing
        return missing

    def drop(self, sequence: Sequence) -> None:
        """What `sequence` has there is given up, if anything is."""
        _, blocks = self._held.pop(sequence.number, (0, 0))
        self.used -= blocks
