"""Owns what validation cases have in common: parts of shipped profiles, rows of curves and their pictures, data folders.

Knows profiles by name and component models by their specs; no particular case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.hardware import System
from moesim.scenario import catalogue
from moesim.scenario.resolve import Resolver
from moesim.units import format_share
from moesim.validation.case import Exhibit, Row

__all__ = ["NO_DATA", "Curve", "data_folder", "machine", "picture", "profile", "worst"]

NO_DATA = "data not found: name its folder in MOESIM_DATA, or put it beside the checkout as shared/data"


def profile(name: str) -> dict[str, Any]:
    """A shipped hardware profile as plain data with units, what it says of sources taken off."""
    resolver = Resolver(Path())
    node = resolver.file(catalogue.find("hardware", name)).plain()
    return {key: value for key, value in node.items() if key not in ("source", "summary", "basis", "note", "date")}


def machine(devices: Mapping[str, Any], tiers: Mapping[str, Any], links: Mapping[str, Any], name: str = "") -> System:
    """A machine of parts; a part with `profile` starts from that profile, its other keys go on top."""
    parts = {
        group: {key: _whole(part) for key, part in members.items()}
        for group, members in (("devices", devices), ("tiers", tiers), ("links", links))
    }
    return System.model_validate({"kind": "system", "name": name, **parts})


def _whole(part: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in part.items() if key != "profile"}
    return {**profile(part["profile"]), **own} if "profile" in part else own


def data_folder(*inside: str) -> Path | None:
    """The folder of recorded data, if it has `inside`: what `MOESIM_DATA` names, else `shared/data` beside the checkout.

    The data are other people's and are not shipped; a case that needs them is skipped where they are not.
    """
    named = os.environ.get("MOESIM_DATA")
    places = [Path(named).expanduser()] if named else [Path(__file__).resolve().parents[3] / "shared" / "data"]
    return next((place for place in places if place.joinpath(*inside).exists()), None)


@dataclass(frozen=True)
class Curve:
    """Published points beside a simulated curve."""

    label: str
    x: tuple[float, ...]
    published: tuple[float, ...]
    simulated: Callable[[Any], Any]
    """Of an array of x."""
    fitted: frozenset[float] = frozenset()
    """The x of points that constants were fitted on."""

    def rows(self, tolerance: float, name: str) -> list[Row]:
        """A row per point; `name` holds `{label}` and `{x}`, which stand for those of the curve and the point."""
        values = np.asarray(self.simulated(np.asarray(self.x, dtype=np.float64)), dtype=np.float64)
        triples = zip(self.x, self.published, values.tolist(), strict=True)
        return [Row(name.format(label=self.label, x=x), p, s, tolerance, fitted=x in self.fitted) for x, p, s in triples]


def picture(name: str, curves: Iterable[Curve], x: str, y: str) -> Exhibit:
    """The published points of `curves` with the simulated lines through their range, both axes logarithmic."""
    drawn = list(curves)

    def draw() -> Any:
        from moesim.report.curves import curves as draw_curves

        return draw_curves([_series(curve) for curve in drawn], x=x, y=y)

    return Exhibit(name, figure=draw)


def _series(curve: Curve) -> tuple[str, Any, Any, Any, Any, Any]:
    line = np.geomspace(min(curve.x), max(curve.x), 100)
    return curve.label, curve.x, curve.published, [x in curve.fitted for x in curve.x], line, curve.simulated(line)


def worst(rows: Iterable[Row]) -> str:
    """How the rows that nothing was fitted on come out, in one sentence."""
    tested = [abs(row.error) for row in rows if not row.fitted]
    if not tested:
        return "No row is a test: each is a point that a constant was taken from."
    return (
        f"{len(tested)} tested rows: median error {format_share(float(np.median(tested)))}, worst {format_share(max(tested))}."
    )
