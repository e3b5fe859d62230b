"""Owns measured speeds of llama.cpp on a dense model in GPU memory: prompts by micro-batch, and decoding, on five GPUs.

Knows the profile of llama.cpp and machines with these GPUs; no experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["CASE", "TABLES", "Table", "setting"]

_TOLERANCE = 0.15


class Table(NamedTuple):
    """Prompts of an 8B model in pieces, on one GPU."""

    name: str
    hardware: str
    bits: str
    prompt: int
    speeds: Mapping[int, float]
    """Tokens of a piece -> tok/s."""
    fitted: tuple[int, ...] = ()


TABLES = (
    Table(
        "RTX 4090, Q4_0", "rtx4090-desktop", "4.5 bits", 512,
        {16: 1937.21, 32: 3427.61, 64: 5420.06, 128: 7443.66, 256: 9601.53, 512: 10358.75}, (16, 512),
    ),
    Table("RTX 4090, Q4_0, a year later", "rtx4090-desktop", "4.5 bits", 512, {10: 1216.63, 12: 1460.17, 14: 1684.51}),
    Table("RTX 4090, IQ4_XS", "rtx4090-desktop", "4.25 bits", 2048, {16: 2014.78, 32: 3550.23}),
    Table(
        "RTX 3090, Q4_0", "rtx3090-workstation", "4.5 bits", 512,
        {1: 156.56, 2: 279.89, 3: 390.96, 4: 470.48, 5: 509.70, 6: 541.57, 7: 559.30, 8: 583.77}, (1, 8),
    ),
    Table(
        "RTX 3090, IQ4_XS", "rtx3090-workstation", "4.25 bits", 2048,
        {16: 1112.37, 32: 1839.03, 64: 2791.84, 128: 3600.24, 256: 4113.13, 512: 4314.15},
    ),
)  # fmt: skip
"""Pull requests 7676, 15131, 8416 and 15802; llama-bench computes the head for the last token of a prompt alone, as runs do."""
DECODES = {
    "RTX 6000 Ada, Llama-3.1-8B Q4_0: decode": ("a6000-ada-epyc9355", "llama-3.1-8b", "4.5 bits", 168.85),
    "RTX PRO 6000, Qwen3-32B Q4_K_M: decode": ("rtxpro6000-workstation", "qwen3-32b", "4.83 bits", 1000 / 15.3),
}
"""Row -> machine, model, stored bits, tok/s: pull request 19053, and 15.3 ms a token of issue 28196."""
OLDER = 0.0675
"""`vector_bytes` of April 2024, fitted on the RTX 3090 of that date."""
APRIL_2024: dict[str, tuple[Any, float]] = {
    "RTX 3090": ("rtx3090-workstation", 128.27),
    "H100 PCIe": ({"profile": "h100-server", "devices": {"gpu": {"profile": "h100-80gb-pcie"}}}, 163.83),
}
"""GPU -> machine and tok/s of Llama-2-7B in Q4_0: pull request 6766 and issue 6763."""
LLAMA_2 = {
    "name": "llama-2-7b",
    "hidden": 4096,
    "layers": 32,
    "moe_layers": list(range(32)),
    "experts": 1,
    "top_k": 1,
    "expert_width": 11008,
    "attention": {"kind": "gqa", "heads": 32, "kv_heads": 32, "head_dim": 128},
    "vocab": 32000,
    "precision": {"weights": "4.5 bits", "experts": "4.5 bits"},
}
"""A dense model is one whose layers have one expert."""


def setting(hardware: str, model: str, bits: str, policy: Mapping[str, object]) -> Setting:
    """A dense model with `bits` a weight, all of it in GPU memory."""
    stored = {"name": model, "precision": {"weights": bits, "experts": bits}}
    return Setting(hardware, stored, dict(policy), "llama-cpp", {"kind": "uniform"})


def _rows() -> Iterator[Row]:
    for table in TABLES:
        for piece, speed in table.speeds.items():
            cut = setting(table.hardware, "llama-3.1-8b", table.bits, {"kind": "llama_cpp", "ubatch": piece})
            reached = table.prompt / single(cut, table.prompt, 1).ttft
            yield Row(f"{table.name}, pieces of {piece}: tok/s", speed, reached, _TOLERANCE, piece in table.fitted)
    older = {"runtime.gpu.packed.vector_bytes": OLDER}
    for gpu, (machine, speed) in APRIL_2024.items():
        resident = Setting(machine, LLAMA_2, {"kind": "gpu_only"}, "llama-cpp", {"kind": "uniform"})
        reached = 1 / single(resident, 16, 33, older).tpot
        yield Row(f"{gpu}, Llama-2-7B Q4_0, April 2024: decode, tok/s", speed, reached, _TOLERANCE, gpu == "RTX 3090")
    for name, (hardware, model, bits, speed) in DECODES.items():
        resident = setting(hardware, model, bits, {"kind": "gpu_only"})
        yield Row(f"{name}, tok/s", speed, 1 / single(resident, 16, 33).tpot, _TOLERANCE)


def _findings() -> Findings:
    rows = tuple(_rows())
    first = setting(TABLES[0].hardware, "llama-3.1-8b", TABLES[0].bits, {"kind": "llama_cpp"})
    vector_flops, unpack, flops = (value(first, "gpu", "packed", key) for key in ("vector_flops", "unpack", "matrix_flops"))
    vector_bytes, share = (value(first, "gpu", "packed", key) for key in ("vector_bytes", "streaming"))
    constants = (
        f"Fitted, per vector operation of the GPU: products of one token stream {vector_bytes} B (RTX 3090, 1 token), of up "
        f"to 8 make {vector_flops} FLOP (8 tokens); from 9 tokens on a weight takes {1 / unpack:.1f} operations to unpack, "
        f"however many tokens there are (RTX 4090, 16 tokens), and an operation makes {flops} FLOP (512). From a source: "
        f"{share} of the memory's bandwidth."
    )
    switch = (
        "Up to 8 tokens vectors are multiplied, from 9 on matrices of unpacked integers (ggml-cuda, MMVQ_MAX_BATCH_SIZE "
        "and ggml_cuda_should_use_mmq: always on GPUs from Turing on), which take as long for 9 as for 16 tokens, and for"
        " 3 bits as for 5."
    )
    before = (
        f"In April 2024 the same kernels streamed {OLDER} B an operation, fitted on the RTX 3090; the H100 of that "
        "date then follows: its multiprocessors hold it, not its memory. An RTX 4090, which its memory holds, took "
        "6.8 ms then (146.8 tok/s), for which the share of later versions gives 5.8."
    )
    older = (
        "Not compared: Q6_K on an RTX 3090 in June 2024 (pull request 7860: 3,333 to 3,594 tok/s with 256 to 1,024 "
        "tokens, for which the constants give 20 to 31 % more), before pull requests 8018 and 8062 made these kernels "
        "faster."
    )
    return Findings(rows, (), (spread(rows), constants, switch, before, older))


CASE = Case(
    id="runtime-llama-cpp-dense",
    kind="system",
    summary="llama.cpp, Llama-3.1-8B in 4 bits on two GPUs by micro-batch of 1 to 512 tokens; decode on three others.",
    source="ggml-org/llama.cpp pull requests 6766, 7676, 8416, 15131, 15802, 19053, issues 6763, 28196",
    runner=_findings,
    fitted="products of packed weights: vectors on 1 and 8 tokens (RTX 3090), matrices on 16 and 512 (RTX 4090)",
)
