"""How many tokens of prompts a serving program lets through the layers together, by the GPU that it finds.

Knows the memory and the name of a GPU; no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from moesim.hardware import System
from moesim.spec import Spec
from moesim.units import Size

__all__ = ["Budget", "tokens_on"]


class Budget(Spec):
    """Tokens of a step that a program takes by default on a class of GPUs.

    Source: see the profiles. Valid: one GPU, programs left at their defaults.
    """

    memory: Size = 0.0
    """Least bytes of the GPU's memory, as its data sheet counts them."""
    tokens: Annotated[int, Ge(1)]
    """Most tokens of prompts that pass the layers together."""
    without: tuple[str, ...] = ()
    """What names of GPUs begin with that it leaves to the budgets before it."""


def tokens_on(system: System, budgets: Sequence[Budget]) -> int:
    """Tokens of the last of `budgets` that holds for the GPU of `system`; 0, whole prompts, where none does."""
    memory, name = system.tiers[system.gpu_tier].capacity or 0.0, system.gpu.name
    holding = (budget.tokens for budget in budgets if memory >= budget.memory and not name.startswith(tuple(budget.without)))
    return ([0, *holding])[-1]
