"""Where within a run: sums by expert, by pass and lane, by layer and lane, by kind of operation; and their tables.

Knows integer picoseconds, counts and names; the engine adds up, figures and pages read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.long.table import Table, by_rows
from moesim.results.rows import BusyRows

__all__ = ["BREAKDOWNS", "PARTS", "Breakdown", "breakdown_tables"]

BREAKDOWNS = ("experts", "operations", "step_lanes", "layer_lanes")
"""Names of the tables that come from a breakdown."""
PARTS = 2**40
"""Of a FLOP and of a byte, in which work is added up: sums of whole numbers do not depend on their order."""
_SECOND = 10**12


class Breakdown:
    """Sums of one run with `layers` MoE layers (L) of `experts` experts (E) each."""

    def __init__(self, layers: int, experts: int) -> None:
        self.tokens: NDArray[np.int64] = np.zeros((layers, experts), dtype=np.int64)
        """[L, E] (token, expert) pairs that each expert was asked for."""
        self.missed: NDArray[np.int64] = np.zeros((layers, experts), dtype=np.int64)
        """[L, E] of these, pairs whose weights had to be brought first."""
        self.home: NDArray[np.object_] = np.full((layers, experts), "", dtype=object)
        """[L, E] tier of the master copy at the end of the run."""
        self.resident: NDArray[np.bool_] = np.zeros((layers, experts), dtype=np.bool_)
        """[L, E] in GPU memory at the end of the run."""
        self.critical: dict[tuple[str, str], NDArray[np.int64]] = {}
        """(part of a layer, lane) -> [L] ps during which that lane held up that part; parts are `attention` and `experts`."""
        self.laps = BusyRows()
        self._operations: dict[tuple[str, str, str], tuple[int, int, int]] = {}
        self.roofs: dict[str, tuple[float, float]] = {}
        """Device -> most bytes per second and most FLOP per second that any of its kernels reaches."""

    def hold(self, part: str, lane: str, layers: NDArray[np.int64] | int, time: NDArray[np.int64] | int) -> None:
        """Adds `time` ps (each entry to its layer) to what `lane` held up `part` of `layers`."""
        key = (part, lane)
        sums = self.critical.get(key)
        if sums is None:
            sums = self.critical[key] = np.zeros(len(self.tokens), dtype=np.int64)
        if isinstance(layers, int) or len(layers) == 1:
            sums[layers] += time
        else:
            np.add.at(sums, layers, time)

    def operate(self, phase: str, device: str, operation: str, flops: int, nbytes: int, time: int) -> None:
        """Adds work of one kind, which took `time` ps; FLOP and bytes in `PARTS`."""
        key = (phase, device, operation)
        before = self._operations.get(key, (0, 0, 0))
        self._operations[key] = (before[0] + flops, before[1] + nbytes, before[2] + time)

    @property
    def operations(self) -> dict[tuple[str, str, str], tuple[float, float, int]]:
        """(phase, device, operation) -> FLOP, bytes read from the device's memory or its tier, ps at work."""
        return {key: (flops / PARTS, nbytes / PARTS, time) for key, (flops, nbytes, time) in self._operations.items()}


def breakdown_tables(breakdown: Breakdown) -> dict[str, Table]:
    """Table name (`BREAKDOWNS`) -> columns, in an order that does not depend on the order in which things were added."""
    return {
        "experts": _experts(breakdown),
        "operations": _operations(breakdown),
        "step_lanes": _step_lanes(breakdown.laps),
        "layer_lanes": _layer_lanes(breakdown.critical),
    }


def _experts(breakdown: Breakdown) -> dict[str, NDArray[Any]]:
    layers, experts = breakdown.tokens.shape
    return {
        "layer": np.repeat(np.arange(layers), experts),
        "expert": np.tile(np.arange(experts), layers),
        "activations": breakdown.tokens.ravel(),
        "hits": (breakdown.tokens - breakdown.missed).ravel(),
        "home": breakdown.home.ravel(),
        "resident": breakdown.resident.ravel().astype(np.int64),
    }


def _operations(breakdown: Breakdown) -> dict[str, NDArray[Any]]:
    operations = breakdown.operations
    keys = sorted(operations)
    sums = np.array([operations[key] for key in keys], dtype=np.float64).reshape(-1, 3)
    roofs = np.array([breakdown.roofs.get(device, (np.nan, np.nan)) for _, device, _ in keys], dtype=np.float64).reshape(-1, 2)
    names = {name: np.array([key[i] for key in keys], dtype=object) for i, name in enumerate(("phase", "device", "operation"))}
    numbers = {"work_FLOP": sums[:, 0], "read_B": sums[:, 1], "time_s": sums[:, 2] / _SECOND}
    return {**names, **numbers, "roof_B_s": roofs[:, 0], "roof_FLOP_s": roofs[:, 1]}


def _step_lanes(laps: BusyRows) -> Table:
    lanes = laps.worked()

    def part(rows: slice) -> dict[str, NDArray[Any]]:
        return {
            "step": np.repeat(np.arange(rows.start, rows.stop), len(lanes)),
            "lane": np.array(lanes * (rows.stop - rows.start), dtype=object),
            "busy_s": laps.within(lanes, rows).ravel() / _SECOND,
        }

    return by_rows(len(laps), part)


def _layer_lanes(critical: Mapping[tuple[str, str], NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    keys = sorted(key for key, times in critical.items() if times.any())
    layers = len(critical[keys[0]]) if keys else 0
    return {
        "layer": np.tile(np.arange(layers), len(keys)),
        "part": np.repeat(np.array([part for part, _ in keys], dtype=object), layers),
        "lane": np.repeat(np.array([lane for _, lane in keys], dtype=object), layers),
        "critical_s": np.concatenate([critical[key] for key in keys]) / _SECOND if keys else np.zeros(0),
    }
