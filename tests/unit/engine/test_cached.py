"""A policy with a cache whose visits are answered together: what it may not do with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.cached import check_cached
from moesim.errors import PolicyError

CONTEXT: Any = SimpleNamespace(problem=SimpleNamespace(attending_index=0))
COUNTS = np.array([[3, 0, 1]])


def answers(*device: int, load: Any = None) -> Any:
    return SimpleNamespace(device=np.array([device]), load=load)


def test_experts_with_tokens_go_to_the_gpu_and_others_may_be_anywhere() -> None:
    check_cached(CONTEXT, answers(0, 0, 0), COUNTS)
    check_cached(CONTEXT, answers(0, 1, 0), COUNTS)


@pytest.mark.parametrize("wrong", [answers(1, 0, 0), answers(0, 0, 1), answers(0, 0, 0, load=np.ones((1, 3)))])
def test_an_expert_with_tokens_elsewhere_or_loads_of_its_own_are_refused(wrong: Any) -> None:
    with pytest.raises(PolicyError, match="all experts with tokens, and no others, to the GPU"):
        check_cached(CONTEXT, wrong, COUNTS)
