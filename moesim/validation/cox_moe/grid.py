"""Owns CoX-MoE's gains over MoE-Lightning and FlexGen on three GPUs with three models: every cell of its figure 7.

Knows its settings; the rates of the program are those of the ablation, so no number of this grid is fitted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from moesim.contract import Deployment
from moesim.runs.run import loaded
from moesim.validation.case import Case, Exhibit, Explanation, Findings, Row
from moesim.validation.cox_moe.ablation import EXPONENT
from moesim.validation.cox_moe.runs import OWN, SCENARIO, Parameters, Program, Setting, added, planned, simulated
from moesim.validation.pace import Pace

__all__ = ["CASE", "HYPOTHESES", "OVER", "Cell", "cells", "explored", "findings", "gains", "settings"]

SEQUENCES = 1024
LENGTHS = [(97, 32), (97, 256), (800, 32), (800, 256)]
MODELS = {"mixtral-8x7b": 0.22, "deepseek-v2-lite": 0.4, "qwen3-30b-a3b": EXPONENT}
"""Model -> Zipf exponent of its popularity over mixed traffic (maximum likelihood)."""
MACHINES = {"RTX 6000 Ada": "rtx6000ada-xeon8452y", "A100": "a100-xeon8452y", "H100": "h100-xeon8452y"}
COX: Parameters = (("kind", "cox_moe"), ("batch", SEQUENCES), ("micro_batch_decode", SEQUENCES))
OVER: dict[str, tuple[tuple[float, float], Parameters]] = {
    "MoE-Lightning": (
        (1.7, 2.4),
        (
            ("kind", "moe_lightning"),
            ("batch", SEQUENCES),
            ("micro_batch", SEQUENCES // 2),
            ("attention", "gpu"),
            ("balance", False),
            ("reupload", True),
            ("cache", None),
        ),
    ),
    "FlexGen": ((3.4, 7.1), (("kind", "flexgen"),)),
}
"""Baseline -> published range of gains, and its policy: MoE-Lightning with half the batch at a time, uploading for each half,
as in the ablation, its cache where its plan puts it; FlexGen with the block that its own search finds."""


class Cell(NamedTuple):
    """One setting: seconds by the engine and by sums over layers, of CoX-MoE and of a baseline."""

    name: str
    setting: Setting
    over: str
    cox: tuple[Pace, Pace]
    rival: tuple[Pace, Pace]
    free: float
    """Gain where the program costs nothing, by sums over layers."""
    parts: int
    """GPU batches or micro-batches of the baseline: how often it calls an expert in a pass over all sequences."""

    def gain(self, which: int = 0) -> float:
        """By the engine (0), or by sums (1)."""
        output = self.setting.output
        return self.rival[which].total(output) / self.cox[which].total(output)


def settings() -> Iterator[tuple[str, Setting]]:
    """The 36 cells; machines are innermost, because they share a routing."""
    for model, exponent in MODELS.items():
        for prompt, output in LENGTHS:
            for gpu, machine in MACHINES.items():
                yield f"{model}, {gpu}, {prompt} + {output}", Setting(machine, model, exponent, SEQUENCES, prompt, output)


def cells(name: str, setting: Setting) -> list[Cell]:
    """The cell against both baselines."""
    cox = simulated(setting, COX, OWN), added(setting, COX, OWN)
    free = added(setting, COX, ()).total(setting.output)
    found_cells = []
    for over, (_, policy) in OVER.items():
        rival = simulated(setting, policy, OWN), added(setting, policy, OWN)
        gain = added(setting, policy, ()).total(setting.output) / free
        found_cells.append(Cell(name, setting, over, cox, rival, gain, _parts(setting, policy)))
    return found_cells


def _parts(setting: Setting, policy: Parameters) -> int:
    """Calls of an expert in one decode pass over all sequences."""
    planned_deployment: Deployment = planned(setting, policy).plan
    return -(
        -setting.sequences
        // min(planned_deployment.plan.expert_batch or planned_deployment.plan.batch, planned_deployment.plan.batch)
    )


BLOCKING: Parameters = (
    ("kind", "moe_lightning"),
    ("batch", SEQUENCES),
    ("micro_batch", SEQUENCES // 4),
    ("attention", "gpu"),
    ("balance", False),
    ("reupload", True),
    ("cache", None),
)
"""FlexGen's streaming as a program would do it whose copies block: GPU batches of 256, each of which uploads for itself."""
SLOWEST: Parameters = (("kind", "flexgen"), ("wg", 0.0), ("kv_cpu", True), ("cpu_attention", False))
"""FlexGen at its slowest that still uploads a layer once for a block: no weight in GPU memory, a cache that crosses PCIe."""
HYPOTHESES: dict[str, tuple[Program, Program, Parameters, Parameters]] = {
    "as simulated": (OWN, (), COX, OVER["FlexGen"][1]),
    "with copies of 7.2 GB/s and a cache read at 12.8 GB/s, the differences of table 3": (
        (*OWN, ("runtime.copies.rate", "7.2 GB/s"), ("runtime.cpu.attention.bandwidth", "12.8 GB/s")),
        (),
        COX,
        OVER["FlexGen"][1],
    ),
    "with plans that know the program": (OWN, OWN, COX, OVER["FlexGen"][1]),
    "with CoX-MoE's plan by the constants that it quotes": (OWN, (), (*COX, ("planner", "published")), OVER["FlexGen"][1]),
    "with FlexGen at its slowest, no weight in GPU memory and its cache crossing PCIe": (OWN, (), COX, SLOWEST),
    "with FlexGen uploading for each of four GPU batches": (OWN, (), COX, BLOCKING),
}
"""Hypothesis -> (program, what plans know of it, CoX-MoE's policy, FlexGen's)."""


