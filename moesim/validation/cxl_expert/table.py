"""Owns the published table of CXL-Expert: its numbers, the runs that stand beside them, and the way to an honest account.

Knows scenarios by name; nothing of how they are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.results.result import Result
from moesim.runs.run import loaded, run
from moesim.validation.case import Case, Exhibit, Findings, Row
from moesim.validation.cxl_expert.inputs import INPUTS
from moesim.validation.waterfall import Step, Waterfall, fall

__all__ = ["GPU_ONLY", "NEAR_DATA", "PRINTED", "SCHEME", "TABLE", "conditions", "steps"]

GPU_ONLY, SCHEME, NEAR_DATA = "GPU only", "CXL-Expert", "near data"
LATENCY = {GPU_ONLY: (0.805, 0.001), SCHEME: (0.213, 0.03), NEAR_DATA: (0.048, 0.15)}
"""Scheme -> published latency (s), tolerance: tight for a sum of stated constants, 3 % where some activation traffic is not
stated, 15 % where the price of a near-data token is not."""
THROUGHPUT = {GPU_ONLY: (1270.0, 10.0), SCHEME: (4800.0, 10.0), NEAR_DATA: (21300.0, 100.0)}
"""Scheme -> published tok/s, unit of its last printed digit."""
PRINTED: dict[str, Mapping[str, Any]] = {
    GPU_ONLY: {"kind": "cxl_expert_gpu_only", "load": "all", "pipeline": "serial"},
    SCHEME: {
        "kind": "cxl_expert",
        "mode": "printed",
        "hot": 0.75,
        "warm": 1.0,
        "resident": False,
        "near_data": False,
        "pipeline": "serial",
    },
    NEAR_DATA: {"kind": "cxl_expert_near_data", "hot": 0.75, "pipeline": "serial"},
}
"""The three schemes in the accounting of the table. `warm: 100 %` leaves two classes, hot and cold, as the numbers do."""


def steps() -> list[Step]:
    """From the table's accounting to `cxl_expert/honest`, whose parts the last steps take over one by one."""
    honest = loaded("cxl_expert/honest").data
    drawn = {"workload.routing": {"kind": "zipf", "exponent": INPUTS.exponent}, "workload.profile": {"kind": "held_out"}}
    active = {GPU_ONLY: {**PRINTED[GPU_ONLY], "load": "active"}}
    with_residents = {
        GPU_ONLY: {"kind": "static_popularity", "limit": INPUTS.hot, "pipeline": "serial"},
        SCHEME: {**PRINTED[SCHEME], "resident": True},
    }
    overlapped = {name: {**policy, "pipeline": "overlap"} for name, policy in {**PRINTED, **with_residents}.items()}
    copies = honest["hardware"]["links"]["pcie"]
    return [
        Step("as printed: all experts loaded, one thing after another", {}, PRINTED),
        Step("tokens draw their experts; only drawn experts move", drawn, active),
        Step("a quarter, hot in the profile, stays in GPU memory", {}, with_residents),
        Step("uploads, GPU and CPU or near-data work overlap", {}, overlapped),
        Step("experts of 8.4 MB, as the stated shapes make them", {"model": honest["model"]}),
        Step("routing of a real top-1 model (Llama-4-Maverick)", {"workload": honest["workload"]}),
        Step("copies as measured: set-up and rate of pinned PCIe 4", {"hardware.links.pcie": copies}),
        Step("real GPU, CPU and CXL device, not prices per token", {"hardware": honest["hardware"], "runtime": "reference"}),
    ]


def _table() -> Findings:
    results = {scheme: run("cxl_expert/table", policy=policy) for scheme, policy in PRINTED.items()}
    changes: dict[str, Any] = {"hardware.devices.ndp.experts.time": f"{_us(INPUTS.ndp_token_of_flop)} us"}
    by_flop = run("cxl_expert/table", policy=PRINTED[NEAR_DATA], **changes)
    waterfall = fall("cxl_expert/table", steps())
    rows = [*(_latency(scheme, results[scheme]) for scheme in LATENCY), *(_throughput(s, results[s]) for s in THROUGHPUT)]
    lines = (_gpu_only(), *_scheme(results[SCHEME]), _near_data(by_flop), _shapes(), *conditions(waterfall))
    return Findings(tuple(rows), arithmetic=lines, exhibits=_exhibits(waterfall))


def _latency(scheme: str, result: Result) -> Row:
    published, tolerance = LATENCY[scheme]
    return Row(f"{scheme}, ms", 1e3 * published, 1e3 * result.summary["makespan_s"], tolerance)


def _throughput(scheme: str, result: Result) -> Row:
    """Published throughputs are 1,024 over the latencies and say nothing new.

    Their band is that of the latency seen from the other side, or half a unit of the last printed digit.
    """
    published, digit = THROUGHPUT[scheme]
    tolerance = max(1 / (1 - LATENCY[scheme][1]) - 1, digit / 2 / published)
    return Row(f"{scheme}, tok/s", published, result.summary["throughput_tok_s"], tolerance)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.5g}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.4g}"


