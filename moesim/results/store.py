"""Run directories: what is in them, and how they come to be all at once or not at all.

Knows files; not what the numbers mean.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake
from moesim.results.columns import STUDIES, TABLES, csv_parts, from_csv
from moesim.results.long.parquet import parquet_parts
from moesim.results.long.table import Table
from moesim.writing import entries, folder_target, new_folder, write

if TYPE_CHECKING:
    from moesim.results.result import Result

__all__ = ["FILES", "content_of", "load", "refuse_foreign", "save"]

FORMAT = "moesim result 1"
FILES = frozenset(
    {"result.json", "trace.json.gz", "report.html"}
    | {f"{name}.{end}" for name in (*TABLES, *STUDIES) for end in ("csv", "parquet")}
)
"""Names that a run directory may hold; a directory with any other file is not overwritten."""


def save(result: Result, directory: Path, *, timeline: bool = False) -> Path:
    """Writes `result` into a new folder beside `directory` and moves that into place; returns the directory.

    The rename is the last act: a reader sees the old run, for an instant none, or the new one, never a part.
    """
    directory = directory.resolve()
    refuse_foreign(directory)
    with new_folder(directory) as fresh:
        _write(result, fresh, timeline)
    return directory


def refuse_foreign(directory: Path) -> None:
    """InputError where the files of a run cannot take the place of what stands at `directory`. Raised before the run."""
    folder_target(directory, replaced=True)
    foreign = sorted(name for name, is_file in entries(directory) if name not in FILES or not is_file)
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        message = f"holds files that no run of moesim wrote ({shown}); name a new or empty directory"
        raise InputError(Mistake(message, file=str(directory)))


def _write(result: Result, folder: Path, timeline: bool) -> None:
    document = {
        "format": FORMAT,
        "summary": result.summary,
        "details": result.details,
        "provenance": result.provenance,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write(folder / "result.json", text + "\n")
    for name, columns in result.columns.items():
        write(folder / f"{name}.csv", (text.encode() for text in csv_parts(columns)))
        if find_spec("pyarrow") is not None:
            write(folder / f"{name}.parquet", parquet_parts(columns))
    if timeline:
        from moesim.results.timeline import write_trace

        write_trace(result, folder / "trace.json.gz")


def load(place: Path) -> tuple[dict[str, Any], dict[str, Table], dict[str, Any], dict[str, Any]]:
    """Summary, tables, provenance and details of a saved run; `place` is its directory or its `result.json`."""
    path = place / "result.json" if place.is_dir() else place
    document = _read(path)
    columns: dict[str, Table] = {}
    for name in (*TABLES, *STUDIES):
        table = path.parent / f"{name}.csv"
        if table.exists():
            columns[name] = from_csv(files.read_text(table), str(table))
    return document["summary"], columns, document.get("provenance", {}), document.get("details", {})


def content_of(directory: Path) -> str | None:
    """The content hash of the scenario whose run is in `directory`; None where no run can be read there."""
    try:
        provenance = _read(directory / "result.json").get("provenance")
    except InputError:
        return None
    known = provenance.get("content_hash") if isinstance(provenance, dict) else None
    return known if isinstance(known, str) else None


def _read(path: Path) -> dict[str, Any]:
    document = strict_json.read(path, missing="no such result; name a run directory or its result.json")
    if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("summary"), dict):
        raise InputError(Mistake(f"is not the result of a run (no format '{FORMAT}')", file=str(path)))
    return document
