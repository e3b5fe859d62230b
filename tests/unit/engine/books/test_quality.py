"""What was done to the output of the model: pairs by precision, skipped, replaced and stale, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.books.quality import QualityBook
from moesim.engine.dispatches import Answers
from moesim.results.recorder import LayerSums, Recorder

GPU, CPU = 0, 1
FULL = 32.0
"""Bytes of an expert of 16 weights (32 FLOP a token), 16 bits each."""
LAYERS = np.array([0, 1])
ROUTED = np.array([[3, 2, 0], [1, 4, 5]])


class Bench:
    """A book over two layers of three experts."""

    def __init__(self, *, stored: Any = None, own: Any = None, mixed: bool = False) -> None:
        shape = (2, 3)
        self.stored = np.full(shape, FULL) if stored is None else np.array(stored)
        own_bytes = np.full(shape, FULL) if own is None else np.array(own)
        self.recorder = Recorder(LayerSums.zeros(2), 1, 3)
        self.residency: Any = SimpleNamespace(
            bytes=self.stored, copy_bytes=np.full(shape, FULL), in_flight=np.zeros(shape, dtype=np.bool_), mixed=mixed
        )
        problem: Any = SimpleNamespace(
            attending_index=GPU, model=SimpleNamespace(expert_flops=32.0, expert_bytes=FULL), layers=2, experts=3,
            expert_bytes=lambda: own_bytes,
        )  # fmt: skip
        self.book = QualityBook(problem, self.residency, self.recorder)

    def visits(self, computed: Any = ROUTED, serving: Any = None, **answer: Any) -> None:
        device = answer.pop("device", np.zeros((2, 3), dtype=np.int64))
        held = np.zeros((2, 3), dtype=np.bool_) if serving is None else np.array(serving)
        self.recorder.breakdown.tokens += computed
        self.book.visits(Answers(device, **answer), ROUTED, np.asarray(computed), LAYERS, held)

    @property
    def precision(self) -> dict[float, int]:
        self.book.close()
        return self.recorder.quality.precision


def test_pairs_from_stored_copies_are_booked_at_the_end() -> None:
    bench = Bench()
    bench.visits()
    assert bench.recorder.quality.precision == {}
    assert bench.precision == {16.0: 15}
    assert (bench.recorder.quality.native, bench.recorder.quality.routed, bench.book.smallest) == (16.0, 15, FULL)


def test_smaller_stored_copies_have_fewer_bits() -> None:
    bench = Bench(stored=[[FULL, FULL / 4, FULL], [FULL, FULL / 2, FULL]])
    bench.visits()
    assert bench.precision == {4.0: 2, 8.0: 4, 16.0: 3 + 1 + 5}
    assert bench.book.smallest == FULL / 4


def test_layers_in_formats_of_their_own_are_all_in_the_model_s_precision() -> None:
    """The second layer's experts weigh half as much because the model has them so: native bits are those of the mean."""
    own = [[FULL] * 3, [FULL / 2] * 3]
    bench = Bench(stored=own, own=own)
    bench.visits()
    assert bench.precision == {16.0: 15}


def test_tokens_that_a_policy_leaves_out_or_gives_to_another_expert_are_counted() -> None:
    """Of 3 + 2 one is skipped; of 1 + 4 + 5 two go to expert 0 instead of 2."""
    bench = Bench()
    computed = np.array([[2, 2, 0], [3, 4, 3]])
    bench.visits(computed, counts=computed, stale=np.array([[1, 0, 0], [0, 2, 0]]))
    bench.book.close()
    quality = bench.recorder.quality
    assert (quality.skipped, quality.replaced, quality.stale, quality.routed) == (1, 2, 3, 15)


def test_copies_that_a_visit_asks_for_are_booked_as_asked_unless_a_copy_in_gpu_memory_serves() -> None:
    """All ask for 4 bits; expert 0 of layer 0 is served by its full copy, expert 1 of layer 1 by one that is on its way."""
    bench = Bench()
    bench.residency.in_flight[1, 1] = True
    bench.residency.copy_bytes[1, 1] = FULL / 2
    serving = [[True, False, False], [False, False, False]]
    bench.visits(nbytes=np.full((2, 3), FULL / 4), serving=serving)
    assert bench.precision == {16.0: 3, 4.0: 2 + 1 + 5, 8.0: 4}


def test_a_copy_in_gpu_memory_serves_the_gpu_alone() -> None:
    bench = Bench()
    bench.visits(nbytes=np.full((2, 3), FULL / 4), serving=np.ones((2, 3)) > 0, device=np.full((2, 3), CPU))
    assert bench.precision == {4.0: 15}


def test_where_copies_in_gpu_memory_differ_all_visits_are_booked_as_they_come() -> None:
    bench = Bench(mixed=True)
    bench.residency.copy_bytes[0, 0] = FULL / 8
    bench.visits(serving=[[True, True, False], [False] * 3])
    assert bench.recorder.quality.precision == {2.0: 3, 16.0: 12}
    assert bench.precision == {2.0: 3, 16.0: 12}, "nothing is left for the end"
    assert bench.book.smallest == pytest.approx(FULL / 8)
