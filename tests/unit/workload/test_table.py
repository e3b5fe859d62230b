"""Routing tables: counts equal a direct count, whatever the batch."""

import numpy as np

from moesim.workload.table import Job, RoutingTable, distinct


def table(requests=6, passes=4, layers=3, experts=16, top_k=2, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((requests, passes, layers, experts)), axis=-1)[..., :top_k].astype(np.uint8)
    prefill = rng.integers(0, 9, (requests, layers, experts)).astype(np.uint32)
    return RoutingTable(prefill, ids, experts, np.full((layers, experts), 1 / experts))


def test_decode_counts_equal_a_direct_count():
    t, chosen = table(), np.array([0, 2, 5])
    counts = t.decode_counts(chosen, 1)
    for layer in range(3):
        for expert in range(16):
            assert counts[layer, expert] == (t.decode[chosen, 1, layer] == expert).sum()
    assert counts.dtype == np.int64


def test_a_run_of_passes_counts_each():
    t, chosen = table(), np.array([0, 2, 5])
    counts = t.pass_counts(chosen, 1, 4)
    assert counts.shape == (3, 3, 16)
    for number, position in enumerate((1, 2, 3)):
        assert np.array_equal(counts[number], t.decode_counts(chosen, position))
    assert t.pass_counts(chosen, 2, 2).shape == (0, 3, 16)
    assert t.pass_counts(chosen[:0], 0, 2).sum() == 0


def test_mixed_positions():
    t = table()
    both = t.mixed_counts(np.array([1, 4]), np.array([0, 3]))
    assert np.array_equal(both, t.decode_counts(np.array([1]), 0) + t.decode_counts(np.array([4]), 3))


def test_prefill_counts_add_up():
    t, chosen = table(), np.array([1, 3])
    assert np.array_equal(t.prefill_counts(chosen), t.prefill[1].astype(int) + t.prefill[3])
    assert t.prefill_counts(chosen).dtype == np.int64


def test_no_requests_no_counts():
    assert table().decode_counts(np.array([], dtype=np.int64), 0).sum() == 0


def test_sixteen_bit_ids():
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((2, 1, 2, 400)), axis=-1)[..., :3].astype(np.uint16)
    t = RoutingTable(np.zeros((2, 2, 400), np.uint32), ids, 400, np.full((2, 400), 1 / 400))
    assert t.decode_counts(np.arange(2), 0).sum() == 12
    assert t.decode_counts(np.arange(2), 0)[1, ids[0, 0, 1, 0]] >= 1


def test_distinct():
    assert distinct(np.array([[0, 2, 1], [0, 0, 7]])).tolist() == [2, 1]


def test_job_passes():
    job = Job(np.zeros(2), np.array([3, 4]), np.array([1, 6]), layers=2)
    assert (job.requests, job.passes, job.attention) == (2, 5, True)
