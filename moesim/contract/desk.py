"""Decisions on arrays: what a policy may be asked by, instead of `dispatch` and `adapt`, where a run repays compiling them.

Knows what a policy sees and answers; knows no engine.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from moesim.arrays import IntArray

__all__ = ["Decider", "Desk"]


class Desk(NamedTuple):
    """Where a `Decider` reads the machine and writes its answers. A place is that of an expert in [L, E] laid flat.

    Lists begin with their length. They are empty when the decider is asked.
    """

    resident: Any
    """[L * E] 1 for a copy in GPU memory."""
    in_flight: Any
    """[L * E] 1 for a copy on its way there."""
    uploaded: Any
    """[E] 1 for an expert that the visit just made has uploaded."""
    order: IntArray
    """[E] `Dispatch.order` of the visit."""
    device: IntArray
    """[E] `Dispatch.device` of the visit: the GPU that attends, unless a decider that computes `beside` it says otherwise."""
    evict: IntArray
    """[1 + L * E] places; as `Moves.evict`."""
    keep: IntArray
    """[1 + E] experts; as `Moves.keep`."""
    load: IntArray
    """[1 + L * E] places; as `Moves.load`."""


class Decider(Protocol):
    """What `Policy.decider` makes once a run. Its answers are those of the policy, to the bit; tests hold it to them."""

    looks: bool
    """Whether it looks at what changes in the policy's view with time: the clock, room, backlogs."""
    beside: bool
    """Whether it gives experts to other devices than the GPU that attends."""

    def begin(self, visits: Any) -> None:
        """A pass begins: its V visits as a `Visit`, layer by layer, with `layer` and `tokens` [V], the others [V, E]."""

    def dispatch(self, row: int) -> bool:
        """The routing of visit number `row` of the pass is known: writes its order, and what sets out with it.

        False, and nothing is written, where the answer takes more than a desk has room for: the policy's `dispatch` is asked.
        """

    def adapt(self, row: int) -> bool:
        """The visit is over: writes what stays, leaves and sets out. False as in `dispatch`: the policy's `adapt` is asked."""
