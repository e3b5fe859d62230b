"""Owns the published measurements of CXL memory beside a GPU: copies from an expander, weights of a CPU and of a GPU in it.

Knows machines put together from profiles.
"""

from __future__ import annotations

import numpy as np

from moesim.contract import Costs
from moesim.hardware import System
from moesim.model import load_named
from moesim.policies.kit import closed_forms
from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import machine, worst

__all__ = ["GPU_READS", "TYPE_3"]

_COPY = 1e9
"""Bytes of a copy that set-up does not matter for."""
H2D = {"local_dram": 25.15, "remote_dram": 25.13, "cxl_low": 23.6, "cxl_high": 25.14}
"""Published GB/s to the A10."""


def _a10() -> System:
    """Two sockets, the A10 and the expander at the first one."""
    return machine(
        {"gpu": {"profile": "a10", "at": "gpu", "memory": "hbm"}},
        {
            "hbm": {"profile": "gddr6-a10", "at": "gpu"},
            "ddr": {"profile": "ddr5-4800-x8", "at": "host"},
            "remote": {"profile": "ddr5-4800-x8", "at": "socket1"},
            "cxl": {"profile": "cxl-cz120-128gb", "at": "expander"},
        },
        {
            "pcie": {"profile": "pcie4-x16-a10", "ends": ["host", "gpu"]},
            "upi": {"profile": "upi-spr", "ends": ["socket1", "host"]},
            "cxl_link": {"profile": "cxl-x8", "ends": ["expander", "host"]},
        },
    )


def _gpu_reads() -> Findings:
    system = _a10()
    rate = {tier: _COPY / float(system.path(tier, "hbm").seconds(_COPY)) / 1e9 for tier in ("ddr", "remote", "cxl")}
    middle = (H2D["cxl_low"] + H2D["cxl_high"]) / 2
    rows = (
        Row("from local DRAM, GB/s", H2D["local_dram"], rate["ddr"], 0.05, fitted=True),
        Row("from the other socket's DRAM, GB/s", H2D["remote_dram"], rate["remote"], 0.05),
        Row("from one expander, GB/s (middle of the published range)", middle, rate["cxl"], 0.05),
    )
    device = system.resources()["cxl:read"] / 1e9
    lines = (
        f"Only PCIe was fitted, on local DRAM. The expander's profile reads {device:g} GB/s, so PCIe is the narrower: "
        f"min({H2D['local_dram']:g}, {device:g}). The published range is {H2D['cxl_low']:g} to {H2D['cxl_high']:g} GB/s; its "
        "lower end is "
        f"{100 * (1 - H2D['cxl_low'] / H2D['cxl_high']):.1f} % below the upper, which the source does not explain.",
        f"{worst(rows)} A GPU does not read CXL faster than DRAM: CXL adds room, and bandwidth for the CPU.",
    )
    return Findings(rows, arithmetic=lines)


GPU_READS = Case(
    id="cxl-to-gpu-a10",
    kind="component",
    summary="Copies to an A10 over PCIe 4 x16 from local and remote DRAM and from one 128 GB CXL expander.",
    source="measured, stevescargall.com",
    runner=_gpu_reads,
    fitted="PCIe, on local DRAM",
)

LOSES = (10.0, 82.0)
"""Published range of what CPU compute loses with its weights in CXL memory, %."""


def _lia(devices: int = 2) -> System:
    """A Sapphire Rapids host with Samsung expanders, and an A100 on PCIe 4."""
    names = [f"cxl{number}" for number in range(devices)]
    tiers = {name: {"profile": "cxl-samsung-128gb", "at": f"expander{number}"} for number, name in enumerate(names)}
    links = {f"link{number}": {"profile": "cxl-x8", "ends": [f"expander{number}", "host"]} for number in range(devices)}
    interleaved = {"cxl": {"kind": "interleaved", "of": names}} if devices > 1 else {}
    return machine(
        {
            "gpu": {"profile": "a100-80gb-pcie", "at": "gpu", "memory": "hbm"},
            "cpu": {"profile": "xeon-8460h", "at": "host", "memory": "ddr"},
        },
        {
            "hbm": {"profile": "hbm-a100-80gb-pcie", "at": "gpu"},
            "ddr": {"profile": "ddr5-4800-x8", "at": "host"},
            **tiers,
            **interleaved,
        },
        {"pcie": {"profile": "pcie4-x16-a100", "ends": ["host", "gpu"]}, **links},
    )


def _type_3() -> Findings:
    single_device, two = _lia(1), _lia(2)
    ddr = _COPY / float(two.path("ddr", "hbm").seconds(_COPY))
    pair = _COPY / float(two.path("cxl", "hbm").seconds(_COPY))
    single = _COPY / float(single_device.path("cxl0", "hbm").seconds(_COPY))
    load = two.tiers["cxl0"].latency - two.tiers["ddr"].latency  # type: ignore[union-attr]
    loss = {tokens: _loss(two, tokens) for tokens in (1, 16, 64, 256, 1024, 4096)}
    reach = two.reach("cpu", "cxl").rate
    rows = (
        Row("one device, read by the CPU, GB/s", 17.0, single_device.reach("cpu", "cxl0").rate / 1e9, 0.10, fitted=True),
        Row("added latency, ns (middle of 140 to 170)", 155.0, 1e9 * load, 0.10, fitted=True),
        Row("GPU: rate from two devices over that from DRAM", 1.0, pair / ddr, 0.10),
        Row("CPU: most that CXL loses, % of throughput", LOSES[1], 100 * max(loss.values()), 0.10),
    )
    tokens_lost = next((tokens for tokens, share in loss.items() if 100 * share <= LOSES[0]), None)
    text = ", ".join(f"{100 * share:.0f} % at {tokens}" for tokens, share in loss.items())
    lines = (
        f"Two devices give {reach / 1e9:g} GB/s, PCIe takes {ddr / 1e9:.1f}: transparent; one alone gives the GPU "
        f"{single / 1e9:.1f} GB/s, "
        f"{100 * (1 - closed_forms.streaming_rate(ddr, single) / ddr):.0f} % less than DRAM.",
        f"CPU experts (Mixtral-8x7B) from two devices instead of DRAM lose, by tokens per expert: {text}. The published 82 % "
        "is the "
        f"weight-bound end; {LOSES[0]:g} % "
        + (f"is reached at {tokens_lost} tokens." if tokens_lost else "would need more than 4,096 tokens."),
        "Rate and latency of a device are the source's own and no test.",
    )
    return Findings(rows, arithmetic=lines)


def _loss(system: System, tokens: int) -> float:
    """Share of the CPU's throughput that is lost with the weights in CXL memory."""
    costs = Costs(load_named("mixtral-8x7b"), system)
    times = [float(np.asarray(costs.cpu(tokens, tier))) for tier in ("ddr", "cxl")]
    return 1.0 - times[0] / times[1]


TYPE_3 = Case(
    id="cxl-type3-lia",
    kind="component",
    summary="Two Samsung Type-3 expanders of 17 GB/s beside an A100: what GPU and CPU lose with weights in them.",
    source="LIA (ISCA 2025), notes",
    runner=_type_3,
    fitted="rate and latency of a device are the source's own",
)