def gains(setting: Setting, hypothesis: str) -> dict[str, float]:
    """Baseline -> gain over it, by sums over layers."""
    program, known, cox, flexgen = HYPOTHESES[hypothesis]
    ours = added(setting, cox, program, known).total(setting.output)
    rivals = {"MoE-Lightning": OVER["MoE-Lightning"][1], "FlexGen": flexgen}
    return {over: added(setting, policy, program, known).total(setting.output) / ours for over, policy in rivals.items()}


Tried = dict[str, list[dict[str, float]]]
"""Hypothesis -> gains in every setting."""


def explored(settings: Iterable[tuple[str, Setting]]) -> tuple[list[Cell], Tried]:
    """The cells of some settings, and what each hypothesis gives there; a setting at a time, because its routing is large."""
    all_cells: list[Cell] = []
    tried: Tried = {hypothesis: [] for hypothesis in HYPOTHESES}
    for name, setting in settings:
        all_cells += cells(name, setting)
        for hypothesis, gains_so_far in tried.items():
            gains_so_far.append(gains(setting, hypothesis))
    return all_cells, tried


def _findings() -> Findings:
    return findings(*explored(settings()))


def findings(all_cells: list[Cell], tried: Tried) -> Findings:
    """What the cells and the hypotheses come to."""
    rows = [_row(cell) for cell in all_cells]
    texts = tuple(_explained(row, cell) for row, cell in zip(rows, all_cells, strict=True) if not row.within)
    return Findings(tuple(rows), texts, tuple(_notes(all_cells, tried)), (Exhibit("cells", csv=_csv(all_cells)),))


def _row(cell: Cell) -> Row:
    """Inside the published range means within half its width of its middle."""
    low, high = OVER[cell.over][0]
    middle = (low + high) / 2
    return Row(f"{cell.name}: over {cell.over}", middle, cell.gain(), (high - low) / 2 / middle)


def _explained(row: Row, cell: Cell) -> Explanation:
    (ours, theirs), passes = (cell.cox[1], cell.rival[1]), cell.setting.output - 1
    often = f"{cell.parts} call{'s' if cell.parts > 1 else ''} of each expert a pass"
    text = (
        f"{row.name}: layer by layer {theirs.prefill:.1f} s + {passes} x {theirs.step:.2f} s with {often}, "
        f"against {ours.prefill:.1f} s + {passes} x {ours.step:.2f} s with one: {cell.gain(1):.2f}."
    )
    return Explanation(row.name, cell.gain(1), text)


