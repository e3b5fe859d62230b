"""Caches of serving programs beside a CPU: who is admitted, who is fetched, who computes."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.contract import Uses
from moesim.policies.caching.vllm_expert_cache import LayerLfru
from moesim.policies.in_place.dali import assign
from moesim.policies.in_place.vllm_cpu_misses import copied_in_prefill
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import load

SMALL = {"workload.requests": 1, "workload.prompt": 16, "workload.output": 12}


def summary(policy: dict[str, object], **sets: object) -> dict[str, float]:
    scenario = load("compare/offline-qwen3-30b", policy=policy, sets={**SMALL, **sets})
    return run_loaded(scenario, RunOptions(bound=False)).summary


def test_assignment_keeps_the_later_end_low_and_takes_the_widest_gap_first() -> None:
    gpu, cpu = np.array([4.0, 4.0, 1.0, 9.0]), np.array([5.0, 3.0, 8.0, 1.0])
    # gaps 1, 1, 7, 8: expert 3 to the CPU, expert 2 to the GPU, then 0 to the GPU and 1 to the CPU
    assert assign(np.arange(4), gpu, cpu).tolist() == [False, True, False, True]


@pytest.mark.parametrize(("tokens", "published"), [(1, 80), (1023, 80), (1024, 128), (4096, 176), (8192, 240), (8193, 256)])
def test_prefill_copies_what_the_code_says(tokens: int, published: int) -> None:
    assert copied_in_prefill(tokens, 256) == published
    assert copied_in_prefill(tokens, 64) == -(-published // 4)


def test_the_least_frequent_for_its_age_leaves() -> None:
    cache = LayerLfru(np.array([2]), 1, 3)
    cache.warm(np.array([[0.5, 0.3, 0.2]]))
    resident = np.array([[True, True, False]])

    def visit(clock: int, counts: list[int], uploaded: list[int]) -> tuple[list[int], list[int]]:
        up = np.zeros((1, 3), dtype=np.bool_)
        up[0, uploaded] = True
        stay, leave = cache.after(Uses(np.array([0]), np.array([clock]), np.array([counts]), up, resident))
        return np.flatnonzero(stay[0]).tolist(), np.flatnonzero(leave[0]).tolist()

    for clock in (1, 2, 3, 4):  # expert 0 is used often, expert 1 once and late
        visit(clock, [1, 0, 0], [])
    visit(5, [0, 1, 0], [])
    # at 7: 0 has 4 uses (and its share) for an age of 4, 1 has 1 for an age of 3: LRU would take 0
    assert visit(7, [0, 0, 1], [2]) == ([2], [1])


def test_admission_is_capped_whatever_the_misses() -> None:
    model_bytes = 48 * 2 * 9437184  # two experts in each layer and pass
    result = summary({"kind": "vllm_cpu_misses", "capacity": 16})
    decode = 11
    assert result["bytes"]["pcie:forward"] - _prefill_bytes() < 1.1 * decode * model_bytes


def _prefill_bytes() -> float:
    single = summary({"kind": "vllm_cpu_misses", "capacity": 16}, **{"workload.output": 1})
    return float(single["bytes"]["pcie:forward"])


def test_a_gate_copies_less_and_leaves_the_link_to_the_step() -> None:
    """Copies that no step waits for still hold the way that activations take: published as 5.6 against 10.0 tok/s."""
    free, gated = (summary({"kind": "llama_cpp_cache", "capacity": 16, "admit": admit}) for admit in (1, 3))
    assert gated["bytes"]["pcie:forward"] < 0.6 * free["bytes"]["pcie:forward"]
    assert gated["throughput_tok_s"] > free["throughput_tok_s"]


def test_misses_are_split_by_what_pcie_and_cpu_move() -> None:
    """Bytes over PCIe in decode are a share q of those of a cache that fetches everything it misses."""
    sets = {"workload.output": 24}
    every, split = (summary({"kind": "freetoken", "share": share}, **sets) for share in (1.0, 0.25))
    assert split["expert_tokens"]["cpu"] > 0
    assert split["bytes"]["pcie:forward"] < every["bytes"]["pcie:forward"]
    assert split["throughput_tok_s"] > every["throughput_tok_s"]


def test_the_critical_path_goes_past_a_copy_that_set_out_with_the_routing() -> None:
    """A result crosses behind a prefetch that the host set off when it knew the routing; a path that ends there is refused."""
    policy = {"kind": "dali", "capacity": 16}
    kernel, plain = (summary(policy, **{"workload.output": 3, "simulation.engine": e}) for e in ("kernel", "reference"))
    assert kernel["makespan_s"] == plain["makespan_s"]
