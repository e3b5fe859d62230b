"""The closed forms that `explain` prints, against arithmetic done here from the constants of the files."""

from __future__ import annotations

from typing import Any

import pytest
from desktop_scenario import BATCH, DESKTOP, EXPERTS, LAYERS, TOP_K, W

from moesim.explain.explain import explain
from moesim.explain.rows import Section
from moesim.scenario import load_data

SCENARIO = {**DESKTOP, "policy": {"kind": "static_popularity", "limit": 0}}


def section(**changes: Any) -> Section:
    return explain(load_data({**SCENARIO, **changes})).section("Closed forms")


def value(of: Section, row: str) -> float:
    answer = of.row(row).value
    assert isinstance(answer, float)
    return answer


def test_attention_share_is_moe_gens() -> None:
    row = section().row("share of decode attention for the CPU")
    streamed, cache, upload, attention = (row.inputs[key].value for key in ("W", "KV", "B_up", "B_cpu"))
    assert streamed == LAYERS * EXPERTS * W
    assert cache == pytest.approx(LAYERS * BATCH * 288 * 2 * 4 * 128 * 2.0)
    share = (streamed + cache) / upload / (cache / upload + cache / attention)
    assert row.value == 100 * min(share, 1.0)


def test_coalescing_counts_micro_batches() -> None:
    whole = section(policy={"kind": "static_popularity", "limit": 0, "micro_batch": 1})
    row = whole.row("decode: weight reads saved by coalescing")
    single, all_ = 8.0, EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** BATCH)
    assert row.inputs["n"].value == 4
    assert row.value == pytest.approx(4 * single / all_)


def test_deferral_hides_attention_behind_the_cpu() -> None:
    forms = section()
    row = forms.row("decode layer with expert deferral")
    gpu, immediate, late = (float(row.inputs[key].value) for key in ("GPU", "immediate", "deferred"))
    assert late / (immediate + late) == pytest.approx(3 / 8)
    assert row.value == max(gpu + immediate, immediate + late)
    assert value(forms, "decode layer without") == pytest.approx(gpu + immediate + late)


def test_waiting_for_the_link_at_half_load() -> None:
    forms = section()
    service = float(forms.row("upload at half load: waiting, from ddr").inputs["s"].value)
    assert value(forms, "upload at half load: waiting, from ddr") == pytest.approx(service / 2)
    assert value(forms, "the same, sizes at random") == pytest.approx(service)
    assert value(forms, "two uploads at once over one link") == pytest.approx(2 * service)


def test_interleaving_needs_cxl() -> None:
    assert not [row for row in section().rows if "interleaved" in row.name]
    machine = {"hardware": "moe-cxl-a100", "model": "mixtral-8x7b", "policy": {"kind": "static_popularity"}}
    forms = section(**machine)
    row = forms.row("pages on CXL when interleaved")
    dram, cxl = float(row.inputs["B_dram"].value), float(row.inputs["B_cxl"].value)
    assert row.value == pytest.approx(100 * cxl / (dram + cxl))
    assert cxl == pytest.approx(128e9)
    assert value(forms, "one expert read so") == pytest.approx(3 * 4096 * 14336 * 2.0 / (dram + cxl))


def test_nothing_is_said_of_decode_where_nothing_is_decoded() -> None:
    forms = section(workload={**DESKTOP["workload"], "output": 1})
    assert not [row for row in forms.rows if "decode" in row.name]
