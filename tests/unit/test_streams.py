"""Random streams by name: the same in any process, apart from each other, and no consumer shifts another."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np

from moesim.streams import Streams

FIRST = "from moesim.streams import Streams; print(*Streams(7)['routing'].integers(2**63, size=4))"


def drawn(streams: Streams, name: str, *part: int) -> list[int]:
    return streams.spawn(name, *part).integers(2**63, size=4).tolist()


def test_the_same_name_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    streams = Streams(7)
    before = drawn(streams, "routing")
    streams["arrivals"].random(1000)
    assert drawn(streams, "routing") == before == drawn(Streams(7), "routing")
    assert streams["routing"].integers(2**63, size=4).tolist() == before


def test_another_process_draws_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == drawn(Streams(7), "routing")


def test_names_parts_seeds_and_replicates_are_streams_of_their_own() -> None:
    streams = Streams(7)
    variants = [
        drawn(streams, "routing"),
        drawn(streams, "arrivals"),
        drawn(streams, "routing", 0),
        drawn(streams, "routing", 1),
        drawn(streams, "routing", 0, 1),
        drawn(Streams(8), "routing"),
        drawn(Streams(7, replicate=1), "routing"),
    ]
    assert all(first != second for first, second in combinations(variants, 2))


def test_parts_of_a_stream_are_uncorrelated() -> None:
    """Four standard deviations of a correlation of 20,000 pairs: 0.028."""
    parts = np.stack([Streams(3).spawn("routing", part).random(20_000) for part in range(4)])
    correlation = np.corrcoef(parts) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)
