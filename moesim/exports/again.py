"""What an export costs: the exported placement simulated on the run's requests and routing, beside the run itself.

Knows runs and placements; nothing of the words of a program.
"""

from __future__ import annotations

from dataclasses import dataclass
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
class Export:
    """The answer of an export: `answer` in plain JSON types, and the text of each file."""

    answer: dict[str, Any]
    files: dict[str, str]

    def __str__(self) -> str:
        placement, rows = self.answer["placement"], self.answer["simulated"]
        lines = [" \\\n    ".join(self.answer["command"]), ""]
        unmoved = placement["moved"] == 0
        lines.append(
            "placement   the run's own"
            if unmoved
            else f"placement   {placement['moved']:,} of {placement['pairs']:,} experts are elsewhere than in the run; "
            f"{placement['exported_bytes']} in GPU memory, {placement['run_bytes']} in the run"
        )
        shares = f"{format_share(placement['run_share'])} in the run, {format_share(placement['exported_share'])} here"
        lines.append(f"uses        of experts in GPU memory: {shares}")
        width = max(len(row["what"]) for row in rows)
        lines += ["", f"{'':{width}}  {'tok/s':>8}  {'prefill':>8}  {'decode':>8}"]
        for row in rows:
            numbers = "  ".join(f"{format_number(row[name], 4):>8}" for name in _METRICS[:3])
            lines.append(f"{row['what']:{width}}  {numbers}")
        return "\n".join([*lines, *(f"\nnote: {note}" for note in self.answer["notes"])])


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
    answer = {
        "tool": tool,
        "run": placed.place,
        "command": list(exported.command),
        "files": sorted(exported.files),
        "placement": _compared(placed, exported),
        "simulated": _simulated(placed, exported),
        "notes": list(exported.notes),
    }
    files = {"command.sh": " \\\n    ".join(exported.command) + "\n", **exported.files}
    if out is not None:
        for name, text in files.items():
            write(Path(out) / name, text)
    return Export(answer, files)


def _compared(placed: Placed, exported: Exported) -> dict[str, Any]:
    uses = max(int(placed.uses.sum()), 1)
    return {
        "pairs": int(placed.resident.size),
        "moved": int((placed.resident != exported.resident).sum()),
        "run_bytes": format_bytes(float(placed.sizes[placed.resident].sum())),
        "exported_bytes": format_bytes(float(placed.sizes[exported.resident].sum())),
        "run_share": float(placed.uses[placed.resident].sum()) / uses,
        "exported_share": float(placed.uses[exported.resident].sum()) / uses,
    }


def _simulated(placed: Placed, exported: Exported) -> list[dict[str, Any]]:
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


def _row(place: str, summary: dict[str, Any]) -> dict[str, Any]:
    return {"what": place, **{name: summary[name] for name in _METRICS}, "ttft_s": summary["ttft_s"]["mean"]}
