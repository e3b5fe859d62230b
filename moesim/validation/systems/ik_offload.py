"""Owns ik_llama.cpp's rules: uploads beside llama.cpp's on prompts of two DeepSeek models, and decode with fewer experts.

Knows the profile of the fork and two desktops; rates that the source does not give are fitted on named rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moesim.validation.case import Case, Findings, Row
from moesim.validation.runtimes.single import Setting, Speeds, single, spread

__all__ = ["CASE", "DEEPSEEK_V3", "LITE", "Table", "fewer", "seconds"]

_TOKENS = 32
_TOLERANCE = 0.15
_FEWER = 1.2
"""Pull request 239 says nearly 20 %: as much as the sixth of the experts' bytes that is not read, were there nothing else."""
_SHARE, _PRODUCT = "runtime.copies.share", "runtime.gpu.packed.expert_flops"
_RATE, _STREAM = "runtime.cpu.classes.ggml.core_rate", "runtime.cpu.classes.ggml.share"


class Table(NamedTuple):
    """Prompts of one model on one machine, read under both rules."""

    name: str
    hardware: Mapping[str, Any]
    model: Mapping[str, Any]
    layers: int
    experts: int
    chosen: int
    """Experts of a token."""
    by_tokens: Mapping[int, float]
    """Piece, or prompt -> tok/s where 32 tokens are uploaded for (llama.cpp's rule)."""
    by_expert: Mapping[int, float]
    """The same where 32 tokens an expert are (the fork's rule)."""
    fits: Mapping[str, tuple[float, bool, int]]
    """Path of a constant of the program -> (value, and the row that sets it: by expert, piece or prompt)."""
    prompt: int | None = None
    """Tokens of the prompt, of which the rows are pieces; None: the rows are prompts."""
    share: float = 1.0
    """Share of the link that copies reach, where no row sets it."""


LITE = Table(
    "DeepSeek-V2-Lite",
    {
        "profile": "rtx4090-desktop",
        "devices": {"gpu": {"compute": "97.5 TFLOPS", "vector": "12.2 TOPS"}},
        "tiers": {"hbm": {"capacity": "16 GB", "read": "717 GB/s"}},
    },
    {"name": "deepseek-v2-lite", "precision": {"weights": "4.25 bits", "experts": "4.25 bits"}},
    27,
    64,
    6,
    {128: 345, 256: 604, 512: 973, 1024: 1428, 2048: 1804, 4096: 1878},
    {128: 723, 256: 956, 512: 975, 1024: 1411, 2048: 1839, 4096: 2071},
    {_PRODUCT: (0.652, False, 1024), _SHARE: (0.994, False, 128), _RATE: (259.6, True, 128)},
    4096,
)
"""IQ4_KS on a Ryzen 7950X with an RTX 4080 (data sheet: 97.5 TFLOPS, 717 GB/s, 76 multiprocessors at 2.505 GHz)."""
DEEPSEEK_V3 = Table(
    "DeepSeek-V3",
    {
        "profile": "rtx3090-workstation",
        "devices": {"cpu": {"cores": 18}},
        "tiers": {"ddr": {"profile": "ddr5-dual-channel", "read": "41 GB/s", "total": "41 GB/s", "capacity": "192 GB"}},
        "links": {"pcie": {"profile": "pcie3-x8", "rate": "7.88 GB/s"}},
    },
    {"name": "deepseek-v3", "precision": {"weights": "4.25 bits", "experts": "1.6 bits"}},
    61,
    256,
    8,
    {16: 7.8, 32: 1.89, 64: 3.69, 128: 7.44, 256: 14.5, 512: 27.9, 1024: 53.0, 4096: 166},
    {16: 7.8, 32: 10.6, 64: 13.3, 128: 17.6, 256: 19.7, 512: 21.2, 1024: 52.8, 4096: 166},
    {_PRODUCT: (4.637, False, 4096), _RATE: (52.8, True, 256), _STREAM: (0.746, True, 16)},
)
"""IQ1_S_R4 (130 GiB) on two channels of DDR4-3200 and two RTX 3090, whose layers run one after another: one GPU. Copies
come at up to 7.7 GB/s, more than the 6.2 that a copy engine reaches on eight lanes of PCIe 3: they have the link's peak."""
_UNITS = {_RATE: " GFLOPS"}
_PRODUCTS = 2
"""Grouped products of a layer (`-fmoe`: one for two matrices), which its uploaded experts share."""
_TENSORS, _SETUP_US = 3, 17
"""Copies of a layer, one of each tensor with all its experts, and what PCIe takes to set one up, us."""


