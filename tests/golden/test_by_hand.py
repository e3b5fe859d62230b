"""Three runs whose every figure is summed by hand: uploads on demand, a GPU that holds everything, experts on the CPU.

One layer, 4 experts of 2 matrices of 500 x 1,000 16-bit weights (2 MB each), all of them for every token. Dense work is the
larger of bytes over 1 TB/s and FLOP over 10 TFLOPS, calls are free, a token takes 5 us per expert on the GPU, 50 us on the CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import moesim
from moesim.results.result import Result

US, PJ = 1e-6, 1e-12
MODEL: dict[str, Any] = {
    "name": "hand", "hidden": 500, "layers": 1, "moe_layers": [0], "experts": 4, "top_k": 4, "expert_width": 1000,
    "matrices": 2, "attention": {"kind": "gqa", "heads": 5, "kv_heads": 1, "head_dim": 100}, "vocab": 1000,
}  # fmt: skip
DEVICES: dict[str, Any] = {
    "gpu": {
        "kind": "gpu", "at": "gpu", "memory": "hbm", "compute": "10 TFLOPS", "experts": {"kind": "per_token", "time": "5 us"},
        "gemm": {"streaming": 1.0, "efficiency": 1.0, "q": float("inf")}, "attention": {"streaming": 1.0, "efficiency": 0.5},
        "power_idle": "100 W", "power_active": "400 W", "price": "2000 USD",
    },
    "cpu": {
        "kind": "cpu", "at": "host", "memory": "ddr", "kernels": {"amx": {"rate": "1 TFLOPS", "bandwidth": "10 GB/s"}},
        "experts": {"kind": "per_token", "time": "50 us"}, "power_idle": "50 W", "power_active": "150 W", "price": "500 USD",
    },
}  # fmt: skip
DDR: dict[str, Any] = {
    "kind": "ddr", "at": "host", "capacity": "100 GB", "read": "100 GB/s", "energy": "150 pJ/B", "price": "5 USD/GB",
}  # fmt: skip
PCIE: dict[str, Any] = {"ends": ["host", "gpu"], "rate": "1 GB/s", "setup": "10 us", "serial": True, "energy": "60 pJ/B"}
LAYER: dict[str, Any] = {"kind": "layer_batch", "tokens": 10, "routing": {"kind": "uniform"}}
PROMPT: dict[str, Any] = {"kind": "offline", "requests": 1, "prompt": 4, "output": 2, "routing": {"kind": "uniform"}}
PRICE = 2000 + 500 + 100 * 5
"""USD of GPU, CPU and 100 GB of DRAM."""
LIFE = 3 * 365 * 86400
"""Seconds over which they are paid."""
KWH = 0.10 / 3.6e6
"""USD per joule."""


@cache
def run(policy: str, layer: bool, hbm: str = "1 GB") -> Result:
    tiers = {"hbm": {"kind": "hbm", "at": "gpu", "capacity": hbm, "read": "1 TB/s", "energy": "40 pJ/B"}, "ddr": DDR}
    machine = {"kind": "system", "name": "hand", "devices": DEVICES, "tiers": tiers, "links": {"pcie": PCIE}}
    work = {"model": MODEL, "workload": LAYER if layer else PROMPT, "policy": policy, "runtime": "free"}
    return moesim.run({"name": "hand", "hardware": machine, **work})


def uploads() -> Result:
    return run("on_demand", layer=True)


def whole() -> Result:
    return run("gpu_only", layer=False)


def in_place() -> Result:
    return run("fiddler", layer=True, hbm="3 MB")


EXACT = {"rel": 1e-12}
IDS = 10 * US + 4 * 4 * 10 / 1e9
"""The ids of 4 experts of 10 tokens, 4 bytes each, are read back: 160 B behind a set-up."""
UPLOAD = 10 * US + 2e6 / 1e9
"""An expert of 2 MB at 1 GB/s."""


def test_uploads_follow_each_other_and_the_last_expert_runs_alone() -> None:
    result = uploads()
    last = 10 * 5 * US  # the other three run beside the next upload: 50 us are less than 2,010
    assert result.summary["makespan_s"] == pytest.approx(IDS + 4 * UPLOAD + last, **EXACT)  # 8,100.16 us
    critical = {"pcie:reverse": IDS, "pcie:forward": 4 * UPLOAD, "gpu": last}
    assert result.details["critical_s"] == pytest.approx(critical, **EXACT)


def test_bytes_of_uploads_and_of_expert_ids() -> None:
    result, down, up = uploads(), 4 * 2e6, 4 * 4 * 10.0
    sides = {"ddr:read": down, "pcie:forward": down, "hbm:write": down, "hbm:read": up, "pcie:reverse": up, "ddr:write": up}
    assert result.summary["bytes"] == sides
    assert result.details["caused_B"] == {"demand": down, "routing": up}


def test_energy_of_uploads() -> None:
    seconds = IDS + 4 * UPLOAD + 10 * 5 * US
    idle, active = (100 + 50) * seconds, (400 - 100) * 4 * 10 * 5 * US  # 1.215024 J and 0.06 J
    moved = (4 * 2e6 + 160) * (150 + 60 + 40) * PJ  # read here, across, written there: 0.00200004 J
    assert uploads().summary["energy_J"] == pytest.approx(idle + active + moved, **EXACT)


def test_cost_of_uploads() -> None:
    result = uploads().summary
    capital = PRICE * result["makespan_s"] / LIFE  # 3,000 USD x 8.1 ms / 3 years = 2.57e-7 USD
    electricity = result["energy_J"] * KWH  # 3.55e-8 USD
    assert result["cost_usd_per_Mtok"] == pytest.approx((capital + electricity) / 10 * 1e6, **EXACT)  # of 10 tokens: 0.0292 USD


def test_the_bound_of_the_layer_shares_the_experts_between_gpu_and_cpu() -> None:
    shared = 1 / (1 / (40 * 5 * US) + 1 / (40 * 50 * US))  # all resident; ten elevenths on the GPU: 181.8 us
    assert uploads().summary["bound_tok_s"] == pytest.approx(10 / shared, rel=1e-6)


QKV = 500 * (500 + 100 + 100) * 2 / 1e12
"""Reading 350,000 weights: 0.7 us, more than 2.8 MFLOP at 10 TFLOPS."""
OUT, ROUTER, HEAD = 500 * 500 * 2 / 1e12, 500 * 4 * 2 / 1e12, 1000 * 500 * 2 / 1e12
CORE = 10 * 4 * 500 / (10e12 * 0.5)
"""4 tokens attend to 1 + 2 + 3 + 4 = 10; scores and sums take 4 x 500 FLOP each, at half of the peak: 4 ns."""
ACROSS = {"qkv": (500 + 700) * 2 / 1e12, "out": (500 + 500) * 2 / 1e12, "router": 500 * 2 / 1e12, "head": 500 * 2 / 1e12}
"""Activations in and out, of one token."""
DENSE = QKV + OUT + ROUTER + HEAD + 4 * (ACROSS["qkv"] + ACROSS["out"] + ACROSS["router"]) + ACROSS["head"]
"""Of the prompt, without the core."""
STEP = QKV + OUT + ROUTER + HEAD + sum(ACROSS.values()) + 5 * 4 * 500 / (10e12 * 0.5)
"""Of one token that attends to 5, with its core."""
FIRST, SECOND = DENSE + CORE + 4 * 4 * 5 * US, STEP + 4 * 5 * US


def test_time_of_a_prompt_and_a_step() -> None:
    summary = whole().summary
    assert summary["ttft_s"]["mean"] == pytest.approx(FIRST, **EXACT)  # 82.2306 us
    assert summary["tpot_s"]["mean"] == pytest.approx(SECOND, **EXACT)  # 22.2124 us
    assert summary["prefill_tok_s"] == pytest.approx(4 / FIRST, **EXACT)
    assert summary["decode_tok_s"] == pytest.approx(1 / SECOND, **EXACT)
    assert summary["bytes"] == {}
    assert summary["hit_rate"] == 1.0


def test_what_lies_in_gpu_memory() -> None:
    """Experts; attention, router, embedding and head; a KV cache of 6 tokens; activations of the 4 tokens of the prompt.

    Of these the experts' are larger than attention's: two matrices make 1,000 numbers each of a token for each of 4 experts.
    """
    experts, weights = 4 * 2e6, 2 * (350_000 + 250_000 + 2_000 + 2 * 500_000)
    cache = 6 * 2 * 100 * 2
    activations = 3 * 4 * 500 * 2 + 4 * 4 * 2 * 1000 * 2  # states in, out and gathered; both intermediates of 4 experts
    assert whole().details["peak_B"]["hbm"] == experts + weights + cache + activations


def test_energy_and_cost_of_a_prompt_and_a_step() -> None:
    summary, seconds = whole().summary, FIRST + SECOND
    joules = (400 + 50) * seconds  # the GPU works all the time, the CPU waits: 0.047 J
    assert summary["energy_J"] == pytest.approx(joules, **EXACT)
    assert summary["cost_usd_per_Mtok"] == pytest.approx((PRICE * seconds / LIFE + joules * KWH) / 2 * 1e6, **EXACT)


def test_the_bound_counts_dense_work() -> None:
    """Experts take ten times as long on the CPU, dense work a hundred times, the prompt's core (20 ns) five: it goes first.

    What then moves over takes the GPU a tenth of the time: with x s of experts on the CPU both end at GPU - x / 10 = CPU + x.
    """
    core = 10 * 4 * 500 / 1e12
    prompt = (DENSE + 80 * US + core / 10) / 1.1  # 74.75 us
    step = (STEP + 20 * US) / 1.1  # 20.19 us
    assert whole().summary["bound_tok_s"] == pytest.approx(2 / (prompt + step), rel=1e-6)


def test_experts_that_run_where_they_lie() -> None:
    result = in_place()
    hidden = 10 * US + 10 * 500 * 2 / 1e9  # 10 kB each way, once per token: 20 us
    work = 4 * 10 * 50 * US
    seconds = IDS + hidden + work + hidden  # 2,050.16 us
    assert result.summary["makespan_s"] == pytest.approx(seconds, **EXACT)
    assert result.summary["expert_tokens"] == {"cpu": 40, "gpu": 0}
    critical = {"pcie:reverse": IDS + hidden, "cpu": work, "pcie:forward": hidden}
    assert {k: v for k, v in result.details["critical_s"].items() if v} == pytest.approx(critical, **EXACT)


def test_bytes_and_energy_of_experts_that_run_where_they_lie() -> None:
    result = in_place().summary
    assert result["bytes"]["ddr:read"] == 4 * 2e6 + 10_000  # weights by the CPU, and what comes back
    assert result["bytes"]["pcie:reverse"] == 160 + 10_000
    idle, active = (100 + 50) * result["makespan_s"], (150 - 50) * 4 * 10 * 50 * US
    moved = 4 * 2e6 * 150 * PJ + (2 * 10_000 + 160) * (150 + 60 + 40) * PJ
    assert result["energy_J"] == pytest.approx(idle + active + moved, **EXACT)
