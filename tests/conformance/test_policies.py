"""Every registered policy keeps every promise of the conformance suite, with its defaults and with other parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest

from moesim.hardware import System
from moesim.plugins import BUILT_IN, find
from moesim.testing import PolicyCases, check_policy
from moesim.testing.cases import CASES
from moesim.testing.elsewhere import OtherProcess
from moesim.testing.worlds import World, small_worlds

TRIED: dict[str, list[dict[str, object]]] = {
    "on_demand": [{}],
    "static_popularity": [{}, {"rule": "global", "misses": "threshold"}],
    "lru": [{}],
    "cxl_expert": [{}, {"mode": "printed"}, {"migrate": 8, "hysteresis": 0.0, "link_share": 1.0}],
    "cxl_expert_gpu_only": [{}],
    "cxl_expert_near_data": [{}],
    "cox_moe": [{}],
    "moe_cxl": [{}, {"period": 2, "hysteresis": 0.0}, {"spread": "hash", "order": "tokens"}],
    "gpu_only": [{}],
    "random": [{}],
    "lfu": [{}],
    "fifo": [{}],
    "cache": [{}],
    "mixtral_offloading": [{}, {"speculate": 2}],
    "huang_buffering": [{}],
    "fiddler": [{}],
    "hybrimoe": [{}, {"choose": "impact"}],
    "ktransformers": [{}, {"strategy": "dynamic", "repick": 10}, {"strategy": "frequency", "defer": 1}],
    "llama_cpp": [{}],
    "ik_llama": [{}, {"least": 1}, {"least": 1, "relative": 0.3}],
    "llama_cpp_cache": [{}, {"admit": 2, "window": 4, "most_tokens": 64, "pipeline": "overlap"}],
    "vllm_cpu_misses": [{}],
    "vllm_expert_cache": [{}, {"start": "empty"}],
    "sglang_managed": [{}, {"period": 1, "moves": 2}],
    "flashmoe": [{}, {"skill": 1.0}],
    "dali": [{}, {"window": 1, "swaps": 1, "prefetch": False}],
    "onnxruntime": [{}, {"resplit": False, "experts": 9, "margin": 0.0}],
    "llama_cpp_stream": [{}, {"eviction": "hotness", "period": 3}],
    "smoe": [{}, {"prefetch": False, "margin": 0.9}],
    "freetoken": [{}, {"both_from": 0.0}],
    "accelerate": [{}],
    "vllm_offload": [{}],
    "deepspeed_moe": [{}],
    "monde": [{}],
    "dynande": [{}],
    "trimoe": [{}],
    "hobbit": [{}, {"batch": 2, "depth": 1}],
    "edgemoe": [{}, {"buffer": None}, {"importance": "chance"}],
    "daop": [{}, {"first": 1}],
    "context_cxl_ndp": [{}],
    "belady": [{}],
    "belady_global": [{}],
    "best_static": [{}],
    "oracle_prefetch": [{}],
    "oracle_dispatch": [{}],
    "optimum": [{"gap": 0.05, "limit": 450}],
    "flexgen": [{}, {"decode": "max", "gpu_batch": 2, "kv_cpu": True}],
    "moe_lightning": [{}, {"micro_batch": 4, "gpu_share": 1.0}],
    "zero_inference": [{}, {"kv_offload": True, "prefill_batch": 3}],
    "zero_infinity": [{}],
    "moesys": [{}],
    "lia": [{}],
    "moe_gen": [{}, {"attention_batch": 2, "cpu_share": 0.5}],
    "moe_lens": [{}],
    "prefetch": [{}, {"predictor": {"kind": "history", "order": 2}, "depth": 2}],
    "promoe": [{}],
    "adapmoe": [{}],
    "pre_gated": [{}, {"cached": 0.5}],
    "moe_infinity": [{}, {"prefetch": True, "eviction": "activation"}],
    "finemoe": [{}],
    "cxl_ndp": [{}, {"bits": 4, "misses": "cpu"}],
    "rmai": [{}, {"start": "empty", "cache": 0.01}],
}
"""Policy -> parameters that it is tried with: add a line for a new policy, `[{}]` for its defaults."""

LABELS = "labels_mean_nothing"
KNOWN = {
    ("moe_cxl-hash-tokens", LABELS): "hash sharding spreads experts by their ids, as published",
    ("random", LABELS): "residents and homes are drawn at random, one draw per label",
    ("cache", LABELS): "eviction: random draws its victims at random, one draw per label",
    ("huang_buffering", LABELS): "last in, first out, and experts of one visit come in by id, as published",
    ("ktransformers", LABELS): "strategy: uniform takes the lowest expert ids, as published",
}
"""(parameters, case) -> why the promise is not kept; strict, so that a mended policy takes its line away."""

INAPPLICABLE = {"labels_mean_nothing", "no_peeking", "memoryless_is_honest"}
"""Cases of promises that not every policy makes."""


def peers() -> World:
    """A world with the memory of a peer behind RDMA, received into a DRAM that is too small."""
    base = next(world for world in small_worlds() if world.name == "storage")
    tiers = {**base.system.model_dump(exclude_unset=True)["tiers"]}
    tiers["peer"] = {"kind": "remote", "at": "peer", "capacity": 1e9, "read": 100e9, "latency": 1e-7, "stage": "ddr"}
    del tiers["ssd"]
    whole = base.system.model_dump(exclude_unset=True)
    links = {name: link for name, link in whole["links"].items() if name != "to_ssd"}
    links["rdma"] = {"ends": ["peer", "host"], "rate": 12e9, "setup": 2.5e-6}
    system = System.model_validate({**whole, "tiers": tiers, "links": links})
    return replace(base, name="peers", summary="DRAM too small, the memory of a peer", system=system)


OWN_WORLDS = {"rmai": [*small_worlds(), peers()]}
"""Policy -> worlds, where the shipped ones have no machine for it."""

BRIEFLY = ("gpu_cpu", "gpu_cpu_even", "cxl", "near_data", "gpu_host")
"""Worlds for further choices of parameters: machines that differ from these in the home of experts alone are for the first."""


class Tried(NamedTuple):
    """One policy with one choice of parameters."""

    name: str
    parameters: dict[str, object]

    @property
    def label(self) -> str:
        """What the test is called."""
        return "-".join([self.name, *(str(value) for value in self.parameters.values())])

    @property
    def worlds(self) -> list[World]:
        """Where it is tried: everywhere with the first choice of parameters, briefly with further ones."""
        everywhere = OWN_WORLDS.get(self.name, small_worlds())
        first = self.name in OWN_WORLDS or self.parameters == TRIED[self.name][0]
        return everywhere if first else [world for world in everywhere if world.name in BRIEFLY]


ALL = [Tried(name, parameters) for name, choices in TRIED.items() for parameters in choices]


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    """Another process, for all policies in turn."""
    with OtherProcess() as process:
        yield process


@pytest.mark.parametrize("tried", ALL, ids=lambda tried: tried.label)
def test_every_promise_is_kept(tried: Tried, process: OtherProcess) -> None:
    policy = find("policies", tried.name)(**tried.parameters)
    report = check_policy(policy, worlds=tried.worlds, process=process, quiet=True)
    verdicts = {verdict: {case.name for case in report.cases if case.verdict == verdict} for verdict in ("fail", "skip")}
    assert verdicts["fail"] == {case for label, case in KNOWN if label == tried.label}, report
    assert verdicts["skip"] <= INAPPLICABLE, report
    assert len(report.cases) == len(CASES)


def test_the_class_has_a_test_for_every_case_and_no_other() -> None:
    tests = {name.removeprefix("test_") for name in dir(PolicyCases) if name.startswith("test_")}
    assert tests == set(CASES)


def test_what_is_known_to_be_broken_names_policies_and_cases() -> None:
    assert {label for label, _ in KNOWN} <= {tried.label for tried in ALL}
    assert {case for _, case in KNOWN} <= set(CASES)


def test_every_registered_policy_is_tried() -> None:
    """A new policy needs a line in TRIED, a removed one loses it; plug-ins installed beside moesim test themselves."""
    assert set(TRIED) == set(BUILT_IN["policies"])
