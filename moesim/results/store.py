"""Run directories: what is in them, and how they come to be all at once or not at all.

Knows files; not what the numbers mean.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake
from moesim.results.columns import TABLES, from_csv, to_csv

if TYPE_CHECKING:
    from moesim.results.result import Result

__all__ = ["FILES", "load", "save"]

FORMAT = "moesim result 1"
FILES = frozenset(
    {"result.json", "trace.json.gz", "report.html"}
    | {f"{name}.{end}" for name in (*TABLES, "uncertainty") for end in ("csv", "parquet")}
)
"""Names that a run directory may hold; a directory with any other file is not overwritten."""


def save(result: Result, directory: Path, *, timeline: bool = False) -> Path:
    """Writes `result` into a new folder beside `directory` and moves that into place; returns the directory.

    The rename is the last act: whoever looks sees the old run, for an instant none, or the new one, never a part.
    """
    directory = directory.resolve()
    _refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        _write(result, fresh, timeline)
        if directory.exists():
            directory.rename(work / "old")
        try:
            fresh.rename(directory)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(directory)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return directory


def _refuse_foreign(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise InputError(Mistake("is a file; name a directory for the results", file=str(directory)))
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in FILES or not entry.is_file())
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
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    for name, columns in result.columns.items():
        (folder / f"{name}.csv").write_text(to_csv(columns), encoding="utf-8", newline="\n")
        if find_spec("pyarrow") is not None:
            result.frame(name).to_parquet(folder / f"{name}.parquet", index=False)
    if timeline:
        from moesim.report.timeline import write_trace

        write_trace(result, folder / "trace.json.gz")


def load(place: Path) -> Result:
    """The run saved in the directory `place`, or beside the `result.json` that it names."""
    from moesim.results.result import Result

    path = place / "result.json" if place.is_dir() else place
    document = _read(path)
    columns = {}
    for name in (*TABLES, "uncertainty"):
        table = path.parent / f"{name}.csv"
        if table.exists():
            columns[name] = from_csv(files.read_text(table), str(table))
    return Result(document["summary"], columns, document.get("provenance", {}), document.get("details", {}))


def _read(path: Path) -> dict[str, Any]:
    document = strict_json.read(path, missing="no such result; name a run directory or its result.json")
    if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("summary"), dict):
        raise InputError(Mistake(f"is no result of a run (no format '{FORMAT}')", file=str(path)))
    return document
