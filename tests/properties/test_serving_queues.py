"""Where a server reduces to a queue with a closed form, its waits are within the interval of that form.

Steps take a constant time and prompts have one token: a request of n tokens takes n steps. Intervals: batch means, 99.9 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.special import stdtrit

from moesim.scheduling.continuous import Continuous
from tests.serving import serve

REQUESTS, BATCHES, STEP, MEAN = 4000, 20, 1000, 12
Lengths = Callable[[np.random.Generator], np.ndarray]
LAWS: dict[str, Lengths] = {
    "M/M/1": lambda rng: rng.geometric(1 / MEAN, REQUESTS),
    "M/D/1": lambda rng: np.full(REQUESTS, MEAN),
    "M/G/1": lambda rng: np.where(rng.random(REQUESTS) < 0.9, 6, 66),
}


def waits(outputs: np.ndarray, load: float, places: int, rng: np.random.Generator) -> np.ndarray:
    """[R] times from arrival until a step with the request is composed, Poisson arrivals at `load` of `places`."""
    gap = outputs.mean() * STEP / (load * places)
    arrival = np.rint(np.cumsum(rng.standard_exponential(REQUESTS)) * gap).astype(np.int64)
    rules = Continuous(max_num_seqs=places, asynchronous=False, prefix_caching=False, block_size=4096)
    lengths = [(1, int(output)) for output in outputs]
    ledger = serve(rules, lengths, arrival=arrival.tolist(), room=1 << 30, step_time=lambda batch: STEP).ledger
    return ledger.scheduled - ledger.arrival


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of its interval, by batch means."""
    means = values.reshape(BATCHES, -1).mean(axis=1)
    return float(means.mean()), float(stdtrit(BATCHES - 1, 0.9995) * means.std(ddof=1) / math.sqrt(BATCHES))


@cache
def lone(law: str, load: float) -> tuple[np.ndarray, np.ndarray]:
    """([R] output tokens, [R] waits) before one place, simulated once."""
    rng = np.random.default_rng([3, len(law), round(10 * load)])
    outputs = LAWS[law](rng)
    return outputs, waits(outputs, load, 1, rng)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("load", [0.4, 0.7])
def test_one_place_waits_as_pollaczek_and_khinchine_say(law: str, load: float) -> None:
    """Wq = l E[S^2] / (2 (1 - r)); a place is free for the next request at the very end of a step, so nothing is rounded."""
    outputs, waited = lone(law, load)
    rate, service = load / (outputs.mean() * STEP), outputs * float(STEP)
    expected = rate * float((service**2).mean()) / (2 * (1 - load))
    mean, half = interval(waited)
    assert abs(mean - expected) <= half
    assert half < 0.7 * expected


def test_constant_service_waits_half_as_long_as_exponential() -> None:
    (exponential, _), (constant, half) = (interval(lone(law, 0.7)[1]) for law in ("M/M/1", "M/D/1"))
    assert constant == pytest.approx(exponential / 2, rel=0.35)
    assert half > 0


@pytest.mark.parametrize("places", [2, 4])
def test_several_places_wait_as_erlang_says(places: int) -> None:
    """M/M/c: Wq = C / (c m - l). Beside it an arrival waits for the end of the step under way, at most one step."""
    rng = np.random.default_rng([5, places])
    outputs = rng.geometric(1 / 40, REQUESTS)
    load = 0.7
    busy = load * places
    below = sum(busy**k / math.factorial(k) for k in range(places))
    full = busy**places / math.factorial(places) / (1 - load)
    expected = full / (below + full) * outputs.mean() * STEP / (places * (1 - load))
    mean, half = interval(waits(outputs, load, places, rng))
    assert expected - half <= mean <= expected + STEP + half