def _gpu_only() -> str:
    i = INPUTS
    return (
        f"GPU only by hand: {i.experts} x {_ms(i.load)} ms + {i.tokens:,} x {_us(i.gpu_token)} us = {_ms(i.gpu_only)} ms. "
        "All experts are loaded, those without tokens too, and none is kept."
    )


def _scheme(result: Result) -> tuple[str, str]:
    i, split, moved = INPUTS, result.summary["expert_tokens"], result.details["caused_B"]
    by_hand, published = i.scheme(i.hot), LATENCY[SCHEME][0]
    gap, stated = published - by_hand, 2 * i.activations / i.activation_compression
    return (
        f"CXL-Expert by hand: {i.hot} x {_ms(i.load)} ms + {i.hot_tokens} x {_us(i.gpu_token)} us + {i.cold_tokens} x "
        f"{_us(i.cpu_token)} us = {_ms(by_hand)} ms. Simulated: {moved['demand'] / i.expert_bytes:g} loads, {split['gpu']} "
        f"tokens on the GPU, {split['cpu']} on the CPU, {moved['activation'] / 1e6:.2g} MB of activations there and back.",
        f"The published {_ms(published)} ms is {1e3 * gap:.2g} ms more, which is {gap * i.pcie / 1e6:.0f} MB over PCIe; the "
        f"stated {i.activations / 1e6:g} MB of activations, {i.activation_compression:g}x smaller, there and back, take "
        f"{1e3 * stated / i.pcie:.2g} ms.",
    )


def _near_data(by_flop: Result) -> str:
    i, published = INPUTS, LATENCY[NEAR_DATA][0]
    needed = (published - i.tokens * i.gpu_token) / (i.ndp_token - i.gpu_token)
    return (
        f"Near data by hand: {i.hot_tokens} x {_us(i.gpu_token)} us + {i.cold_tokens} x {_us(i.ndp_token)} us = "
        f"{_ms(i.near_data)} ms. The price of a token near data is not given; {_us(i.ndp_token)} us is the GPU's, "
        f"{i.gpu_rate / i.ndp_rate:g} times slower by the stated rates, and {needed:.0f} cold tokens instead of "
        f"{i.cold_tokens} would make {_ms(published)} ms. Priced by FLOP a token takes {_us(i.ndp_token_of_flop)} us, and the "
        f"run {1e3 * by_flop.summary['makespan_s']:.3g} ms."
    )


def _shapes() -> str:
    i = INPUTS
    layer = i.experts * i.stated_expert_bytes
    return (
        f"The stated shapes make experts of {i.stated_expert_bytes / 1e6:.2g} MB, not {i.expert_bytes / 1e6:g}: the "
        f"{i.experts} of a layer take {layer / 1e9:.3g} GB, and {i.gpu_memory / 1e9:g} GB of GPU memory hold "
        f"{i.gpu_memory // layer:.0f} such layers."
    )


def conditions(waterfall: Waterfall) -> tuple[str, str]:
    """Sign, mechanism and conditions of the two gains over GPU only, from the steps of the waterfall."""
    why = {
        SCHEME: "faster, because cold experts are not loaded but computed where they lie; large where a load is dear beside a "
        "token on the CPU, small for experts of the true size",
        NEAR_DATA: "faster, because nothing is loaded, as long as a cold token near data costs less than its share of a load: "
        f"not at a fixed {_us(INPUTS.ndp_token)} us a token and a true size, but again with a unit priced by bytes and FLOP",
    }
    base = [item.mean for item in waterfall.latency[GPU_ONLY]]
    sentences = []
    for scheme, mechanism in why.items():
        gains = [whole / item.mean for whole, item in zip(base, waterfall.latency[scheme], strict=True)]
        most, least = (pick(range(len(gains)), key=gains.__getitem__) for pick in (max, min))
        never = [f"'{waterfall.labels[i]}'" for i in range(len(gains)) if gains[i] <= 1]
        where = f"Lost at {', '.join(never)}." if never else "It holds at every step."
        sentences.append(
            f"{scheme} against GPU only: {mechanism}. {gains[0]:.3g}x as printed, most ({gains[most]:.3g}x) at "
            f"'{waterfall.labels[most]}', least ({gains[least]:.3g}x) at '{waterfall.labels[least]}'. {where}"
        )
    return sentences[0], sentences[1]


def _exhibits(waterfall: Waterfall) -> tuple[Exhibit, ...]:
    return (
        Exhibit("waterfall", str(waterfall), waterfall.csv()),
        *(_picture(waterfall, scheme) for scheme in waterfall.latency),
    )


def _picture(waterfall: Waterfall, scheme: str) -> Exhibit:
    title = f"{scheme}: from the published accounting to real parts"
    return Exhibit("waterfall-" + scheme.lower().replace(" ", "-"), figure=lambda: waterfall.figure(scheme, title))


TABLE = Case(
    id="cxl-expert-table",
    kind="simulated",
    summary="Three schemes for one layer of 128 experts and 1,024 tokens, in the paper's serial accounting.",
    source="CXL-Expert, section 4, itself a closed-form simulation of one MoE layer",
    runner=_table,
)
