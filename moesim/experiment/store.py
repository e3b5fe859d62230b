"""The directory of a sweep: what lies there, each point written whole or not at all, and nothing of anybody else's touched.

Knows files, names and checksums; not what the numbers mean.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from moesim import files, strict_json
from moesim.errors import InputError, Mistake
from moesim.results.plain import canonical
from moesim.results.sweeps.description import FORMAT as SWEEP
from moesim.results.sweeps.description import NAME as EXPERIMENT
from moesim.results.sweeps.description import Description
from moesim.results.sweeps.result import OUTPUTS
from moesim.writing import clear_leftovers, entries, folder_target, is_leftover, remove, write

__all__ = ["Store"]

FORMAT = "moesim point 1"
_POINT = re.compile(r"([0-9a-f]{32})\.json\Z")
_PICTURE = re.compile(r"[^.].*\.(html|svg|png)\Z")
_SHOWN = 20


class Store:
    """A directory for the points of one experiment. InputError, with nothing written, where it holds what is not ours.

    Several sweeps may write to it at once (the shards of a job array on a shared disk): a point's file is made under a name of
    its own and renamed, so a reader sees all of it or nothing.
    """

    def __init__(self, directory: Path, description: Description) -> None:
        self.directory = folder_target(directory)
        self.points = directory / "points"
        self._description = description
        self.records: dict[str, dict[str, Any]] = {}
        """Name -> record of every point that lies there, of older forms of the experiment too."""
        mistakes = self._strangers()
        if not mistakes:
            mistakes = self._other() + self._read()
        if mistakes:
            shown, left = mistakes[:_SHOWN], len(mistakes) - _SHOWN
            more = [Mistake(f"and {left} more such files", file=str(directory))] if left > 0 else []
            raise InputError(*shown, *more)

    def open(self) -> None:
        """Makes the directory, takes away what a killed sweep left half-written, and says what the directory is for."""
        for folder in (self.directory, self.points):
            clear_leftovers(folder)
        write(self.directory / EXPERIMENT, self._description.text())

    def forget_outputs(self) -> None:
        """Takes away the table and the answer of an earlier state: they are written anew when all points are there."""
        for name in OUTPUTS:
            remove(self.directory / name)

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Keeps the record of a point: on disk when this returns."""
        body = {"format": FORMAT, "point": name, **record}
        write(self.points / f"{name}.json", canonical({**body, "check": _check(body)}) + b"\n")
        self.records[name] = record

    def _strangers(self) -> list[Mistake]:
        """Files that no sweep wrote."""
        message = "no sweep of moesim wrote this; name a new or empty directory, or take it away"
        mistakes = []
        for name, is_file in sorted(entries(self.directory)):
            if not (self.points.is_dir() if name == "points" else is_file and _is_ours(name)):
                mistakes.append(Mistake(message, file=str(self.directory / name)))
        for name, is_file in sorted(entries(self.points)) if self.points.is_dir() else ():
            if not is_file or not (_POINT.match(name) or is_leftover(name)):
                mistakes.append(Mistake(message, file=str(self.points / name)))
        return mistakes

    def _other(self) -> list[Mistake]:
        """Whether the directory belongs to another experiment."""
        path = self.directory / EXPERIMENT
        if not path.exists():
            if self.points.is_dir() and any(_POINT.match(entry.name) for entry in self.points.iterdir()):
                return [Mistake("is missing, though there are points; name a new or empty directory", file=str(path))]
            return []
        try:
            document = strict_json.read(path)
        except InputError:
            return [Mistake("cannot be read as JSON; take the file away and run again", file=str(path))]
        if not isinstance(document, dict) or document.get("format") != SWEEP:
            return [Mistake(f"is not a '{SWEEP}'; name a new or empty directory", file=str(path))]
        if document.get("name") != self._description.name:
            names = f"'{document.get('name')}', not to '{self._description.name}'"
            message = f"belongs to the experiment {names}; name another directory"
            return [Mistake(message, file=str(path))]
        return []

    def _read(self) -> list[Mistake]:
        mistakes = []
        for path in sorted(self.points.iterdir()) if self.points.is_dir() else ():
            match = _POINT.match(path.name)
            if match is None:
                continue
            record, wrong = _record(path, match.group(1))
            if record is None:
                message = f"{wrong}; take the file away and run again: its point is then computed anew"
                mistakes.append(Mistake(message, file=str(path)))
            else:
                self.records[match.group(1)] = record
        return mistakes


def _is_ours(name: str) -> bool:
    return name in (EXPERIMENT, *OUTPUTS) or bool(_PICTURE.match(name)) or is_leftover(name)


def _record(path: Path, name: str) -> tuple[dict[str, Any] | None, str]:
    """What a point's file holds, or what is wrong with it."""
    try:
        raw = files.read_bytes(path)
    except InputError as error:
        return None, error.mistakes[0].message
    try:
        body = strict_json.parse(files.decoded(raw, str(path)), str(path))
    except InputError:
        return None, "is empty" if not raw.strip() else "is damaged or cut short: no JSON"
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        return None, f"is not a '{FORMAT}'"
    check = body.pop("check", None)
    if check != _check(body):
        return None, "is damaged: its contents do not match its checksum"
    if body.get("point") != name:
        return None, f"is the point {body.get('point')} under another name"
    return {key: value for key, value in body.items() if key not in ("format", "point")}, ""


def _check(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()
