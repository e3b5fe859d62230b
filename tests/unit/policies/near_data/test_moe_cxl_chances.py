"""What is compiled of logarithms and chances gives the bits that numpy gives."""

from __future__ import annotations

import numpy as np
import pytest

from moesim import jit, portable
from moesim.policies.near_data.moe_cxl_chances import Chances


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Chances:
    monkeypatch.setattr(jit, "repaid", lambda *_: True)
    return Chances(1)


def test_logarithms_have_the_bits_of_numpy(compiled: Chances) -> None:
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [10.0 ** rng.uniform(-300, 300, 2000), 1.0 + rng.normal(0, 1e-9, 200), 2.0 ** np.arange(-9.0, 9.0)]
    )
    assert compiled.logarithms(numbers).tobytes() == portable.logarithms(numbers).tobytes()


def test_chances_have_the_bits_of_numpy(compiled: Chances) -> None:
    rng = np.random.default_rng(1)
    edges = [0.0, 0.5, np.nextafter(0.5, 0.0), 39.0, 44.3, 45.0, 800.0, 1e9, np.inf]
    expected = np.concatenate([10.0 ** rng.uniform(-9, 4, 2000), edges])
    assert compiled.one_or_more(expected).tobytes() == portable.one_or_more(expected).tobytes()
