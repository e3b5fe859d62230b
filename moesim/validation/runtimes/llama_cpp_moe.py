"""Owns measured speeds of llama.cpp on models whose experts all lie in GPU memory: prompts by micro-batch, and decoding.

Knows the profile of llama.cpp and machines with these GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from moesim.validation.case import Case, Explanation, Findings, Row
from moesim.validation.runtimes.by_hand import drawn, resident_prefill
from moesim.validation.runtimes.single import Setting, single, spread, value

__all__ = ["CASE", "DECODES", "TABLES", "Table"]

_TOLERANCE = 0.25


class Table(NamedTuple):
    """Prompts of one model in pieces, on one GPU."""

    name: str
    hardware: str
    model: str
    precision: str
    prompt: int
    speeds: Mapping[int, float]
    """Tokens of a piece -> tok/s."""
    fitted: tuple[int, ...] = ()

    def setting(self, piece: int) -> Setting:
        """The model with prompts in pieces of so many tokens."""
        return _setting(self.hardware, self.model, self.precision, {"kind": "llama_cpp", "ubatch": piece})


TABLES = (
    Table(
        "RTX 3090, DeepSeek-V2-Lite Q4_0", "rtx3090-workstation", "deepseek-v2-lite", "4.5 bits", 512,
        {1: 180.53, 2: 180.94, 4: 291.18, 8: 475.54, 16: 784.29, 32: 1209.58, 64: 1802.95, 128: 2253.15, 256: 3628.64},
        (2, 32, 256),
    ),
    Table(
        "RTX 4090, Qwen3-30B-A3B Q4_0", "rtx4090-desktop", "qwen3-30b-a3b", "4.5 bits", 4096,
        {1: 205.87, 2: 211.62, 4: 365.39, 8: 597.34, 16: 959.90, 32: 1556.32, 64: 2508.44},
    ),
    Table(
        "RTX 4090, gpt-oss-20b MXFP4", "rtx4090-desktop", "gpt-oss-20b", "MXFP4_MOE", 4096,
        {1024: 11094.10, 2048: 10565.77, 4096: 8984.82},
    ),
    Table("RTX 3090, gpt-oss-20b MXFP4", "rtx3090-workstation", "gpt-oss-20b", "MXFP4_MOE", 4096, {1: 186.29}),
    Table(
        "RTX 3090, gpt-oss-20b MXFP4, half a year later", "rtx3090-workstation", "gpt-oss-20b", "MXFP4_MOE", 2048,
        {16: 1098.97, 32: 1582.25},
    ),
    Table(
        "RTX 4090, Qwen3.5-35B-A3B Q4_0, half a year later", "rtx4090-desktop", "qwen3.5-35b-a3b", "4.5 bits", 2048,
        {64: 2930.05, 128: 3694.61, 256: 5782.42, 512: 7999.83, 1024: 9559.98, 2048: 10026.03},
    ),
    Table(
        "RTX PRO 6000, gpt-oss-20b MXFP4", "rtxpro6000-epyc9175f", "gpt-oss-20b", "MXFP4_MOE", 128, {128: 5127.80},
    ),
)  # fmt: skip
"""Pull requests 15525, 15631, 22298 and 16991 of ggml-org/llama.cpp, after each change."""
DECODES = {
    "RTX PRO 6000, gpt-oss-20b MXFP4": ("rtxpro6000-epyc9175f", "gpt-oss-20b", "MXFP4_MOE", 391.20),
    "RTX 4090, gpt-oss-20b MXFP4": ("rtx4090-desktop", "gpt-oss-20b", "MXFP4_MOE", 187.25),
    "RTX 4090, Qwen3-30B-A3B Q4_0": ("rtx4090-desktop", "qwen3-30b-a3b", "4.5 bits", 163.48),
}
"""Row -> machine, model, precision, tok/s of 128 tokens: pull requests 16991 and 16834."""


def _setting(hardware: str, model: str, precision: str, policy: Mapping[str, object]) -> Setting:
    stored = {"name": model, "precision": precision}
    return Setting(hardware, stored, dict(policy), "llama-cpp", {"kind": "sticky", **_BORROWED.get(model, {})})


_BORROWED = {"qwen3.5-35b-a3b": {"preset": "deepseek-v3"}}
"""No routing was recorded of 256 experts of this model; another of 256, of which a token takes 8, lends its own."""


def _rows(explanations: list[Explanation]) -> Iterator[Row]:
    for table in TABLES:
        for piece, speed in table.speeds.items():
            setting = table.setting(piece)
            reached = table.prompt / single(setting, table.prompt, 1).ttft
            row = Row(f"{table.name}, pieces of {piece:,}: tok/s", speed, reached, _TOLERANCE, piece in table.fitted)
            if not row.within:
                explanations.append(_summed(table, piece, row.name))
            yield row
    for name, (hardware, model, precision, speed) in DECODES.items():
        resident = _setting(hardware, model, precision, {"kind": "llama_cpp"})
        yield Row(f"{name}: decode, tok/s", speed, 1 / single(resident, 16, 129).tpot, _TOLERANCE)


_WHY = {
    (False, True): "Vectors times experts of this shape do not reach the bandwidth that dense ones do.",
    (True, True): "Half a year later a few tokens are spread over a GPU's multiprocessors more evenly (pull request 22298).",
    (True, False): "Experts with a hundred tokens each fill tiles that the fitted ones leave open.",
}
"""(More than one token in a piece, fewer than 64) -> what the constants leave out."""


def _summed(table: Table, piece: int, name: str) -> Explanation:
    """What the constants, fitted on another GPU and model, say of the prompt by hand."""
    seconds = resident_prefill(drawn(table.setting(piece), 1, table.prompt, 1), piece)
    text = (
        f"{name}: kernels and activations, summed by hand with the constants of DeepSeek-V2-Lite on the RTX 3090, take "
        f"{seconds:.3g} s where {table.prompt / table.speeds[piece]:.3g} were measured. {_WHY[piece > 1, piece < 64]}"
    )
    return Explanation(name, table.prompt / seconds, text)


def _findings() -> Findings:
    explanations: list[Explanation] = []
    rows = tuple(_rows(explanations))
    first = TABLES[0].setting(TABLES[0].fitted[0])
    flops, moved, grouping = (value(first, "gpu", "packed", key) for key in ("expert_flops", "expert_activations", "grouping"))
    constants = (
        f"Fitted on an RTX 3090: experts make {flops} FLOP per vector operation of the GPU (32 and 256 tokens), and a layer of "
        f"a step of several tokens takes {grouping} more (2 tokens). Dense products, and how long a weight takes to unpack, as "
        f"in runtime-llama-cpp-dense. Counted in the program: {moved} sqrt(hidden x width) numbers of 16 bits move per token "
        "and expert."
    )
    fixed = (
        "Decoding rests on the fixed times of kernels that were measured under vLLM; the two RTX 4090 are of different people, "
        "whose machines differ by a fifth on Qwen3-30B-A3B."
    )
    return Findings(rows, tuple(explanations), (spread(rows), constants, fixed))


CASE = Case(
    id="runtime-llama-cpp-moe",
    kind="system",
    summary="llama.cpp with all experts in GPU memory: four models on three GPUs by micro-batch of 1 to 4,096 tokens; decode.",
    source="ggml-org/llama.cpp pull requests 15525, 15631, 16834, 16991, 22298",
    runner=_findings,
    fitted="experts' products and grouping, on 2, 32 and 256 tokens of DeepSeek-V2-Lite (RTX 3090)",
)
