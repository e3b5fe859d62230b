"""What holds for every scheduler, job and memory: I12 (requests are conserved, Little's law) and I3 for KV blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.scheduling.base import Batching
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.sequence import Batch
from moesim.scheduling.server import Server
from moesim.scheduling.slots import Slots
from moesim.scheduling.static import Static
from tests.serving import serve

REQUESTS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 60)), min_size=1, max_size=14)
RULES: dict[str, Batching] = {
    "continuous": Continuous(max_num_batched_tokens=16, max_num_seqs=6, block_size=4),
    "synchronous": Continuous(max_num_batched_tokens=16, max_num_seqs=6, block_size=4, asynchronous=False),
    "whole prompts": Continuous(max_num_batched_tokens=32, max_num_seqs=6, block_size=4, chunked_prefill=False),
    "priority": Continuous(max_num_batched_tokens=16, max_num_seqs=6, block_size=4, order="priority"),
    "prefill_first": PrefillFirst(max_prefill_tokens=16, chunked_prefill_size=12, page_size=4, conservativeness=0.2),
    "mixed": PrefillFirst(max_prefill_tokens=16, chunked_prefill_size=12, page_size=4, mixed_chunk=True, conservativeness=0.2),
    "slots": Slots(slots=3, n_batch=16, n_ubatch=5),
    "static": Static(batch=4, max_num_batched_tokens=32, block_size=4),
}
BUDGET = {"continuous": 16, "synchronous": 16, "whole prompts": 32, "priority": 16, "slots": 5}
MOST = {"continuous": 6, "synchronous": 6, "whole prompts": 6, "priority": 6, "slots": 3, "static": 4}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=15, deadline=None)
@given(requests=REQUESTS, room=st.integers(40, 200))
def test_requests_tokens_and_blocks_are_conserved(name: str, requests: list[tuple[int, int, int]], room: int) -> None:
    """I12 arrived = completed + refused; I1 tokens; I3 blocks within the pool; the budget of a step holds."""
    ordered = sorted(requests, key=lambda request: request[2])
    lengths, arrival = [request[:2] for request in ordered], [request[2] for request in ordered]
    held = np.zeros(len(lengths), dtype=np.int64)

    def seen(server: Server, batch: Batch, now: int) -> None:
        pool = server.session.pool
        assert 0 <= pool.used <= pool.total
        assert batch.tokens <= BUDGET.get(name, batch.tokens)
        assert len(server.session.running) <= MOST.get(name, len(lengths))
        numbers = batch.numbers
        assert len(set(numbers.tolist())) == len(numbers)
        assert (batch.new_tokens >= 1).all()
        for sequence in batch.sequences:
            assert now >= arrival[sequence.number]
        held[numbers] = batch.attended

    server = serve(RULES[name], lengths, arrival=arrival, room=room, seen=seen)
    ledger = server.ledger
    done = ledger.finish >= 0
    refused = np.isin(np.arange(len(lengths)), list(ledger.refused))
    assert (done ^ refused).all()
    prompt, output = np.array(lengths).T
    gap, tokens = np.asarray(ledger.gaps).T
    assert tokens.sum() == (output - 1)[done].sum()
    assert (gap * tokens).sum() == (ledger.finish - ledger.first_token)[done].sum()
    assert gap.min(initial=1) > 0
    assert (held[done] == (prompt + output - 1)[done]).all()
    assert (np.array(arrival)[done] <= ledger.queued[done]).all()
    assert (ledger.queued[done] <= ledger.scheduled[done]).all()
    assert (ledger.scheduled[done] < ledger.first_token[done]).all()
    assert (ledger.first_token[done] <= ledger.finish[done]).all()
    assert server.session.pool.used == 0


@pytest.mark.parametrize("name", RULES)
def test_requests_that_arrive_first_are_scheduled_first(name: str) -> None:
    generator = np.random.default_rng(5)
    lengths = [(int(p), int(o)) for p, o in generator.integers(1, 12, (60, 2))]
    arrival = np.sort(generator.integers(0, 100, 60)).tolist()
    ledger = serve(RULES[name], lengths, arrival=arrival, room=400).ledger
    assert not ledger.refused
    assert (np.diff(ledger.scheduled) >= 0).all()


@pytest.mark.parametrize(("asynchronous", "steps"), [(False, 0.5), (True, 1.5)])
def test_a_probe_waits_for_the_rest_of_a_step_and_for_the_one_composed_ahead(asynchronous: bool, steps: float) -> None:
    """An arrival sees the rest of a step, half of it on average, and asynchronously one more."""
    generator = np.random.default_rng(7)
    step = 1000
    probes = np.sort(generator.integers(0, 400 * step, 4000))
    lengths = [(1, 500), *[(1, 1)] * len(probes)]
    rules = Continuous(max_num_seqs=512, asynchronous=asynchronous)
    ledger = serve(rules, lengths, arrival=[0, *probes.tolist()], step_time=lambda batch: step).ledger
    waits = ledger.first_token[1:] - step - probes
    error = 3 * step / np.sqrt(12 * len(probes))
    assert waits.mean() == pytest.approx(steps * step, abs=error)
