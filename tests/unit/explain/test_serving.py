"""What is said of a server before it runs: an expert more or a sequence more, against arithmetic done here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from served_models import MODEL

import moesim
from moesim.explain.explain import explain
from moesim.explain.rows import Section
from moesim.scenario import load_data

TITLE = "An expert more or a sequence more"
EXPERT, TOKEN = 3 * 1024 * 2048 * 2, 3 * 2 * 4 * 64 * 2
"""Bytes of an expert, and of a token in the cache."""
RESIDENT = 20
REST = {
    "workload": {"kind": "offline", "requests": 1, "prompt": 1, "output": 1, "routing": {"kind": "uniform"}},
    "policy": "lru",
}


def section(cache: float, **policy: Any) -> Section:
    """24 experts and requests of 1,000 tokens, on a GPU with room for `RESIDENT` experts beside the cache."""
    workload = {
        "kind": "online",
        "requests": 30,
        "arrivals": {"kind": "poisson", "rate": "2/s"},
        "prompt": 900,
        "output": 100,
        "routing": {"kind": "uniform"},
        "profile": {"kind": "uniform"},
        "scheduler": {"kind": "continuous", "max_num_seqs": 16, "max_num_batched_tokens": 64, "kv_cache_memory": f"{cache} B"},
    }
    chosen = {"kind": "static_popularity", "rule": "global", "limit": RESIDENT, **policy}
    explanation = explain(
        load_data({"name": "trade", "hardware": "rtx4090-desktop", "model": MODEL, "workload": workload, "policy": chosen})
    )
    return next((part for part in explanation.sections if part.title == TITLE), Section(TITLE, ()))


def test_the_cache_of_a_sequence_is_worth_experts() -> None:
    trade = section(10 * 1000 * TOKEN)
    assert trade.row("KV cache of a mean sequence").value == pytest.approx(1000 * TOKEN)
    assert trade.row("experts in its place").value == pytest.approx(1000 * TOKEN / EXPERT)
    assert trade.row("mean sequences that run").value == 10


def test_more_sequences_than_places_do_not_run() -> None:
    assert section(100 * 1000 * TOKEN).row("mean sequences that run").value == 16


def test_uploads_bound_the_layers_that_have_any_and_a_sequence_takes_residents_away() -> None:
    """26.5 GB/s of PCIe; each of the experts that miss is asked for by one of N tokens at least with chance 1 - 0.75^N.

    The first twenty experts are resident: the layers are bound by their reads, but for the last, whose other half is uploaded.
    """
    trade = section(10 * 1000 * TOKEN)
    cut, more = trade.row("decode, as cut"), trade.row("decode, a sequence more")
    scenario = load_data({"name": "rates", "hardware": "rtx4090-desktop", "model": MODEL, **REST}).scenario
    rate = scenario.hardware.reach("gpu", "hbm").rate

    def step(sequences: int, residents: int) -> float:
        nbytes = (1 - 0.75**sequences) * EXPERT
        attended = float(scenario.model.core_bytes_decode(np.full(sequences, 950)).sum())
        last = max((24 - residents) * nbytes / 26.5e9, (residents - 16) * nbytes / rate)
        return (scenario.model.non_expert_bytes + attended) / rate + 16 * nbytes / rate + last

    assert cut.inputs["residents"].value == RESIDENT
    assert cut.value == pytest.approx(10 / step(10, RESIDENT), rel=2e-3)
    assert more.inputs["residents"].value == RESIDENT - 1
    assert more.value == pytest.approx(11 / step(11, RESIDENT - 1), rel=2e-3)


def test_simulated_decodes_are_somewhat_slower_than_the_trade_says() -> None:
    """Mixtral-8x7B at 8 bits and 170 sequences, with 221 of 256 experts resident: launches and set-ups are not in the trade."""
    small = {"capacity": {"value": "1 GB", "basis": "assumed", "source": "DRAM is for the host alone"}}
    cache = f"{1.02 * 170 * 480 * 131072} B"
    workload = {
        "kind": "online",
        "requests": 170,
        "arrivals": {"kind": "closed", "users": 170, "think": "0 s"},
        "prompt": 350,
        "output": 130,
        "routing": {"kind": "uniform"},
        "scheduler": {"kind": "continuous", "max_num_seqs": 170, "max_num_batched_tokens": 8192, "kv_cache_memory": cache},
    }
    data = {
        "name": "beside",
        "hardware": {"profile": "h100-pooled-cxl", "tiers": {"ddr": small, "hbm": {"capacity": "58.5 GB"}}},
        "model": {"name": "mixtral-8x7b", "precision": {"experts": "fp8"}},
        "workload": workload,
        "policy": {"kind": "static_popularity", "micro_batch": 256},
    }
    (trade,) = (part for part in explain(load_data(data)).sections if part.title == TITLE)
    decode = moesim.run(data).summary["decode_tok_s"]
    assert 0.75 < decode / trade.row("decode, as cut").value < 1


def test_nothing_is_traded_where_the_cache_lies_elsewhere() -> None:
    assert not section(10 * 1000 * TOKEN, kv="ddr").rows
