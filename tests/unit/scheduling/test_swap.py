"""Preemption by swap: who loses blocks finds them again, copies are timed and booked, rooms that do not exist are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_models import MODEL

import moesim
from moesim.errors import InputError
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.sequence import POOL, Batch, BlockMove, Sequence
from moesim.scheduling.server import Server
from moesim.scheduling.swap import SwapBook, SwapSpace
from tests.serving import serve, steps_of

WORKLOAD: dict[str, Any] = {
    "kind": "online",
    "requests": 2,
    "arrivals": {"kind": "constant", "rate": "1000000/s"},
    "prompt": 4,
    "output": 8,
    "routing": {"kind": "uniform"},
    "scheduler": {
        "kind": "continuous",
        "num_gpu_blocks_override": 4,
        "block_size": 4,
        "asynchronous": False,
        "prefix_caching": False,
        "swap": {"tier": "ddr", "room": "1 MB"},
    },
}
SCENARIO = {"name": "swap", "hardware": "rtx4090-desktop", "model": MODEL, "workload": WORKLOAD, "policy": "gpu_only"}


def _rules(room: int, **more: Any) -> Continuous:
    return Continuous(
        max_num_batched_tokens=16, max_num_seqs=4, block_size=4, swap=SwapSpace(tier="ddr", room=float(room)), **more
    )


def test_a_sequence_that_comes_back_computes_one_token_and_not_all_again() -> None:
    """Four blocks of four tokens: the second sequence loses its two blocks when the first needs a third."""
    rules = _rules(100, asynchronous=False, prefix_caching=False)
    swapped = steps_of(rules, [(4, 6), (4, 6)], room=16)
    again = steps_of(rules.model_copy(update={"swap": None}), [(4, 6), (4, 6)], room=16)
    assert swapped == [{0: 4, 1: 4}, *[{0: 1, 1: 1}] * 4, {0: 1}, {1: 1}]
    assert again == [{0: 4, 1: 4}, *[{0: 1, 1: 1}] * 4, {0: 1}, {1: 9}]


def test_blocks_leave_before_the_step_that_takes_their_place_and_come_back_before_their_own() -> None:
    moves: list[tuple[BlockMove, ...]] = []
    rules = _rules(100, asynchronous=False, prefix_caching=False)
    serve(rules, [(4, 6), (4, 6)], room=16, seen=lambda server, batch, now: moves.append(batch.moves))
    assert moves == [(), (), (), (), (), (BlockMove(2, POOL, "ddr"),), (BlockMove(2, "ddr", POOL),)]


def test_without_room_a_sequence_is_computed_again() -> None:
    server = serve(_rules(4, asynchronous=False, prefix_caching=False), [(4, 6), (4, 6)], room=16)
    book = server.session.swap
    assert book is not None
    assert (book.total, book.without_room, book.sequences_out, book.blocks_in) == (1, 1, 0, 0)


def test_what_the_prefix_cache_has_kept_is_not_copied_back() -> None:
    """Of the two blocks of the second sequence the first one of the pool's free list is taken, the tail; its head is found."""
    server = serve(_rules(100, asynchronous=False), [(4, 6), (4, 6)], room=16)
    book = server.session.swap
    assert book is not None
    assert (book.blocks_out, book.blocks_in) == (2, 1)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=2, max_size=12),
    room=st.integers(52, 120),
    aside=st.integers(0, 80),
    asynchronous=st.booleans(),
    order=st.sampled_from(["fcfs", "priority"]),
)
def test_tokens_blocks_and_requests_are_conserved(
    requests: list[tuple[int, int]], room: int, aside: int, asynchronous: bool, order: Any
) -> None:
    """I3: never more blocks than the space has; I2: what went out came back, was found in the pool or is given up; I12."""
    held = np.zeros(len(requests), dtype=np.int64)

    def seen(server: Server, batch: Batch, now: int) -> None:
        book = server.session.swap
        assert book is not None
        assert 0 <= book.used <= book.total == aside // 4
        held[[sequence.number for sequence in batch.preempted]] = 0
        held[batch.numbers] += batch.from_prefix
        assert (batch.attended - batch.new_tokens == held[batch.numbers]).all()
        held[batch.numbers] = batch.attended

    rules = _rules(max(aside, 1), asynchronous=asynchronous, order=order)
    server = serve(rules, requests, room=room, seen=seen)
    book, ledger = server.session.swap, server.ledger
    assert book is not None
    assert (ledger.finish >= 0).all()
    assert (server.session.pool.used, book.used) == (0, 0)
    assert book.blocks_in <= book.blocks_out
    assert book.sequences_in <= book.sequences_out
    preempted = sum(sequence.preemptions for sequence in server.traffic.sequences)
    assert book.sequences_out + book.without_room <= preempted


