"""Owns the oracles of cost models: break-even, optimal attention share, interleaving, CXL beside PCIe.

Knows costs and machines; no run.
"""

from __future__ import annotations

from typing import Any

from moesim.contract import Costs
from moesim.hardware import Interleaved, System
from moesim.model import load_named
from moesim.policies.kit import closed_forms
from moesim.runs.run import run
from moesim.validation.case import Case, Findings, Row
from moesim.validation.oracles import toy

__all__ = ["BREAK_EVEN", "INTERLEAVING", "SHARE", "TRANSPARENT"]

_ROUNDING = 1e-6


def _break_even() -> Findings:
    rows, lines = [], []
    for name, pcie, ddr, rate in (("AMX, PCIe 4", 28.3e9, 194e9, 22.3e12), ("AVX-512, PCIe 4", 28.3e9, 144e9, 1.83e12)):
        for experts in ("bf16", "4.85 bits"):
            model = load_named("mixtral-8x7b")
            model = model.model_copy(update={"precision": model.precision.model_copy(update={"experts": experts})})
            costs = Costs(model, toy.system(pcie=pcie, ddr=ddr, cpu=rate))
            formula = closed_forms.break_even_tokens(rate, pcie, ddr, model.expert_bytes / model.expert_flops)
            rows.append(Row(f"{name}, {experts}, tokens", formula, _crossing(costs), _ROUNDING))
            lines.append(f"{name}, {experts}: least whole number of tokens by the cost models {costs.break_even('ddr'):g}.")
    return Findings(tuple(rows), arithmetic=tuple(lines))


def _crossing(costs: Costs) -> float:
    """Tokens at which upload and GPU together take as long as the CPU, by the cost models of the machine."""
    from scipy.optimize import brentq

    upload = float(costs.copy(costs.model.expert_bytes, "ddr", "hbm"))

    def lead(tokens: float) -> float:
        return upload + float(costs.gpu(tokens)) - float(costs.cpu(tokens, "ddr"))

    return float(brentq(lead, 1e-3, 1e6, xtol=1e-9, rtol=1e-12))


BREAK_EVEN = Case(
    id="oracle-break-even",
    kind="component",
    summary="Tokens per expert from which uploading beats the CPU: P (W / F) (1 / B_up - 1 / B_mem).",
    source=toy.SOURCE,
    runner=_break_even,
)


def _share() -> Findings:
    """Mixtral-8x7B on 24 GB (batch by host memory), a short cache, and a cache as small as MLA's."""
    rows = []
    model = load_named("mixtral-8x7b")
    weights = model.n_moe * model.experts * model.expert_bytes
    for name, cache, rate in (
        ("cache of 370 GB, CPU at 22 GB/s", 370e9, 22e9),
        ("cache of 370 GB, CPU at 200 GB/s", 370e9, 200e9),
        ("cache of 90 GB, CPU at 22 GB/s", 90e9, 22e9),
        ("cache of 5 GB, CPU at 22 GB/s", 5e9, 22e9),
    ):
        machine = toy.hardware(pcie=24e9)
        machine["devices"]["cpu"]["attention"] = {"bandwidth": f"{rate:g} B/s", "rate": "1e9 TFLOPS"}
        costs = Costs(model, System.model_validate(machine))
        formula = closed_forms.attention_share(weights, cache, 24e9, rate)
        rows.append(Row(f"{name}, %", 100 * formula, 100 * _best_share(costs, weights, cache), 1e-4))
    return Findings(
        tuple(rows), arithmetic=("Simulated: the share at which uploads and CPU, priced by the models, end soonest.",)
    )


def _best_share(costs: Costs, weights: float, cache: float) -> float:
    from scipy.optimize import minimize_scalar

    def step(share: float) -> float:
        moved = float(costs.copy(weights, "ddr", "hbm")) + float(costs.copy((1 - share) * cache, "ddr", "hbm"))
        return max(moved, float(costs.core("cpu", 0.0, share * cache, "decode", "ddr")))

    best = float(minimize_scalar(step, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-9}).x)
    return 1.0 if step(1.0) <= step(best) else best  # the search never tries an end itself


