"""Every component case: within its tolerances or explained, and no constant tested on the point it was fitted on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from moesim.fit import cpu as fit_cpu
from moesim.fit import published
from moesim.hardware import Cpu
from moesim.validation import CaseResult, registry, reproduce
from moesim.validation.components import cpu, cxl, gpu, links, paging
from moesim.validation.parts import data_folder, machine, profile

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PASS = [
    "amx-vs-avx512-crossover",
    "cpu-bandwidth-by-format-6454s",
    "pcie-gen4-copies",
    "pcie-effective-by-host",
    "cxl-to-gpu-a10",
]
PASS += ["cxl-type3-lia", "mixtral-layer-rtxpro6000"]
EXPLAINED = {"amx-expert-gemm-8452y": 3, "moe-lightning-fig9": 3}
"""Case -> rows that are outside and explained."""


@cache
def result(name: str) -> CaseResult:
    (results,) = reproduce([name])
    return results


def fitted(name: str) -> list[str]:
    return [row.name for row in result(name).findings.rows if row.fitted]


@pytest.mark.parametrize("name", PASS)
def test_components_hold_against_measurements(name: str) -> None:
    assert [row.name for row in result(name).findings.rows if not row.within] == []
    assert result(name).verdict == "pass"


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_misses_is_derived_from_the_source(name: str) -> None:
    missing = [row for row in result(name).findings.rows if not row.within]
    assert result(name).verdict == "explained"
    assert len(missing) == EXPLAINED[name]
    assert {item.row for item in result(name).findings.explanations} == {row.name for row in missing}


@pytest.mark.parametrize("name", [*PASS, *EXPLAINED])
def test_each_case_says_what_was_fitted_and_tests_something_else(name: str) -> None:
    rows = result(name).findings.rows
    assert any(not row.fitted for row in rows)
    assert (result(name).case.fitted == "nothing") == (not any(row.fitted for row in rows))


def test_amx_curves_are_fitted_on_every_second_point() -> None:
    names = fitted("amx-expert-gemm-8452y")
    assert len(names) == 3 * len(cpu.FITTED) == 18
    assert all(any(f", {tokens:,} tokens" in name for tokens in (1, 4, 16, 64, 256, 1024)) for name in names)


def test_a_fit_never_saw_the_points_between(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fit_cpu.curve("amx_tuned").parameters
    pairs = zip(published.CPU_TOKENS, published.CPU_CURVES["amx_tuned"], strict=True)
    bent = tuple(rate if tokens in cpu.FITTED else 9.9 for tokens, rate in pairs)
    monkeypatch.setitem(published.CPU_CURVES, "amx_tuned", bent)
    assert fit_cpu.curve("amx_tuned").parameters == before


def test_profile_and_case_share_the_fit() -> None:
    kernels = Cpu.model_validate({**profile("xeon-8452y"), "at": "host"}).kernels
    for name in cpu.LABELS:
        fit = fit_cpu.curve(name)
        assert kernels[name].bandwidth == pytest.approx(fit["bandwidth"], rel=1e-3)
        assert kernels[name].rate == pytest.approx(fit["rate"], rel=1e-3)
        assert kernels[name].q == pytest.approx(fit["q"], rel=1e-3)


def test_avx512_wins_up_to_four_tokens() -> None:
    row = next(row for row in result("amx-vs-avx512-crossover").findings.rows if row.name.startswith("crossover"))
    assert 4 < row.published < 5
    assert 4 < row.simulated < 5


def test_formats_are_fitted_on_two_of_eight() -> None:
    assert {name.split(",")[0] for name in fitted("cpu-bandwidth-by-format-6454s")} == {"fp16", "q2_k"}


def test_copies_are_fitted_on_the_named_sizes() -> None:
    names = fitted("pcie-gen4-copies")
    assert len([name for name in names if name.startswith("pinned")]) == len(links.PINNED_FIT) == 4
    assert len([name for name in names if name.startswith("pageable")]) == len(links.PAGEABLE_FIT) == 3
    assert "after 2.000 times one alone" in result("pcie-gen4-copies").note


def test_both_directions_share_what_the_link_has() -> None:
    link = {"kind": "link", "rate": "20 GB/s", "both": "30 GB/s"}
    assert links._both_ways(link) == pytest.approx(15e9)
    assert links._both_ways({"kind": "link", "rate": "20 GB/s"}) == pytest.approx(20e9)


def test_two_expanders_are_as_good_as_dram_for_the_gpu_and_one_is_not() -> None:
    pcie = links.host(profile("pcie4-x16-a100")).resources()["pcie:forward"]
    assert cxl._lia(2).path("cxl", "hbm").rate == pcie
    assert cxl._lia(1).path("cxl0", "hbm").rate == 17e9


def test_cpu_compute_from_cxl_loses_less_with_more_tokens() -> None:
    system = cxl._lia(2)
    losses = [cxl._loss(system, tokens) for tokens in (1, 64, 1024, 8192)]
    assert losses == sorted(losses, reverse=True)
    assert 0.8 < losses[0] < 0.88  # 34 GB/s of two devices against 194 to 267 of DRAM


def test_the_eager_layer_is_fitted_on_three_points_of_each_curve() -> None:
    names = fitted("mixtral-layer-rtxpro6000")
    assert [len([n for n in names if n.startswith(kind)]) for kind in ("products", "whole loop", "attention")] == [3, 2, 3]
    assert set(gpu.LOOP) == set(published.MIXTRAL_MATMUL)


def test_figure_9_is_fitted_on_micro_batch_64_alone() -> None:
    names = fitted("moe-lightning-fig9")
    assert len(names) == 11
    assert all(f"micro-batch {paging.FIT_ON}" in name for name in names)


def test_equal_bytes_take_unequal_time_in_the_source() -> None:
    least, most = paging._equal_bytes(32 * 512)
    assert (least, most) == (1.48, 1.73)
    assert "1.19, 0.91, 1.17, 1.01, 1.01 times" in result("moe-lightning-fig9").note


@pytest.mark.skipif(not DATA.is_dir(), reason=f"measured tables are not there: {DATA}")
@pytest.mark.parametrize("name", ["gpu-moe-kernels", "lru-hits-real-traces"])
def test_recorded_data_are_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_DATA", str(DATA))
    (results,) = reproduce([name])
    assert results.verdict == "pass"
    assert not any(row.fitted for row in results.findings.rows)


@pytest.mark.parametrize("name", ["gpu-moe-kernels", "lru-hits-real-traces"])
def test_without_data_a_case_is_skipped_and_nothing_fails(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from moesim.validation import exit_status, to_json, to_text

    monkeypatch.setenv("MOESIM_DATA", str(tmp_path))
    results = reproduce([name])
    assert [item.verdict for item in results] == ["skipped"]
    assert exit_status(results) == 0
    assert to_json(results)["cases"] == []
    assert [item["id"] for item in to_json(results)["skipped"]] == [name]
    assert "Skipped: data not found" in to_text(results)


def test_data_are_looked_for_where_they_are_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    monkeypatch.setenv("MOESIM_DATA", str(tmp_path))
    assert data_folder("kernels") == tmp_path
    assert data_folder("routing") is None


def test_a_machine_of_parts_takes_its_profiles() -> None:
    system = machine(
        {"gpu": {"profile": "l4", "at": "gpu", "memory": "hbm"}},
        {"hbm": {"profile": "gddr6-l4", "at": "gpu", "capacity": "1 GB"}},
        {},
    )
    assert system.gpu.compute == 121e12
    assert system.capacity("hbm") < 1e9


def test_every_component_of_the_list_is_a_case() -> None:
    expected = {*PASS, *EXPLAINED, "gpu-moe-kernels", "lru-hits-real-traces"}
    assert expected <= set(registry.ids())
    assert np.isin([case.kind for case in registry.find(sorted(expected))], "component").all()
