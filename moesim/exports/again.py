"""What an export costs: the exported placement simulated on the run's requests and routing, beside the run itself.

Knows runs and placements; nothing of the words of a program.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moesim.exports import writer_of
from moesim.exports.placed import Exported, Placed, read_placed
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.units import format_bytes, format_number, format_share
from moesim.writing import folder_target, write

__all__ = ["Export", "export"]

_METRICS = ("throughput_tok_s", "prefill_tok_s", "decode_tok_s", "decode_hit_rate")


@dataclass(frozen=True)
class Moved:
    """How far the exported placement is from the run's."""

    pairs: int
    """(layer, expert) pairs."""
    moved: int
    """Pairs that are elsewhere than in the run."""
    run_bytes: str
    """Experts in GPU memory, with a unit: of the run, and of the export."""
    exported_bytes: str
    run_share: float
    """Share of the run's expert uses that met a copy in GPU memory: of the run's placement, and of the exported one."""
    exported_share: float


@dataclass(frozen=True)
class Simulated:
    """One placement on the run's requests and routing."""

    label: str
    throughput_tok_s: float
    prefill_tok_s: float | None
    decode_tok_s: float | None
    decode_hit_rate: float | None
    ttft_s: float | None
    """Mean."""


@dataclass(frozen=True)
class Export:
    """The answer of an export."""

    tool: str
    run: str
    """Where the run lies."""
    command: tuple[str, ...]
    """Program, then one option with its value each."""
    placement: Moved
    simulated: tuple[Simulated, ...]
    """The run, the export under the run's runtime, and under the program's own if that is another."""
    notes: tuple[str, ...]
    """What the program cannot hold of the run."""
    files: dict[str, str]
    """Name -> text of each file that the command names."""

    @property
    def document(self) -> dict[str, Any]:
        """In plain JSON types, the files by name."""
        return {**asdict(self), "files": sorted(self.files)}

    @property
    def line(self) -> str:
        """The command as it is typed, an option a line."""
        return " \\\n    ".join(self.command)

    def __str__(self) -> str:
        placement, rows = self.placement, self.simulated
        lines = [self.line, ""]
        lines.append(
            "placement   the run's own"
            if placement.moved == 0
            else f"placement   {placement.moved:,} of {placement.pairs:,} experts are elsewhere than in the run; "
            f"{placement.exported_bytes} in GPU memory, {placement.run_bytes} in the run"
        )
        shares = f"{format_share(placement.run_share)} in the run, {format_share(placement.exported_share)} here"
        lines.append(f"uses        of experts in GPU memory: {shares}")
        width = max(len(row.label) for row in rows)
        lines += ["", f"{'':{width}}  {'tok/s':>8}  {'prefill':>8}  {'decode':>8}"]
        for row in rows:
            speeds = row.throughput_tok_s, row.prefill_tok_s, row.decode_tok_s
            numbers = "  ".join(f"{format_number(speed, 4):>8}" for speed in speeds)
            lines.append(f"{row.label:{width}}  {numbers}")
        return "\n".join([*lines, *(f"\nnote: {note}" for note in self.notes)])


def export(tool: str, run: str | Path | Result, *, out: str | Path | None = None) -> Export:
    """The placement of a finished run as what its user types for `tool` (`llama-cpp`, `ktransformers`, `vllm`, `sglang`).

    The placement is the one that the run ended with; where the program cannot hold it, the nearest one that it can. Both are
    simulated on the same requests and routing: under the run's runtime, and under the program's own where that is another. With
    `out` the command and its files are written there. Raises InputError for what is not a run, and for a model that the program
    cannot place.
    """
    writer = writer_of(tool)
    if out is not None:
        folder_target(out)
    placed = read_placed(run)
    exported: Exported = writer(placed)
    answer = Export(
        tool=tool,
        run=placed.place,
        command=exported.command,
        placement=_compared(placed, exported),
        simulated=tuple(_simulated(placed, exported)),
        notes=exported.notes,
        files=dict(exported.files),
    )
    if out is not None:
        for name, text in {"command.sh": answer.line + "\n", **answer.files}.items():
            write(Path(out) / name, text)
    return answer


def _compared(placed: Placed, exported: Exported) -> Moved:
    uses = max(int(placed.uses.sum()), 1)
    return Moved(
        pairs=int(placed.resident.size),
        moved=int((placed.resident != exported.resident).sum()),
        run_bytes=format_bytes(float(placed.sizes[placed.resident].sum())),
        exported_bytes=format_bytes(float(placed.sizes[exported.resident].sum())),
        run_share=float(placed.uses[placed.resident].sum()) / uses,
        exported_share=float(placed.uses[exported.resident].sum()) / uses,
    )


def _simulated(placed: Placed, exported: Exported) -> list[Simulated]:
    """The run, the export under its runtime, and the export under the program's own, if that is another."""
    own = exported.policy.runtime
    runtime = str(placed.summary["runtime"])
    rows = [_row(f"run: {placed.summary['policy']}, runtime {runtime}", placed.summary)]
    again = run_loaded(placed.loaded, RunOptions(bound=False), policy=exported.policy)
    rows.append(_row(f"exported, runtime {again.summary['runtime']}", again.summary))
    if again.summary["runtime"] != own:
        program = loaded(placed.loaded, policy=None, seed=None, **{"runtime": own})
        rows.append(
            _row(f"exported, runtime {own}", run_loaded(program, RunOptions(bound=False), policy=exported.policy).summary)
        )
    return rows


def _row(label: str, summary: dict[str, Any]) -> Simulated:
    return Simulated(label=label, ttft_s=summary["ttft_s"]["mean"], **{name: summary[name] for name in _METRICS})