SHARE = Case(
    id="oracle-attention-share",
    kind="component",
    summary="CPU share w of decode attention: W/B_up + (1-w) KV/B_up = w KV/B_cpu, clamped to 0 .. 1.",
    source=f"{toy.SOURCE}; MoE-Gen (arXiv:2503.09716)",
    runner=_share,
)


def _interleaving() -> Findings:
    rows = []
    for dram, cxl in ((267e9, 52e9), (200e9, 26e9), (100e9, 100e9)):
        machine = toy.hardware(ddr=dram, cpu=1e21, cxl=(cxl,))
        machine["tiers"]["both"] = {"kind": "interleaved", "of": ["ddr", "cxl0"]}
        machine["devices"]["cpu"]["memory"] = "both"
        whole = System.model_validate(machine)
        model = load_named("mixtral-8x7b")
        seconds = closed_forms.interleaved_seconds(model.expert_bytes, dram, cxl)
        name = f"{dram / 1e9:g} + {cxl / 1e9:g} GB/s"
        rows.append(Row(f"{name}: one expert, ms", 1e3 * seconds, 1e3 * float(Costs(model, whole).cpu(1, "both")), _ROUNDING))
        share = closed_forms.interleaved_share(dram, cxl)
        rows.append(Row(f"{name}: best share on CXL, %", 100 * share, 100 * _best_pages(whole), 1e-4))
    return Findings(tuple(rows))


def _best_pages(whole: System) -> float:
    """Share of the pages on CXL at which the CPU reads fastest, found by trying."""
    from scipy.optimize import minimize_scalar

    def seconds(share: float) -> float:
        tiers = {**whole.tiers, "both": Interleaved(kind="interleaved", of=("ddr", "cxl0"), shares=(1.0 - share, share))}
        return 1e9 / whole.model_copy(update={"tiers": tiers}).reach("cpu", "both").rate

    return float(minimize_scalar(seconds, bounds=(0.001, 0.999), method="bounded", options={"xatol": 1e-9}).x)


INTERLEAVING = Case(
    id="oracle-interleaving",
    kind="component",
    summary="A bandwidth-bound CPU reader over DRAM and CXL: bytes / (B_dram + B_cxl), CXL share B_cxl / (B_dram + B_cxl).",
    source=toy.SOURCE,
    runner=_interleaving,
)


def _transparent() -> Findings:
    pcie, device = 25e9, 17e9
    rows = []
    model = load_named("mixtral-8x7b")
    for count in (1, 2, 3):
        tier = "cxl0" if count == 1 else "cxl"
        costs = Costs(model, toy.system(pcie=pcie, cxl=(device,) * count))
        rate = model.expert_bytes / float(costs.copy(model.expert_bytes, tier, "hbm"))
        formula = closed_forms.streaming_rate(pcie, count * device)
        rows.append(Row(f"{count} x 17 GB/s behind 25 GB/s: copy, GB/s", formula / 1e9, rate / 1e9, _ROUNDING))
    expected = 1.0 if closed_forms.transparent(pcie, 2 * device) else 2 * device / pcie
    rows.append(Row("2 devices: decode throughput over that from DRAM", expected, _slow_down(2, pcie, device), toy.NEAR))
    rows.append(Row("1 device: decode throughput over that from DRAM", device / pcie, _slow_down(1, pcie, device), toy.NEAR))
    return Findings(tuple(rows))


def _slow_down(count: int, pcie: float, device: float) -> float:
    """Throughput with all experts in CXL memory over that with all in DRAM, by the engine."""
    speed: list[float] = []
    for ddr in ("4 TB", "1 MB"):
        parts: dict[str, Any] = toy.hardware(pcie=pcie, cxl=(device,) * count)
        parts["tiers"]["ddr"]["capacity"] = ddr
        result = run(toy.scenario(parts, requests=4, prompt=8, output=9), policy={"kind": "on_demand", "kv": "hbm"})
        speed.append(float(result.summary["throughput_tok_s"]))
    return speed[1] / speed[0]


TRANSPARENT = Case(
    id="oracle-cxl-transparent",
    kind="component",
    summary="A GPU streams from CXL memory as fast as from DRAM iff the devices together are as fast as PCIe.",
    source=toy.SOURCE,
    runner=_transparent,
)
