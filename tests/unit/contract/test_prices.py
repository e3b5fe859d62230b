"""Prices that are remembered: computed once for equal numbers, never for others, and let go when there are too many."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.contract.prices import Prices, key_of


class Counter:
    """Counts how often a price is computed."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, size: int = 4) -> np.ndarray:
        self.times += 1
        return np.full(size, float(self.times))


def test_a_price_is_computed_once_for_each_key_and_cannot_be_written_to() -> None:
    prices, price = Prices(), Counter()
    first = [prices.of(("gpu", key_of(tokens)), price) for tokens in (7, 7, 8, np.array([7.0]))]
    assert [int(values[0]) for values in first] == [1, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 0.0


def test_arrays_are_the_same_key_where_type_shape_and_numbers_are() -> None:
    tokens = np.arange(6)
    alike = [tokens.copy(), tokens[::-1][::-1]]
    unlike = [tokens + 1, tokens.astype(np.float64), tokens.reshape(2, 3), tokens[:5]]
    assert all(key_of(array) == key_of(tokens) for array in alike)
    assert all(key_of(array) != key_of(tokens) for array in unlike)


def test_long_arrays_are_priced_each_time() -> None:
    prices, price, tokens = Prices(), Counter(), np.zeros(5000)
    for _ in range(2):
        prices.of(("gpu", key_of(tokens)), price)
    assert price.times == 2


def test_what_is_held_is_bounded() -> None:
    prices, price = Prices(most=100), Counter()
    for tokens in range(1000):
        prices.of((tokens,), lambda: price(9))
        assert sum(values.size for values in prices._known.values()) <= 100
    assert price.times == 1000
    prices.of((999,), price)
    assert price.times == 1000