def seconds(table: Table, by_expert: bool, number: int) -> float:
    """Until the prompt is read: of `number` tokens, or in pieces of as many."""
    piece = number if table.prompt else max(table.by_tokens)
    return _timed(table, {"ubatch": piece, "scaled": by_expert, "whole_tensors": True}, table.prompt or number, 1).ttft


def fewer(table: Table, least: int) -> float:
    """How many times as fast decode is with the `least` highest experts of each token alone (-ser)."""
    all_k, reduced = (_timed(table, {"least": most}, 32, 64).tpot for most in (None, least))
    return all_k / reduced


def _timed(table: Table, rules: Mapping[str, Any], prompt: int, output: int) -> Speeds:
    """One request with all experts in the host."""
    policy = {"kind": "ik_llama", "cpu_layers": table.layers, **rules}
    setting = Setting(dict(table.hardware), dict(table.model), policy, "ik-llama", {"kind": "uniform"})
    sets: dict[str, Any] = {
        "runtime.gpu.kernels.expert.gemm": _PRODUCTS / table.experts,
        "hardware.links.pcie.setup": f"{_SETUP_US * _TENSORS / table.experts} us",
        _SHARE: table.share,
    }
    sets |= {key: f"{value:.6g}{_UNITS[key]}" if key in _UNITS else value for key, (value, *_) in table.fits.items()}
    return single(setting, prompt, output, sets)


def _uploads(table: Table, by_expert: bool, number: int) -> bool:
    """Whether pieces or prompts of `number` tokens are uploaded for."""
    return number >= _TOKENS * (table.experts / table.chosen if by_expert else 1)


def _rows(table: Table) -> list[Row]:
    part = "pieces" if table.prompt else "prompt"
    # where both rules do the same, both rows are the fitted one
    fitted = {(number, _uploads(table, by_expert, number)) for _, by_expert, number in table.fits.values()}
    return [
        Row(
            f"{table.name}, {'32 tokens an expert' if by_expert else '32 tokens'}, {part} of {number:,}: tok/s",
            speed,
            (table.prompt or number) / seconds(table, by_expert, number),
            _TOLERANCE,
            (number, _uploads(table, by_expert, number)) in fitted,
        )
        for by_expert, speeds in ((False, table.by_tokens), (True, table.by_expert))
        for number, speed in speeds.items()
    ]


def _findings() -> Findings:
    tables = (LITE, DEEPSEEK_V3)
    rows = [row for table in tables for row in _rows(table)]
    rows.append(Row(f"{LITE.name}, 5 of 6 experts a token: gain in decode", _FEWER, fewer(LITE, 5), _TOLERANCE))
    lines = [spread(rows)]
    for table in tables:
        values = ", ".join(f"{key.removeprefix('runtime.')} {value:.3g}" for key, (value, *_) in table.fits.items())
        limit = _TOKENS * table.experts / table.chosen
        lines.append(f"{table.name}: the fork uploads from {limit:.0f} tokens. Fitted: {values} (rates in GFLOPS a core).")
    return Findings(tuple(rows), (), tuple(lines))


CASE = Case(
    id="ik-llama-offload",
    kind="system",
    summary="Experts in host memory: prompts under two rules for uploads (32 tokens, or 32 an expert), and decode with fewer.",
    source="ikawrakow/ik_llama.cpp pull requests 520 and 239: the author's DeepSeek-V2-Lite, a user's DeepSeek-V3",
    runner=_findings,
    fitted="share of one link, products of the GPU's experts, rate (and share of memory) of the CPU, a row of each table",
)
