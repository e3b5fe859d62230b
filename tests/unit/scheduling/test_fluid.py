"""The functional model of a queue against the server that schedules every step, and the line that it is fitted by."""

from __future__ import annotations

import numpy as np
import pytest
from serving import serve

from moesim.scheduling.continuous import Continuous
from moesim.scheduling.fluid import Limits, StepLine, fit_steps, play

STEP = 1000


@pytest.mark.parametrize("places", [2, 5])
def test_the_model_ends_requests_when_the_server_does(places: int) -> None:
    """A step of constant length: every request ends within the three steps that a step's grid and prefill leave open."""
    generator = np.random.default_rng(3)
    output = generator.integers(20, 200, 60)
    arrival = np.sort(generator.integers(0, 60 * 110 * STEP // places, 60))
    rules = Continuous(max_num_seqs=places, asynchronous=False)
    server = serve(rules, [(1, int(tokens)) for tokens in output], arrival=arrival.tolist(), step_time=lambda batch: STEP)
    line = StepLine(float(STEP), 0.0, 0.0)
    fluid = play(arrival.astype(float), np.ones(60, dtype=np.int64), output, Limits(places), line, [])
    late = np.abs(server.ledger.finish - fluid.finish) / STEP
    assert late.max() < 0.02 * output.sum() / places + 3
    assert np.median(late) <= 3


def test_a_look_at_the_queue_counts_everybody_once() -> None:
    arrival, output = np.array([0.0, 0.0, 1.0, 5.0]), np.array([10, 4, 6, 1])
    fluid = play(arrival, np.ones(4, dtype=np.int64), output, Limits(2), StepLine(1.0, 0.0, 0.0), [2.0, 4.5, 20.0])
    first, second, last = fluid.snapshots
    assert (first.running, first.waiting) == ([(0, 2), (1, 2)], [2])
    assert (second.running, second.waiting) == ([(0, 4), (2, 0)], [])
    assert (last.running, last.waiting) == ([], [])
    assert fluid.finish.tolist() == [10.0, 4.0, 10.0, 11.0]


def test_the_line_of_steps_is_found_again() -> None:
    generator = np.random.default_rng(0)
    sequences, prompts = generator.integers(1, 100, 400), generator.integers(0, 2, 400) * 512
    seconds = 0.01 + 1e-4 * sequences + 2e-5 * prompts
    line = fit_steps(seconds, sequences, sequences + prompts, np.zeros(400))
    assert line == pytest.approx((0.01, 1e-4, 2e-5, 0.0), rel=1e-6)
    assert line.off(StepLine(0.02, 0.0, 0.0), 50.0, 0.0) == pytest.approx(0.25)
