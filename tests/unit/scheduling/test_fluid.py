"""The functional model of a queue against the server that schedules every step, and the line that it is fitted by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moesim.scheduling.continuous import Continuous
from moesim.scheduling.fluid import Fluid, Limits, Snapshot, StepLine, fit_steps, play
from tests.serving import serve

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


def played(rows: list[tuple[float, int, int]], limits: Limits, line: StepLine, moments: list[float] | None = None) -> Fluid:
    """Requests of (arrival, prompt, output)."""
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return play(arrival.astype(float), prompt, output, limits, line, moments or [])


def test_a_step_grows_with_the_tokens_in_the_cache_and_a_moment_cuts_it_at_the_exact_root() -> None:
    # 10 tokens in the cache, 0.1 s each: m tokens take m (1 + 1) + 0.1 m^2 / 2 seconds, so 4 take 8.8 and 2 take 4.2
    line = StepLine(1.0, 0.0, 0.0, 0.1)
    fluid = played([(0, 10, 4)], Limits(3), line, [4.2])
    assert fluid.snapshots == [Snapshot([(0, 2)], [], pytest.approx(4.2), pytest.approx(2.0))]
    assert fluid.finish.tolist() == pytest.approx([8.8])
    watched = played([(0, 10, 4)], Limits(3), line, [0.1 * place for place in range(1, 80)])
    assert watched.finish.tolist() == pytest.approx([8.8], rel=1e-12), "looks cost nothing"


def test_each_coefficient_of_the_line_counts_by_hand() -> None:
    # prompts of 10 and 20 tokens are read in 0.2 and 0.4 s; then 4 tokens of two take 4 (1 + 2 * 0.25 + 30 * 0.01) and
    # 0.01 * 2 * 4^2 / 2 more; request 1 goes on alone with 24 tokens in the cache: 2 (1 + 0.25 + 0.24) + 0.01 * 2^2 / 2
    line = StepLine(1.0, 0.25, 0.02, 0.01)
    fluid = played([(0, 10, 4), (0, 20, 6)], Limits(3), line, [5.1625])
    assert fluid.first.tolist() == pytest.approx([0.2 + 1.0, 0.6 + 1.0 + 0.25 + 0.1])
    assert fluid.finish.tolist() == pytest.approx([0.6 + 7.36, 0.6 + 7.36 + 3.0])
    # 2.5 tokens take 2.5 * 1.8 + 0.01 * 2.5^2 = 4.5625 s; while request 1 was read request 0 ran alone
    (state,) = fluid.snapshots
    assert state.running == [(0, 2), (1, 2)]
    assert (state.spent, state.tokens) == (pytest.approx(0.4 + 2 * 4.5625), pytest.approx(5.0))
    assert (fluid.spent, fluid.tokens) == (pytest.approx(0.4 + 2 * 7.36 + 3.0), pytest.approx(10.0))


def test_where_the_cache_is_full_the_sequence_admitted_last_is_read_again() -> None:
    # 4 + 4 tokens, room for 14: full after 3 tokens of each, at 0.8 + 3 s. Request 1 waits with its 3 tokens until request 0
    # ends at 0.8 + 10, is read again in 0.7 s, and needs 7 more
    line = StepLine(1.0, 0.0, 0.1)
    fluid = played([(0, 4, 10), (0, 4, 10)], Limits(4, 14.0), line, [5.8])
    assert fluid.finish.tolist() == pytest.approx([10.8, 18.5])
    assert fluid.first.tolist() == pytest.approx([1.4, 1.8])
    (state,) = fluid.snapshots
    assert (state.running, state.waiting) == ([(0, 5), (1, 3)], [])
    assert fluid.spent == pytest.approx(0.4 + 2 * 3 + 2 * 7 + 0.7 + 7)
    assert fluid.tokens == pytest.approx(20.0)


@pytest.mark.parametrize(("room", "first"), [(9.0, 1.0), (8.9, 11.0)])
def test_a_request_joins_where_its_prompt_and_a_token_of_each_fit(room: float, first: float) -> None:
    """4 tokens are held, 4 join, and one sequence will have one more: 9 is just enough."""
    fluid = played([(0, 4, 10), (0, 4, 2)], Limits(4, room), StepLine(1.0, 0.0, 0.0))
    assert fluid.first.tolist() == [1.0, first]


def test_a_lone_request_runs_whatever_the_room() -> None:
    assert played([(2, 40, 3)], Limits(1, 8.0), StepLine(1.0, 0.0, 0.0)).finish.tolist() == [5.0]


def test_an_idle_server_waits_for_the_next_arrival_and_a_queue_for_a_place() -> None:
    fluid = played([(3, 1, 2), (4, 1, 2), (20, 1, 1)], Limits(1), StepLine(1.0, 0.5, 0.0), [0.0, 4.5])
    assert fluid.finish.tolist() == [6.0, 9.0, 21.5]
    assert fluid.first.tolist() == [4.0, 7.0, 21.0]
    assert fluid.snapshots == [Snapshot([], []), Snapshot([(0, 1)], [1], 1.5, 1.0)]


def test_the_model_of_some_requests_says_nothing_of_the_rest() -> None:
    part = Fluid(np.array([1.0, 2.0]), np.array([3.0, 4.0]), [Snapshot([(1, 7)], [0], 2.5, 6.0)], 8.0, 9.0)
    whole = part.of(np.array([4, 1]), 6)
    assert np.array_equal(whole.first, [math.nan, 2.0, math.nan, math.nan, 1.0, math.nan], equal_nan=True)
    assert np.array_equal(whole.finish, [math.nan, 4.0, math.nan, math.nan, 3.0, math.nan], equal_nan=True)
    assert whole.snapshots == [Snapshot([(1, 7)], [4], 2.5, 6.0)]
    assert (whole.spent, whole.tokens) == (8.0, 9.0)


def test_the_fit_counts_relative_errors() -> None:
    """Steps of 1 and 3 s with nothing to explain them: (c - 1)^2 + (c / 3 - 1)^2 is least at c = 1.2."""
    none = np.zeros(2, dtype=np.int64)
    line = fit_steps(np.array([1.0, 3.0]), none, none, np.zeros(2))
    assert line == pytest.approx((1.2, 0.0, 0.0, 0.0))


def test_the_fit_finds_what_a_token_in_the_cache_costs_and_no_step_takes_no_time() -> None:
    generator = np.random.default_rng(1)
    sequences, held = generator.integers(1, 50, 200), generator.integers(0, 90_000, 200).astype(float)
    line = fit_steps(0.02 + 1e-3 * sequences + 3e-7 * held, sequences, sequences, held)
    assert line == pytest.approx((0.02, 1e-3, 0.0, 3e-7), rel=1e-6, abs=1e-12)
    assert fit_steps(1e-3 * sequences, sequences, sequences, np.zeros(200)).step == pytest.approx(1e-6, rel=1e-6)


def test_lines_differ_by_what_they_say_of_a_step() -> None:
    line, rival = StepLine(1.0, 0.5, 9.0, 0.01), StepLine(4.0, 0.0, 0.0)
    assert line.seconds(4, 200) == pytest.approx(5.0)
    assert line.off(rival, 4, 200) == pytest.approx(0.25)
    assert rival.off(line, 4, 200) == pytest.approx(0.2)
