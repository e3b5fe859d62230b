"""What a pass comes to in the recorder: critical times by part, moves around attention, and sums of visits in bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.engine.books.passes import PassSums
from moesim.engine.context import Context
from moesim.engine.kernel import kernel as k
from moesim.engine.programs.attention import Chain, Stage
from moesim.policies.baselines.static_popularity import StaticPopularity
from tests.policy_problems import GB, job, problem, system

SIZE = 3 * 1024 * 1024 * 2.0
"""Bytes of an expert."""


@pytest.fixture
def run() -> Context:
    """Experts in DRAM; a CPU that computes misses."""
    work = problem(system(hbm=60e6, ddr=8 * GB), work=job(requests=2, output=4))
    return Context(work, StaticPopularity(misses="cpu"), "kernel", timeline=False)


def test_critical_times_by_lane_and_by_part_of_a_layer(run: Context) -> None:
    run.ledger.critical({"gpu": 5, "cpu": 2}, "attention", 1)
    run.ledger.critical({"gpu": 4}, "experts", 1)
    run.ledger.critical({"gpu": 3}, "experts", 2)
    run.ledger.critical({"pcie:forward": 9}, "experts", None)  # behind all layers
    assert run.recorder.critical == {"gpu": 12, "cpu": 2, "pcie:forward": 9}
    held = {key: times.tolist() for key, times in run.recorder.breakdown.critical.items()}
    assert held == {("attention", "gpu"): [0, 5, 0], ("attention", "cpu"): [0, 2, 0], ("experts", "gpu"): [0, 4, 3]}


def layer_of(kind: int, *copies: Any) -> Any:
    return SimpleNamespace(kind=kind, copies=copies)


def test_bytes_around_attention_are_counted_for_each_layer_that_moves_them(run: Context) -> None:
    """Two layers of a kind whose activations cross and whose entries are stored, one of a kind that moves nothing."""
    still = Stage("gpu", np.array([1]))
    crossing = Stage("pcie:forward", np.array([1]), {"pcie:forward": 10.0, "ddr:read": 8.0}, "activations", "activation")
    stored = Stage("pcie:reverse", np.array([1]), {"pcie:reverse": 3.0}, "store KV", "kv")
    moving = Chain((still, crossing), 0, kv_store=stored)
    copy = SimpleNamespace(usage={"pcie:forward": 100.0}, nbytes=100.0)
    structure: Any = SimpleNamespace(
        layers=[[layer_of(0), layer_of(1)]], trailing=[layer_of(0, copy)], chains=[(moving,), (Chain((still,), 0),)],
        head_copies=[copy], rows=[copy],
    )  # fmt: skip
    run.ledger.attention(structure)
    assert run.recorder.moved == {"pcie:forward": 2 * 10.0 + 3 * 100.0, "ddr:read": 2 * 8.0, "pcie:reverse": 2 * 3.0}
    assert run.recorder.caused == {"activation": 2 * 10.0, "kv": 2 * 3.0, "demand": 3 * 100.0}


def test_sums_of_visits_become_bytes_pairs_and_times(run: Context) -> None:
    """Two visits: 6 pairs, 4 of them of residents; one upload of expert (0, 3), one expert of the CPU, (1, 2), of 2 pairs."""
    run.refresh()
    kinds, books, recorder = run.placement.kinds(), run.books, run.recorder
    assert kinds[0] == ("ddr", SIZE)
    books.turn_to("decode")
    books.add(k.B_VISITS, np.array([1, 1, 0]))
    books.add(k.B_ACTIVATIONS, np.array([3, 3, 0]))
    books.add(k.B_HITS, np.array([3, 1, 0]))
    books.add(k.B_UPLOADS, np.array([1, 0, 0]))
    copies, runs = np.zeros((3, 8), dtype=np.int64), np.zeros((2, 3, 8), dtype=np.int64)
    copies[0, 3], runs[0, 1, 2], runs[1, 0, 3] = 1, 1, 1
    books.add(k.B_COPIES, copies)
    books.add(k.B_RUNS, runs)
    gpu, cpu = np.zeros(3, dtype=np.int64), np.zeros(k.SIDE_BOOKS, dtype=np.int64)
    gpu[k.G_TOKENS], gpu[k.G_TIME] = 4, 700
    cpu[:3] = 2, 1, 500  # pairs, tokens whose state crosses, ps
    books.add(k.B_GPU, gpu)
    books.add(k.B_SIDES, cpu)
    books.add(k.B_TIME, np.array([10, 20, 0, 30, 40, 0]))
    assert run.ledger.close_pass("decode", run.machine.program.lanes) == PassSums(6, 4, 1)
    assert recorder.layer_visits == 2
    assert recorder.rounded == 4, "times of an upload, of an expert on the GPU, and of two visits"
    assert recorder.expert_tokens == {"gpu": 4, "cpu": 2}
    assert (recorder.layers.attention.tolist(), recorder.layers.experts.tolist()) == ([10, 20, 0], [30, 40, 0])
    state = 1024 * 2.0  # of a token, to the CPU and back
    assert recorder.caused == {"demand": SIZE, "activation": 2 * state}
    assert recorder.moved["pcie:forward"] == SIZE + state
    assert recorder.moved["pcie:reverse"] == state
    assert recorder.moved["ddr:read"] == 2 * SIZE + state  # an upload, an expert that the CPU reads, a state on its way back
    operations = recorder.breakdown.operations
    assert operations["decode", "cpu", "experts"] == (2 * 2 * 3 * 1024 * 1024, SIZE, 500)
    assert operations["decode", "gpu", "experts"] == (4 * 2 * 3 * 1024 * 1024, SIZE, 700)
    assert run.ledger.close_pass("decode", run.machine.program.lanes) == PassSums(0, 0, 0), "taken once"
    assert recorder.expert_tokens == {"gpu": 4, "cpu": 2}
