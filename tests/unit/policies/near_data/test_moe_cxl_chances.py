"""What is compiled of MoE-CXL's predictions and choices gives the bits that numpy gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reporting import for_all

from moesim import jit, portable
from moesim.policies.near_data.moe_cxl_chances import Choice, chances, compiled
from moesim.policies.near_data.moe_cxl_history import SequenceHistory

LAYERS, EXPERTS = 4, 24


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    return compiled(1)


def test_chances_have_the_bits_of_numpy(functions: Any) -> None:
    rng = np.random.default_rng(1)
    edges = [0.0, 0.5, np.nextafter(0.5, 0.0), 39.0, 44.3, 45.0, 800.0, 1e9, np.inf]
    expected = np.concatenate([10.0 ** rng.uniform(-9, 4, 2000), edges])
    assert chances(functions, expected).tobytes() == portable.one_or_more(expected).tobytes()


@for_all(range(6))
def test_choices_are_those_of_numpy(seed: int, functions: Any) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        values = [rng.integers(0, 6, EXPERTS) / 5.0 for _ in range(3)]  # many are equal
        there = rng.random(EXPERTS) < 0.3
        terms, room = (float(rng.random()), float(rng.choice([0.0, 0.4])), 0.5), int(rng.integers(1, EXPERTS))
        answers = [Choice(kernel, EXPERTS).best(*values, there, terms, room) for kernel in (None, functions)]
        assert answers[0].tolist() == answers[1].tolist()


@for_all(range(6), [False, True])
def test_histories_expect_the_same(seed: int, hinted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of many tokens and decodes of as many as before, or not; hints that say nothing, and none."""
    rng, histories = np.random.default_rng(seed), []
    popularity = rng.dirichlet(np.full(EXPERTS, 0.2), LAYERS)
    for repaid in (False, True):
        monkeypatch.setattr(jit, "repaid", lambda *_, repaid=repaid: repaid)
        histories.append(SequenceHistory(popularity, 2, 1, 2, hinted=hinted))
    for number in range(12):
        phase, tokens = ("prefill", 40) if number % 5 == 0 else ("decode", int(rng.choice([2, 6])))
        for layer in range(LAYERS):
            counts = rng.multinomial(tokens, popularity[layer])
            hint = rng.multinomial(int(rng.choice([0, 6])), popularity[layer]) if hinted and rng.random() < 0.8 else None
            for history in histories:
                history.learn(layer, counts, phase)
            if layer + 1 < LAYERS and rng.random() < 0.9:
                plain, fast = (history.chance(layer, counts, phase, hint) for history in histories)
                assert plain.tobytes() == fast.tobytes()
                for history in histories:
                    history.fetch(layer + 1, np.array([0, 3]), plain[[0, 3]])
        assert histories[0].weights.tobytes() == histories[1].weights.tobytes()
        assert histories[0].again().tobytes() == histories[1].again().tobytes()
