"""What is said of a server before it runs: an expert more or a sequence more, against arithmetic done here."""

from __future__ import annotations

from typing import Any

import pytest
from served_models import MODEL

from moesim.explain.explain import explain
from moesim.explain.rows import Section
from moesim.scenario import load_data

TITLE = "An expert more or a sequence more"
EXPERT, TOKEN = 3 * 1024 * 2048 * 2, 3 * 2 * 4 * 64 * 2
"""Bytes of an expert, and of a token in the cache."""
RESIDENT = 20


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


def test_uploads_bound_the_step_and_a_sequence_takes_residents_away() -> None:
    """26.5 GB/s of PCIe; each of the experts that miss is asked for by one of N tokens at least with chance 1 - 0.75^N."""
    trade = section(10 * 1000 * TOKEN)
    cut, more = trade.row("decode, as cut"), trade.row("decode, a sequence more")
    assert cut.inputs["residents"].value == RESIDENT
    assert cut.value == pytest.approx(10 / ((24 - RESIDENT) * (1 - 0.75**10) * EXPERT / 26.5e9), rel=1e-3)
    assert more.inputs["residents"].value == RESIDENT - 1
    assert more.value == pytest.approx(11 / ((25 - RESIDENT) * (1 - 0.75**11) * EXPERT / 26.5e9), rel=1e-3)


def test_nothing_is_traded_where_the_cache_lies_elsewhere() -> None:
    assert not section(10 * 1000 * TOKEN, kv="ddr").rows