def _notes(all_cells: list[Cell], tried: Tried) -> Iterator[str]:
    for over, ((low, high), _) in OVER.items():
        of_rival = [cell for cell in all_cells if cell.over == over]
        inside = sum(_row(cell).within for cell in of_rival)
        free = [cell.free for cell in of_rival]
        yield (
            f"Over {over}: {inside} of {len(of_rival)} cells inside the published {low} to {high}. Were the program "
            f"free, gains would be {min(free):.2f} to {max(free):.2f} (by sums over layers)."
        )
    blocks = ", ".join(str(parts) for parts in sorted({cell.parts for cell in all_cells if cell.over == "FlexGen"}))
    yield (
        "Per pass over all sequences an expert is called once by CoX-MoE, twice by MoE-Lightning and "
        f"{blocks} times by the blocks that FlexGen's search finds."
    )
    yield f"By model: {'; '.join(_by_model(all_cells))}."
    yield _ceiling(all_cells)
    for hypothesis, gains_so_far in tried.items():
        parts = (_counted(over, [gain[over] for gain in gains_so_far]) for over in OVER)
        yield f"By sums over layers, {hypothesis}: {'; '.join(parts)}."


def _ceiling(all_cells: list[Cell]) -> str:
    """By hand, the cell with the largest cache: what FlexGen can lose where both systems read the cache in every pass."""
    cell = max((cell for cell in all_cells if cell.over == "FlexGen"), key=lambda cell: cell.cox[1].step)
    setting, runtime = cell.setting, loaded(SCENARIO, **dict(OWN)).scenario.runtime
    model = loaded(SCENARIO, model=setting.model, hardware=setting.hardware).scenario.model
    link, cpu = float(runtime.copies.rate or 0.0), float(runtime.cpu.attention.bandwidth or 0.0)
    cache = float(model.kv_total(np.full(setting.sequences, setting.prompt + setting.output // 2)))
    weights = float(model.all_expert_bytes)
    most = (cache / link + weights / link) / (cache / cpu)
    return (
        f"By hand, {cell.name}: in each pass {cache / 1e9:.0f} GB of cache are read, in {cache / cpu:.1f} s by the CPU or "
        f"{cache / link:.1f} s over PCIe, and FlexGen uploads at most all {weights / 1e9:.0f} GB of experts, in "
        f"{weights / link:.1f} s. What it moves takes {most:.2f} times what CoX-MoE needs for the cache alone, and "
        f"{OVER['FlexGen'][0][0]} is claimed. "
        "Only a program that uploads the same weights several times a pass is so slow, which FlexGen's block is there to avoid."
    )


def _counted(over: str, gains: list[float]) -> str:
    """How many gains over a baseline are inside its range."""
    low, high = OVER[over][0]
    inside = sum(low <= gain <= high for gain in gains)
    return f"{inside} of {len(gains)} inside over {over} ({min(gains):.2f} to {max(gains):.2f}, median {np.median(gains):.2f})"


def _by_model(all_cells: list[Cell]) -> Iterator[str]:
    for model in MODELS:
        gains = {over: [c.gain() for c in all_cells if c.over == over and c.setting.model == model] for over in OVER}
        ranges = " and ".join(f"{min(values):.2f}-{max(values):.2f} over {over}" for over, values in gains.items())
        yield f"{model} {ranges} (median {np.median(gains['MoE-Lightning']):.2f} over MoE-Lightning)"


def _csv(all_cells: list[Cell]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [
        "model",
        "hardware",
        "prompt",
        "output",
        "over",
        "gain",
        "gain_by_sums",
        "gain_if_the_program_is_free",
        "calls_per_pass",
    ]
    writer.writerow([*head, "cox_prefill_s", "cox_step_s", "other_prefill_s", "other_step_s"])
    for cell in all_cells:
        setting, times = cell.setting, (*cell.cox[0], *cell.rival[0])
        gains = (f"{value:.4f}" for value in (cell.gain(0), cell.gain(1), cell.free))
        place = (setting.model, setting.hardware, setting.prompt, setting.output, cell.over)
        writer.writerow([*place, *gains, cell.parts, *(f"{value:.4f}" for value in times)])
    return text.getvalue()


CASE = Case(
    id="cox-moe-ranges",
    kind="ratio",
    summary="1,024 sequences on three GPUs with three models: gains of CoX-MoE over MoE-Lightning and FlexGen.",
    source="CoX-MoE, DAC 2026, arXiv:2605.17889, abstract and figure 7; a row is met inside the published range",
    runner=_findings,
    fitted="nothing here; the rates of the program come from cox-moe-table3",
)
