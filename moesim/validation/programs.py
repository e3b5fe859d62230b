"""Owns how far serving programs are met: for each one its fitted constants, the errors of its tested rows, and their order.

Knows results of cases, and which rows of theirs belong to which program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from moesim.units import format_share
from moesim.validation.case import CaseResult, Row

__all__ = ["PROGRAMS", "Program", "in_order", "table"]

_APART = 0.05
"""Relative difference of two published numbers from which their order counts."""


class Program(NamedTuple):
    """A serving program and the rows that test it."""

    name: str
    case: str
    fitted: str = "nothing"
    """Constants that were fitted, and on which rows."""
    prefix: str = ""
    """What the names of its rows begin with."""
    excluded: str = ""
    """What they do not begin with."""


PROGRAMS = (
    Program("KTransformers 0.2", "runtime-ktransformers", "rate of a core and hand-over on the prompt of 969 tokens", "0.2"),
    Program("KTransformers 0.3", "runtime-ktransformers", "rate of a core on the prompt of 1,000 tokens", "0.3"),
    Program(
        "KTransformers, current", "runtime-ktransformers",
        "stream and rate of a core, share of the link, on MiniMax-M2.1 at 2,048 and 8,192 tokens", "current",
    ),
    Program("llama.cpp", "runtime-llama-cpp", "share of the link on micro-batch 512"),
    Program(
        "llama.cpp, dense models on the GPU", "runtime-llama-cpp-dense",
        "products of vectors on 1 and 8 tokens, of matrices on 16 and 512",
    ),
    Program(
        "llama.cpp, experts in GPU memory", "runtime-llama-cpp-moe",
        "experts' products and grouping on 2, 32 and 256 tokens of one model",
    ),
    Program("vLLM, one stream and batches", "runtime-vllm"),
    Program("vLLM, serving", "vllm-llama8b-pro6000", "time per step on the first third of the requests", "one constant"),
    Program("vLLM, serving, kernels and rules alone", "vllm-llama8b-pro6000", "nothing", "kernels"),
    Program("MoE-Lightning", "runtime-offloading-l4", "efficiency of products on 64 tokens", "MoE-Lightning"),
    Program("FlexGen", "runtime-offloading-l4", "streaming, efficiency and CPU attention on 64 tokens", "FlexGen"),
    Program("DeepSpeed ZeRO-Inference, L4", "runtime-offloading-l4", "nothing", "DeepSpeed"),
    Program("ZeRO-Inference, A5000", "runtime-eager", "nothing", "zero_inference"),
    Program("ZeRO-Inference, A6000", "runtime-opt-a6000", "nothing", "ZeRO"),
    Program("FlexGen, A6000", "runtime-opt-a6000", "nothing", "FlexGen"),
    Program("MoE-Infinity, mixtral-offloading, accelerate", "runtime-eager", "nothing", "", "zero_inference"),
    Program("MoE-Gen", "runtime-moe-gen", "efficiency of products on the prefill"),
    Program("Fiddler", "runtime-fiddler", "rate of a core on prompt 64, output 16"),
)  # fmt: skip


def in_order(rows: Sequence[Row]) -> tuple[int, int]:
    """(pairs in the published order, pairs) of rows of the same measure whose published numbers differ by more than 5 %."""
    right = pairs = 0
    for first, two in combinations(rows, 2):
        alike = _measure(first) == _measure(two)
        if alike and abs(first.published - two.published) > _APART * min(abs(first.published), abs(two.published)):
            pairs += 1
            right += (first.published > two.published) == (first.simulated > two.simulated)
    return right, pairs


def table(results: Iterable[CaseResult]) -> str:
    """The programs as a table of Markdown, all tested rows together last; empty where no program's case was run."""
    by_id = {result.case.id: result for result in results}
    lines = ["| program | fitted | tested rows | median error | p90 | pairs in order |", "|---|---|--:|--:|--:|--:|"]
    all_rows: list[Row] = []
    for program in PROGRAMS:
        rows = _rows(program, by_id)
        if any(not row.fitted for row in rows):
            lines.append(_line(program.name, program.fitted, rows, *in_order(rows)))
            all_rows += rows
    if not all_rows:
        return ""
    cases = {program.case for program in PROGRAMS if program.case in by_id}
    orders = [in_order(by_id[case].findings.rows) for case in sorted(cases)]
    together = sum(right for right, _ in orders), sum(pairs for _, pairs in orders)
    lines.append(_line("**all**", "programs of one case compared with one another, too", all_rows, *together))
    return "\n".join(lines) + "\n"


def _rows(program: Program, by_id: dict[str, CaseResult]) -> list[Row]:
    if program.case not in by_id:
        return []
    rows = by_id[program.case].findings.rows
    return [
        row
        for row in rows
        if row.name.startswith(program.prefix) and not (program.excluded and row.name.startswith(program.excluded))
    ]


def _line(name: str, fitted: str, rows: Sequence[Row], right: int, pairs: int) -> str:
    errors = [abs(row.error) for row in rows if not row.fitted]
    median, p90 = (format_share(float(np.quantile(errors, q))) for q in (0.5, 0.9))
    order = f"{right} of {pairs} ({format_share(right / pairs, 0)})" if pairs else ""
    return f"| {name} | {fitted} | {len(errors)} | {median} | {p90} | {order} |"


def _measure(row: Row) -> str:
    """What a row measures, and in which unit: what follows the last colon of its name."""
    return row.name.rpartition(": ")[2]