@pytest.mark.parametrize("engine", ["kernel", "reference"])
def test_one_swap_out_and_in_summed_by_hand(engine: str) -> None:
    """Two blocks of four tokens of 3,072 B cross PCIe 4 at 26.5 GB/s, out behind 17.6 us and back behind 17.08 us."""
    result = moesim.run(SCENARIO, **{"simulation.engine": engine})
    nbytes = 2 * 4 * (2 * 3 * 4 * 64 * 2)
    out, back = 17.6e-6 + nbytes / 26.5e9, 17.08e-6 + nbytes / 26.5e9
    steps = result.columns["steps"]
    pauses = steps["start_s"][1:] - steps["end_s"][:-1]
    assert pauses[pauses > 0].tolist() == pytest.approx([out, back], abs=2e-12)
    assert result.summary["makespan_s"] == pytest.approx(float(steps["step_time_s"].sum()) + out + back, abs=1e-11)
    moved = {"ddr:read", "ddr:write", "hbm:read", "hbm:write", "pcie:forward", "pcie:reverse"}
    assert result.summary["bytes"] == dict.fromkeys(moved, nbytes) | {"ddr:total": 2 * nbytes, "pcie:both": 2 * nbytes}
    assert result.details["caused_B"] == {"kv": 2 * nbytes}
    swap = result.details["serving"]["swap"]
    assert (swap["sequences_out"], swap["sequences_in"], swap["blocks_out"], swap["blocks_in"]) == (1, 1, 2, 2)
    assert result.details["peak_B"]["ddr"] == 3 * 8 * (3 * 1024 * 2048 * 2) + 1e6


@pytest.mark.parametrize(
    ("swap", "more", "message"),
    [
        ({"tier": "cxl", "room": "1 GB"}, {}, "no host tier 'cxl' in this machine; it has ddr"),
        ({"tier": "hbm", "room": "1 GB"}, {}, "no host tier 'hbm' in this machine"),
        ({"tier": "ddr", "room": "90 TB"}, {}, "90 TB for KV blocks do not fit into 'ddr'"),
        (
            {"tier": "ddr", "room": "1 GB"},
            {"policy": {"kind": "cox_moe", "kv": "ddr"}},
            "keeps the KV cache in 'ddr'",
        ),
    ],
)
def test_a_swap_space_that_cannot_be_is_refused(swap: dict[str, str], more: dict[str, Any], message: str) -> None:
    workload = {**WORKLOAD, "scheduler": {**WORKLOAD["scheduler"], "swap": swap}}
    with pytest.raises(InputError) as caught:
        moesim.run({**SCENARIO, "workload": workload, **more})
    assert message in str(caught.value)


def test_the_book_of_a_swap_space_counts_blocks_there_and_back() -> None:
    book, first, second = SwapBook("ddr", 7), Sequence(0, 9, 2), Sequence(1, 9, 2)
    first.computed, second.computed = 17, 9
    assert book.take(first, 5)
    assert not book.take(second, 3), "two are free"
    assert book.take(second, 2)
    assert (book.tokens(first), book.tokens(second), book.tokens(Sequence(2, 1, 1))) == (17, 9, 0)
    assert (book.used, book.most, book.sequences_out, book.blocks_out, book.without_room) == (7, 7, 2, 7, 1)
    assert book.give_back(first, shared=2) == 3
    assert (book.used, book.most, book.tokens(first)) == (2, 7, 0)
    assert book.give_back(second, shared=3) == 0, "the prefix cache has more than what lies there"
    assert (book.used, book.sequences_in, book.blocks_in) == (0, 2, 3)
    book.drop(first)
    assert book.used == 0
