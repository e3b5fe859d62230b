"""The few least of many numbers are those that sorting all of them puts first."""

from __future__ import annotations

import numpy as np
from reporting import for_all

from moesim.policies.kit.least import least, most
from moesim.policies.kit.migration import highest


@for_all([1, 7, 40, 500], range(6))
def test_least_and_most_are_the_first_of_all_in_order(size: int, seed: int) -> None:
    """Many are equal, of which those in front count; some are infinite; more may be asked for than there are."""
    rng = np.random.default_rng(seed)
    worth = rng.integers(0, 1 + size // 3, size).astype(np.float64)
    worth[rng.random(size) < 0.1] = np.inf
    members, number = rng.random(size) < rng.choice([0.05, 0.5, 1.0]), int(rng.integers(0, size + 3))
    places = np.flatnonzero(members)
    rising, falling = (places[np.argsort(sign * worth[places], kind="stable")][:number] for sign in (1, -1))
    assert least(worth, members, number).tolist() == rising.tolist()
    assert most(worth, members, number).tolist() == falling.tolist()


@for_all([0, 1, 5, 12, 13], range(4))
def test_the_highest_are_the_first_of_all_in_falling_order(number: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 5, 12).astype(np.float64)
    assert np.flatnonzero(highest(values, number)).tolist() == sorted(np.argsort(-values, kind="stable")[:number].tolist())
