"""What is compiled of rounded corners, and the same source as plain Python, give the bits that numpy gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from reporting import for_all

from moesim import jit, portable
from moesim.arrays import FloatArray
from moesim.hardware import corner_kernel, experts, portable_kernel

EXPONENTS = (1e-3, 0.3, 1 / 3, 0.5, 2 / 3, 0.868, 1.0, 1.2, 1.5, 1.7, 2.0, 3.0, 4.7, 1e3)
EDGES = ([0, 0, 1, np.inf, np.nan, 1, np.inf, 5e-324, 1e308, 1], [0, 7, 1, 1, 1, np.nan, np.inf, 1, 1e308, 1e-200])


@pytest.fixture
def norm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FloatArray]:
    def norm(first: FloatArray, second: FloatArray, q: float, *, compiled: bool = True) -> FloatArray:
        monkeypatch.setattr(jit, "repaid", lambda *_: compiled)
        with np.errstate(all="ignore"):
            return experts.p_norm(first, second, q)

    return norm


def pairs(count: int) -> list[FloatArray]:
    """Numbers alike, and numbers that differ by up to twelve digits."""
    rng = np.random.default_rng(count)
    alike, apart = rng.uniform(0, 2, (2, count)), 10.0 ** rng.uniform(-9, 3, (2, count))
    return list(np.concatenate([alike, apart, EDGES], axis=1))


@for_all(EXPONENTS)
def test_compiled_norms_have_the_bits_of_numpy(q: float, norm: Callable[..., FloatArray]) -> None:
    first, second = pairs(250)
    assert first.size <= experts._MOST
    assert norm(first, second, q).tobytes() == norm(first, second, q, compiled=False).tobytes()


@for_all(EXPONENTS)
def test_the_source_runs_as_plain_python(q: float, norm: Callable[..., FloatArray]) -> None:
    first, second = pairs(20)
    larger = np.maximum(first, second)
    with np.errstate(all="ignore"):
        corner_kernel.norms(np.minimum(first, second), larger, np.array([q, 1.0 / q]))
    assert larger.tobytes() == norm(first, second, q, compiled=False).tobytes()


def test_shapes_that_broadcast_and_columns_first_are_taken_as_they_are(norm: Callable[..., FloatArray]) -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random((5, 7)).T, rng.random(5)
    for pair in ((first, second), (second, first), (first[::2], second), (first, np.float64(0.5))):
        assert norm(*pair, 2.2).tobytes() == norm(*pair, 2.2, compiled=False).tobytes()
        assert norm(*pair, 2.2).shape == np.broadcast_shapes(*map(np.shape, pair))


def test_inputs_stay_as_they_are(norm: Callable[..., FloatArray]) -> None:
    first, second = pairs(10)
    before = first.tobytes() + second.tobytes()
    norm(first, second, 2.2)
    assert first.tobytes() + second.tobytes() == before


def test_exponentials_are_those_of_portable_on_both_sides_of_zero() -> None:
    x = np.concatenate([np.linspace(-690.0, 690.0, 2001), [0.0, 800.0, 1e4, -800.0, -1e4]])
    with np.errstate(over="ignore"):
        assert [portable_kernel.exponential(float(value)) for value in x] == portable.exponential(x).tolist()
