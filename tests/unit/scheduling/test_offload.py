"""The prefix cache below the pool: what lies where, what a request waits for, what crosses which link, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from served_models import MODEL

import moesim
from moesim.errors import InputError
from moesim.results.result import Result
from moesim.scheduling.base import Batching, Room
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.offload import BlockTiers, OffloadTier
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.sequence import POOL, Batch, BlockMove, Sequence
from moesim.scheduling.server import Server
from tests.serving import serve

BLOCK = 4 * (2 * 3 * 4 * 64 * 2)
"""Bytes of the keys and values of four tokens of the model."""
ROWS = "0,33,4,0,-1\n0.1,34,4,0,-1\n0.2,35,4,32,0\n0.3,33,4,32,1\n0.4,40,4,32,0\n"
HEADER = "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_infinite_cache,prefix_row\n"


def _keys(first: int, last: int) -> list[tuple[int, int]]:
    return [(0, block) for block in range(first, last)]


def test_the_head_of_a_prefix_stays_longest_and_what_finds_no_place_goes_down() -> None:
    tiers = BlockTiers([("ddr", 3), ("nvme", 2)], 4)
    assert tiers.store(_keys(0, 3)) == [BlockMove(3, POOL, "ddr", awaited=False)]
    assert tiers.store([(0, 0)]) == []  # it lies there already
    assert tiers.store(_keys(3, 5)) == [BlockMove(2, POOL, "ddr", awaited=False), BlockMove(2, "ddr", "nvme", awaited=False)]
    assert tiers.used == [3, 2]
    assert tiers.find(Sequence(0, 21, 1), 0) == [0, 1, 1, 0, 0]
    tiers.store(_keys(5, 7))
    assert tiers.used == [3, 2]
    assert tiers.find(Sequence(0, 30, 1), 0) == [1]


def test_a_block_that_comes_from_a_later_tier_is_stored_in_the_first_anew() -> None:
    tiers = BlockTiers([("ddr", 1), ("nvme", 4)], 4)
    tiers.store(_keys(0, 3))
    assert tiers.used == [1, 2]
    sequence = Sequence(0, 9, 1)
    assert tiers.find(sequence, 0) == [0, 1]
    assert tiers.fetch(sequence, 0, [0, 1]) == [
        BlockMove(1, "ddr", POOL, 0, awaited=False),
        BlockMove(1, "nvme", POOL, 0, awaited=False),
    ]
    assert tiers.hits == [0, 4, 4]
    tiers.raise_up((0, 1))
    assert tiers.store([(0, 1)]) == [BlockMove(1, POOL, "ddr", awaited=False), BlockMove(1, "ddr", "nvme", awaited=False)]
    assert tiers.find(sequence, 0) == [1, 0]


def test_others_run_while_a_request_waits_for_its_blocks() -> None:
    """Request 2 begins as request 0 did; of its two blocks the pool of 6 has forgotten the second when it arrives."""
    rules = Continuous(max_num_batched_tokens=64, max_num_seqs=4, block_size=4, offload=(OffloadTier(tier="ddr", room=400.0),))
    steps: list[tuple[dict[int, int], tuple[BlockMove, ...]]] = []

    def seen(server: Server, batch: Batch, now: int) -> None:
        steps.append((dict(zip(batch.numbers.tolist(), batch.new_tokens.tolist(), strict=True)), batch.moves))

    lengths, shared = [(9, 1), (17, 1), (9, 1), (1, 3)], [(), (), ((8, 0),), ()]
    server = serve(rules, lengths, arrival=[0, 10, 20, 20], room=24, seen=seen, shared=shared)
    stored = BlockMove(4, POOL, "ddr", awaited=False)
    assert steps[1] == ({1: 17}, (BlockMove(2, POOL, "ddr", awaited=False),))
    assert steps[2] == ({3: 1}, (BlockMove(1, "ddr", POOL, 2, awaited=False), stored))
    assert steps[3:5] == [({3: 1}, ()), ({3: 1, 2: 1}, ())]  # one step is composed ahead
    assert server.traffic.sequences[2].hits == 8
    assert server.session.tiers is not None
    assert server.session.tiers.hits == [4, 4]


def _served(rules: Continuous, lengths: list[tuple[int, int]], **more: Any) -> list[list[int]]:
    """Requests of each step."""
    steps: list[list[int]] = []
    serve(rules, lengths, seen=lambda server, batch, now: steps.append(batch.numbers.tolist()), **more)
    return steps


def test_who_has_fetched_blocks_runs_before_who_lost_them() -> None:
    """Request 2 lost its blocks and holds four of seven again; 3 and 4 grow beside it, and 4 loses its own.

    Behind 4, and then 3, request 2 would keep both from running again.
    """
    rules = Continuous(max_num_batched_tokens=8, max_num_seqs=2, block_size=4, asynchronous=False)
    rules = rules.model_copy(update={"offload": (OffloadTier(tier="ddr", room=400.0),)})
    lengths = [(1, 1), (13, 5), (11, 3), (1, 13), (1, 5)]
    steps = _served(rules, lengths, room=28)
    fetched = steps.index([3, 4])
    assert steps[:fetched] == [[0, 1], [1, 2], [1, 2], [1, 2], [1, 2], [1]]
    assert steps[fetched:] == [*[[3, 4]] * 4, [3], [3, 2], [3, 4], *[[3]] * 6]


def test_by_priority_who_has_fetched_blocks_runs_where_nobody_else_can() -> None:
    """Request 0 is the most urgent, arrives last, and needs blocks that 3 holds, which waits behind it."""
    rules = Continuous(max_num_batched_tokens=64, max_num_seqs=1, block_size=4, order="priority", asynchronous=False)
    rules = rules.model_copy(update={"offload": (OffloadTier(tier="ddr", room=400.0),)})
    lengths, shared = [(17, 1), (9, 1), (17, 1), (9, 1), (1, 3)], [(), (), (), ((8, 1),), ()]
    steps = _served(rules, lengths, arrival=[21, 0, 10, 20, 20], room=24, shared=shared)
    assert steps == [[1], [2], [4], [4], [4], [3], [0]]


def test_fetched_blocks_are_used_in_the_order_in_which_they_were_asked_for() -> None:
    """1 asked first and gets them last; both wait for the place that 0 has."""
    session = Continuous(max_num_seqs=1, max_num_batched_tokens=8, block_size=4).session(Room(40, 0))
    session.tiers = BlockTiers([("ddr", 8)], 4)
    sequences = [Sequence(0, 1, 4), Sequence(1, 9, 1), Sequence(2, 9, 1), Sequence(3, 9, 1)]
    session.tiers.store([(number, block) for number in (1, 2) for block in range(2)])
    for sequence in (*sequences[1:3], sequences[0], sequences[3]):
        session.add(sequence)
    assert session.schedule() is not None
    assert (session.running, session.loading) == (sequences[:1], sequences[1:3])
    session.landed([2])
    session.landed([1])
    assert list(session.waiting) == sequences[1:]


@settings(max_examples=80, deadline=None)
@given(
    seats=st.integers(1, 4),
    requests=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 40)), min_size=2, max_size=12),
    heads=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 30)), min_size=12, max_size=12),
    room=st.integers(44, 120),
    below=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    kind=st.sampled_from(["continuous", "prefill_first"]),
    ahead=st.booleans(),
    order=st.sampled_from(["fcfs", "priority"]),
)
def test_tokens_blocks_and_requests_are_conserved(
    seats: int,
    requests: list[tuple[int, int, int]],
    heads: list[tuple[int, int]],
    room: int,
    below: list[int],
    kind: str,
    ahead: bool,
    order: Any,
) -> None:
    """I3: no tier above its room; I1: each token is computed once, or found; I12: all that arrive are completed."""
    ordered = sorted(requests, key=lambda request: request[2])
    shared = [((tokens, owner),) if owner < number else () for number, (owner, tokens) in enumerate(heads[: len(ordered)])]
    held = np.zeros(len(ordered), dtype=np.int64)

    def seen(server: Server, batch: Batch, now: int) -> None:
        tiers, pool = server.session.tiers, server.session.pool
        assert tiers is not None
        assert 0 <= pool.used <= pool.total
        assert all(used <= total for used, total in zip(tiers.used, below, strict=True))
        held[[sequence.number for sequence in batch.preempted]] = 0
        held[batch.numbers] += batch.from_prefix
        assert (batch.attended - batch.new_tokens == held[batch.numbers]).all()
        held[batch.numbers] = batch.attended

    levels = tuple(OffloadTier(tier=f"tier {place}", room=4.0 * blocks) for place, blocks in enumerate(below))
    rules: Batching
    if kind == "continuous":
        rules = Continuous(
            max_num_batched_tokens=16, max_num_seqs=seats, block_size=4, offload=levels, asynchronous=ahead, order=order
        )
    else:
        rules = PrefillFirst(
            max_prefill_tokens=16,
            chunked_prefill_size=12,
            page_size=4,
            offload=levels,
            overlap=ahead,
            max_running_requests=seats,
        )
    lengths, arrival = [request[:2] for request in ordered], [request[2] for request in ordered]
    server = serve(rules, lengths, arrival=arrival, room=room, seen=seen, shared=shared)
    assert (server.ledger.finish >= 0).all()
    assert (server.session.pool.used, server.session.loading) == (0, [])
    assert (held == [prompt + output - 1 for prompt, output in lengths]).all()


def _run(folder: Path, offload: list[dict[str, str]], kind: str = "continuous", **more: Any) -> Result:
    (folder / "alike.csv").write_text(HEADER + ROWS)
    scheduler: dict[str, Any] = {"kind": kind, "offload": offload}
    if kind == "continuous":
        scheduler |= {"num_gpu_blocks_override": 11, "block_size": 4, "max_num_seqs": 4}
    else:
        scheduler |= {"page_size": 4, "kv_cache_memory": f"{12 * BLOCK} B", "max_running_requests": 4}
    workload = {
        "kind": "online",
        "arrivals": {"kind": "trace", "path": str(folder / "alike.csv")},
        "routing": {"kind": "uniform"},
        "scheduler": scheduler,
    }
    data = {"name": "alike", "hardware": "rtx4090-desktop", "model": MODEL, "workload": workload, "policy": "gpu_only"}
    return moesim.run(data, **more)


def test_one_fetch_summed_by_hand(tmp_path: Path) -> None:
    """The third request finds a block in the pool and seven in DRAM, which cross PCIe 4 at 26.5 GB/s behind 17.08 us."""
    result = _run(tmp_path, [{"tier": "ddr", "room": "10 MB"}])
    requests, steps = result.columns["requests"], result.columns["steps"]
    assert requests["cached_tokens"].tolist() == [0, 0, 32, 32, 32]
    begins = steps["start_s"][steps["start_s"] >= 0.2][0]
    assert begins - 0.2 == pytest.approx(17.08e-6 + 7 * BLOCK / 26.5e9, abs=1e-11)
    table = result.frame("kv_tiers")
    hits = {tier: int(table[table.tier == tier].hit_tokens.sum()) for tier in ("hbm", "ddr")}
    assert sum(hits.values()) == 96
    assert [(row["tier"], row["hit_tokens"]) for row in result.details["serving"]["kv_tiers"]] == [*hits.items()]


def test_bytes_on_links_are_those_of_the_blocks_that_crossed(tmp_path: Path) -> None:
    """I2: what was found below the pool crossed PCIe once; what left the pool is what it computed, whole blocks only."""
    result = _run(tmp_path, [{"tier": "ddr", "room": "130 kB"}, {"tier": "nvme", "room": "10 MB"}])
    moved, tiers = result.summary["bytes"], result.details["serving"]["kv_tiers"]
    assert moved["pcie:forward"] == sum(row["hit_tokens"] for row in tiers[1:]) / 4 * BLOCK
    assert moved["nvme:read"] == tiers[2]["hit_tokens"] / 4 * BLOCK > 0
    assert moved["pcie:reverse"] % BLOCK == moved["nvme:write"] % BLOCK == 0
    assert moved["hbm:write"] == moved["pcie:forward"]
    assert tiers[1]["most"] == tiers[1]["kv_blocks"] == 130_000 // BLOCK
    reserved = {"ddr": 130_000, "nvme": 10_000_000}
    lone = _run(tmp_path, [])
    assert lone.details["serving"]["kv_tiers"] == []
    for tier, nbytes in reserved.items():
        assert result.details["peak_B"][tier] - lone.details["peak_B"].get(tier, 0) == nbytes


def test_both_engines_move_blocks_alike(tmp_path: Path) -> None:
    levels = [{"tier": "ddr", "room": "130 kB"}, {"tier": "nvme", "room": "10 MB"}]
    small_cache = {"kind": "lru", "capacity": 4}  # where all experts are resident, the cache has what is left of GPU memory
    for policy, kind in (("gpu_only", "continuous"), ("lru", "continuous"), (small_cache, "prefill_first")):
        engines = ({"simulation.engine": engine} for engine in ("kernel", "reference"))
        compiled, plain = (_run(tmp_path, levels, kind, policy=policy, **engine) for engine in engines)
        assert sum(row["hit_tokens"] for row in compiled.details["serving"]["kv_tiers"][1:]) > 0
        assert compiled.summary["bytes"] == pytest.approx(plain.summary["bytes"], rel=1e-12)
        for table in ("requests", "steps", "kv_tiers"):
            for name, values in compiled.columns[table].items():
                assert values.tolist() == plain.columns[table][name].tolist(), (policy, table, name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prefix_caching": False}, "offload: without prefix_caching no block is looked for"),
        ({"swap": {"tier": "ddr", "room": 1.0}}, "leave swap out"),
        ({"offload": [{"tier": "ddr", "room": 1.0}] * 2}, "a tier stands there twice"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Continuous.model_validate({"offload": [{"tier": "ddr", "room": 1.0}], **more})


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"tier": "cxl", "room": "1 GB"}, "workload.scheduler.offload.0.tier: no host tier 'cxl'"),
        ({"tier": "nvme", "room": "900 TB"}, "workload.scheduler.offload.0.room: 900 TB for KV blocks do not fit"),
        ({"tier": "ddr", "room": "1 kB"}, "workload.scheduler.offload.0.room: less than one block of 4 tokens"),
    ],
)
def test_a_tier_that_cannot_keep_blocks_is_refused(level: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _run(tmp_path, [level])
    assert message in str(caught.value)
