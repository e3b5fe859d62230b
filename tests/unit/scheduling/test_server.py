"""The server: arrivals between steps, stamps, levels and closed loops, and many steps at once as one by one."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from moesim.contract.steps import Pace
from moesim.errors import MoesimError
from moesim.scheduling.base import Room, Session
from moesim.scheduling.blocks import BlockPool
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.server import Server, Traffic
from moesim.scheduling.steady import Joiner
from tests.serving import serve

STEP = 10
STAMPS = ("arrival", "queued", "scheduled", "first_token", "finish")


def rules(**changes: Any) -> Continuous:
    limits = {"max_num_batched_tokens": 8, "max_num_seqs": 4, "asynchronous": False, "block_size": 4}
    return Continuous.model_validate({**limits, **changes})


def test_every_stamp_of_two_requests_by_hand() -> None:
    # steps of 10: request 0 (prompt 2, 3 tokens) runs at 0, 10, 20; request 1 comes at 13, is seen at 20 and has 2 tokens
    server = serve(rules(), [(2, 3), (2, 2)], arrival=[0, 13], step_time=lambda batch: STEP)
    ledger = server.ledger
    stamps = [getattr(ledger, name).tolist() for name in STAMPS]
    assert stamps == [[0, 13], [0, 20], [0, 20], [10, 30], [30, 40]]
    assert np.asarray(ledger.gaps).tolist() == [[10, 1]] * 3
    # time, running, waiting, blocks in use
    levels = np.asarray(ledger.levels).tolist()
    assert levels == [[0, 1, 0, 1], [10, 1, 0, 1], [20, 2, 0, 2], [30, 1, 0, 1], [40, 0, 0, 0]]


def test_an_idle_server_says_when_the_next_request_comes() -> None:
    server = Server(rules().session(Room(64, 0)), Traffic([Sequence(0, 2, 1), Sequence(1, 2, 1)], np.array([30, 50])))
    assert server.compose(0) == 30
    assert server.until() == 30
    assert isinstance(server.compose(30), Batch)
    assert server.until() == 50
    server.ended(40)
    assert server.compose(40) == 50
    assert isinstance(server.compose(60), Batch)
    assert server.until() is None
    server.ended(70)
    assert server.compose(70) is None
    assert server.ledger.queued.tolist() == [30, 60], "taken in when the clock has come to it"


def test_the_step_behind_the_one_that_runs_is_known_where_steps_are_composed_ahead() -> None:
    early = Traffic([Sequence(0, 2, 2)], np.zeros(1, dtype=np.int64))
    late = Traffic([Sequence(0, 2, 2)], np.zeros(1, dtype=np.int64))
    alone, ahead = Server(rules().session(Room(64, 0)), early), Server(rules().session(Room(64, 0)), late, 2)
    assert alone.compose(0) is not None
    assert alone.next is None
    assert ahead.compose(0) is not None
    assert ahead.next is not None
    assert ahead.next.attended.tolist() == [3]


def test_users_of_a_closed_loop_think_after_answers_and_after_refusals() -> None:
    sequences = [Sequence(0, 2, 1), Sequence(1, 900, 1), Sequence(2, 2, 1), Sequence(3, 2, 1), Sequence(4, 2, 1)]
    traffic = Traffic(sequences, np.array([0, 0, -1, -1, -1]), users=2, think=np.array([0, 0, 7, 5, 9]))
    server = Server(rules().session(Room(64, 0)), traffic)
    now = 0
    while (step := server.compose(now)) is not None:
        if isinstance(step, int):
            now = step
            continue
        now += STEP
        server.ended(now)
    # request 1 is refused at 0 and its user sends 3 at 5, which runs from 10; 0 ends at 10 and its user sends 2 at 17, which
    # runs from 20 to 30, and 4 at 39, when the server is idle
    assert server.ledger.refused.keys() == {1}
    assert server.ledger.arrival.tolist() == [0, 0, 17, 5, 39]
    assert server.ledger.finish.tolist() == [10, -1, 30, 20, 49]


class Idle(Session):
    """Composes nothing."""

    def schedule(self) -> Batch | None:
        return None


def test_a_scheduler_that_leaves_its_requests_without_a_step_is_a_fault_of_its_own() -> None:
    server = Server(Idle(BlockPool(4), rules()), Traffic([Sequence(0, 2, 1)], np.zeros(1, dtype=np.int64)))
    with pytest.raises(MoesimError, match="a scheduler left requests without a step though nothing else is to come"):
        server.compose(0)


CASES: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "asynchronous": {"asynchronous": True},
    "blocks of one token": {"block_size": 1},
    "few blocks": {"num_gpu_blocks_override": 9, "asynchronous": True},
    "no prefix cache": {"prefix_caching": False, "block_size": 2},
    "many places": {"max_num_seqs": 8, "asynchronous": True, "block_size": 3},
    "one place": {"max_num_seqs": 1, "asynchronous": True},
}


def traffic(users: int) -> Traffic:
    """30 requests that share first tokens with one before, some of them together, or of a closed loop."""
    generator = np.random.default_rng(4)
    lengths = generator.integers([1, 1], [13, 15], (30, 2)).tolist()
    shared: list[tuple[tuple[int, int], ...]] = [((3, number - 2),) if number % 3 == 2 else () for number in range(30)]
    sequences = [
        Sequence(number, *pair, shared=alike) for number, (pair, alike) in enumerate(zip(lengths, shared, strict=True))
    ]
    arrival = np.sort(generator.integers(0, 60, 30)) * 15
    if users:
        arrival[users:] = -1
    return Traffic(sequences, arrival, users, np.full(30, 25) if users else None)


def one_by_one(rules: Continuous, users: int) -> Server:
    server, now = Server(rules.session(Room(60, 0)), traffic(users), rules.steps_ahead), 0
    while (step := server.compose(now)) is not None:
        now = step if isinstance(step, int) else now + STEP
        if not isinstance(step, int):
            server.ended(now)
    return server


def several(rules: Continuous, users: int, most: int) -> tuple[Server, int]:
    """The same by as many steps at a time as are sure, at most `most`; and how many went with others."""
    server, now, together = Server(rules.session(Room(60, 0)), traffic(users), rules.steps_ahead), 0, 0
    while (step := server.compose(now)) is not None:
        if isinstance(step, int):
            now = step
            continue
        batches, steady = server.sure(most)
        number = len(batches) + (steady.steps if steady else 0)
        assert number <= most
        until = server.until()
        begins = [now + STEP * place for place in range(number)]
        ends = [begin + STEP for begin in begins if begin == now or until is None or begin < until]
        server.passed(ends)
        now, together = ends[-1], together + (len(ends) > len(batches))
    return server, together


@pytest.mark.parametrize("users", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_steps_that_pass_at_once_leave_what_they_leave_one_by_one(case: str, users: int) -> None:
    expected = one_by_one(rules(**CASES[case]), users)
    for most in (1, 2, 5, 100):
        server, together = several(rules(**CASES[case]), users, most)
        for name in STAMPS:
            assert getattr(server.ledger, name).tolist() == getattr(expected.ledger, name).tolist(), (name, most)
        for name in ("gaps", "levels"):
            assert np.array_equal(getattr(server.ledger, name), getattr(expected.ledger, name)), (name, most)
        assert server.ledger.refused == expected.ledger.refused
        for own, beside in zip(server.traffic.sequences, expected.traffic.sequences, strict=True):
            counts = ("computed", "sampled", "pending", "preemptions", "hits")
            assert [getattr(own, name) for name in counts] == [getattr(beside, name) for name in counts]
        order = [(pool.used, list(pool._freed)) for pool in (server.session.pool, expected.session.pool)]
        assert order[0] == order[1], "blocks are free in the same order"
        assert server.session.pool._cached == expected.session.pool._cached
        assert together or most < 5, "some steps pass without being composed"


def decoding(*lengths: tuple[int, int], limits: Continuous, waiting: int = 0, room: int = 64) -> Session:
    """A session whose requests of (prompt, output) have had their prompts computed, and `waiting` more in the queue."""
    session = limits.session(Room(room, 0))
    for number, pair in enumerate(lengths):
        session.add(Sequence(number, *pair))
    batch = session.schedule()
    assert batch is not None
    session.finish(batch)
    for number in range(waiting):
        session.add(Sequence(len(lengths) + number, 1, 1))
    return session


def test_steps_are_sure_to_the_end_of_the_last_sequence() -> None:
    steady = decoding((2, 4), (3, 6), limits=rules()).steady(100, 1)
    assert steady is not None
    assert (steady.remaining.tolist(), steady.steps) == ([3, 5], 5)
    assert [sequence.number for sequence in steady.sequences] == [0, 1]
    fewer = decoding((2, 4), (3, 6), limits=rules()).steady(2, 1)
    assert fewer is not None
    assert fewer.steps == 2


def test_where_requests_wait_steps_are_sure_until_a_place_comes_free_and_none_before_the_places_are_full() -> None:
    full = decoding((2, 4), (3, 6), limits=rules(max_num_seqs=2), waiting=1)
    for ahead, steps in ((1, 3), (2, 4)):
        steady = full.steady(100, ahead)
        assert steady is not None
        assert steady.steps == steps
    assert decoding((2, 4), (3, 6), limits=rules(max_num_seqs=3), waiting=1).steady(100, 1) is None


def test_steps_are_sure_as_long_as_their_blocks_are_free() -> None:
    # blocks of 4 tokens, 3 of them: tokens 2 + 1 .. 2 + 9 of one request need 3; two requests need 4 by their fifth token
    alone = decoding((2, 10), limits=rules(num_gpu_blocks_override=3)).steady(100, 1)
    assert alone is not None
    assert alone.steps == 9
    pair = decoding((2, 10), (2, 10), limits=rules(num_gpu_blocks_override=3)).steady(100, 1)
    assert pair is not None
    assert pair.steps == 2, "9 steps and 4 need more blocks than there are"


def test_nothing_is_sure_while_a_prompt_is_incomplete_or_nobody_goes_on() -> None:
    session = rules().session(Room(64, 0))
    session.add(Sequence(0, 12, 3))
    batch = session.schedule()
    assert batch is not None
    session.finish(batch)
    assert session.steady(100, 1) is None
    assert decoding((2, 1), limits=rules()).steady(100, 1) is None


def test_a_session_that_does_not_say_is_sure_of_nothing() -> None:
    assert Idle(BlockPool(4), rules()).steady(100, 1) is None


@pytest.mark.parametrize(("sampled", "steps"), [(296, 2), (297, 1), (298, None)])
def test_in_a_closed_loop_steps_are_sure_until_the_first_answer_is_complete(sampled: int, steps: int | None) -> None:
    """Of 300 tokens two more are under way: whoever has had the last calls for the next request."""
    sequences = [Sequence(0, 2, 300), Sequence(1, 2, 600)]
    closed = Traffic(sequences, np.zeros(2, dtype=np.int64), users=2, think=np.zeros(2, dtype=np.int64))
    server = Server(rules(asynchronous=True).session(Room(4096, 0)), closed, 2)
    server.compose(0)
    sequences[0].sampled, sequences[0].computed = sampled, 2 + sampled + 1
    _, steady = server.sure(50)
    assert (steady.steps if steady else None) == steps


def test_a_composed_step_that_preempts_is_not_among_the_sure_ones() -> None:
    server = Server(rules(asynchronous=True).session(Room(64, 0)), Traffic([Sequence(0, 2, 9)], np.zeros(1, dtype=np.int64)), 2)
    server.compose(0)
    batches, steady = server.sure(9)
    assert (len(batches), steady is not None) == (2, True)
    ahead = server._composed[1]
    server._composed = deque([server._composed[0], Batch(ahead.sequences, ahead.new_tokens, ahead.attended, ahead.samples,
        ahead.yields, ahead.from_prefix, (), (Sequence(1, 2, 1),))])  # fmt: skip
    batches, steady = server.sure(9)
    assert (len(batches), steady) == (1, None)


def spread(number: int = 24) -> Traffic:
    """Requests of their own, most of which arrive while others run."""
    generator = np.random.default_rng(7)
    lengths = generator.integers([1, 1], [20, 25], (number, 2)).tolist()
    sequences = [Sequence(place, *pair) for place, pair in enumerate(lengths)]
    return Traffic(sequences, np.cumsum(generator.integers(0, 14 * STEP, number)))


def joined(server: Server, guess: int) -> int:
    """Serves all by series that go on past the next arrival, steps being guessed to take `guess` ps; how often it was right."""
    now = right = 0
    while (step := server.compose(now)) is not None:
        if isinstance(step, int):
            now = step
            continue
        until, (batches, steady) = server.until(), server.sure(2, Pace(now, guess, 0.0, 40))
        joiners, ends = steady.joiners if steady is not None else (), list[int]()
        for place in range(len(batches) + (steady.steps if steady is not None else 0)):
            now, since, before = now + STEP, 0, until
            ends.append(now)
            for joiner in joiners:
                if place >= joiner.step:
                    since, before = joiner.arrival if place == joiner.step else 0, joiner.until
            if now < since or (before is not None and now >= before):
                break
        right += sum(len(ends) > joiner.step + 1 for joiner in joiners)
        server.passed(ends)
    return right


@pytest.mark.parametrize("guess", [STEP, 2 * STEP, STEP // 3])
@pytest.mark.parametrize("case", [{}, {"asynchronous": True}, {"asynchronous": True, "prefix_caching": False}])
def test_requests_that_join_a_series_are_served_as_one_by_one(case: dict[str, Any], guess: int) -> None:
    limits = rules(**{"max_num_seqs": 24, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 300, **case})
    servers = [Server(limits.session(Room(1200, 0)), spread(), limits.steps_ahead) for _ in range(2)]
    now = 0
    while (step := servers[0].compose(now)) is not None:
        now = step if isinstance(step, int) else now + STEP
        if not isinstance(step, int):
            servers[0].ended(now)
    right = joined(servers[1], guess)
    assert right > 8 or guess != STEP
    ledgers = [server.ledger for server in servers]
    for name in (*STAMPS, "gaps", "levels"):
        expected, own = (np.asarray(getattr(ledger, name)).tolist() for ledger in ledgers)
        assert own == expected, name
    free = [(server.session.pool.used, list(server.session.pool._freed)) for server in servers]
    assert free[0] == free[1]
    assert servers[0].session.pool._cached == servers[1].session.pool._cached


@pytest.mark.parametrize(
    "hindrance",
    [
        {"max_num_seqs": 2},
        {"max_num_batched_tokens": 9},
        {"long_prefill_token_threshold": 4},
        {"num_gpu_blocks_override": 6},
        {"max_waiting": 0},
    ],
)
def test_nobody_is_sure_to_join_where_something_is_in_the_way(hindrance: dict[str, int]) -> None:
    limits = rules(**{"max_num_seqs": 8, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 60, "block_size": 4})
    for plain, joins in ((limits, True), (limits.model_copy(update=hindrance), False)):
        sequences = [Sequence(0, 2, 20), Sequence(1, 2, 20), Sequence(2, 8, 9)]
        session = plain.session(Room(240, 0))
        for sequence in sequences[:2]:
            session.add(sequence)
        batch = session.schedule()
        assert batch is not None
        session.finish(batch)
        steady = session.steady(6, 1)
        assert steady is not None
        assert session.joins([Joiner(sequences[2], 3, 0, None)], steady) == joins
