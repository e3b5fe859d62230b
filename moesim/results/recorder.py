"""What the engine writes down while it runs: running sums per lane, link, layer and pass, and slices on request.

Knows integer picoseconds and names only; what the numbers mean is for `result.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.results.breakdown import Breakdown
from moesim.results.rows import PassRow, PassRows

__all__ = ["COUNTER", "SECOND", "LayerSums", "PassRow", "Prefetches", "Quality", "Recorder", "Slice"]

SECOND = 10**12
"""Picoseconds in a second."""
COUNTER = "counter:"
"""Tracks whose name starts so hold levels over time, such as the bytes in GPU memory."""


class Slice(NamedTuple):
    """One stretch of work on one track of the timeline; `cause` is demand, prefetch, eviction, and so on, or empty."""

    track: str
    name: str
    start: int
    """Picoseconds of simulated time."""
    end: int
    """Picoseconds of simulated time."""
    amount: float = 0.0
    """Bytes moved, or (token, expert) pairs computed."""
    cause: str = ""


@dataclass
class LayerSums:
    """Sums over all visits of each MoE layer; every array is [L]. Times in ps."""

    visits: NDArray[np.int64]
    time: NDArray[np.int64]
    """From the beginning of the layer to its end."""
    attention: NDArray[np.int64]
    """Of that, until its experts are known."""
    experts: NDArray[np.int64]
    """Of that, from there on."""
    activations: NDArray[np.int64]
    """(token, expert) pairs."""
    hits: NDArray[np.int64]
    """Pairs whose weights were where they ran."""
    distinct: NDArray[np.int64]
    """Experts with tokens, added up over the visits."""
    uploads: NDArray[np.int64]
    """Copies to GPU memory that a visit asked for."""

    @classmethod
    def zeros(cls, layers: int) -> LayerSums:
        """Of `layers` MoE layers that nothing has visited."""
        return cls(*(np.zeros(layers, dtype=np.int64) for _ in range(8)))


@dataclass
class Quality:
    """What was done to the model's output, in (token, expert) pairs."""

    native: float = 0.0
    """Bits per weight of the model's own experts."""
    routed: int = 0
    """What the router asked for."""
    skipped: int = 0
    replaced: int = 0
    """Computed by another expert than the router asked for."""
    stale: int = 0
    """Result joined a later layer, or came from an earlier layer's input."""
    precision: dict[float, int] = field(default_factory=dict)
    """Bits per weight -> pairs computed from copies of that precision."""


@dataclass
class Prefetches:
    """What became of copies that were brought ahead of need."""

    copies: int = 0
    """Copies that landed, or were on their way when needed."""
    used: int = 0
    """Of these, used before they were evicted."""
    in_time: int = 0
    """Of the used ones, landed before they were needed."""


@dataclass
class Recorder:
    """Everything that one run leaves behind. Times are ps from the start of the run."""

    layers: LayerSums
    requests: int
    experts: int = 0
    """E, experts of a layer."""
    first_token: NDArray[np.int64] = field(init=False)
    """[R] end of the pass that yields the request's first token; -1 before."""
    finish: NDArray[np.int64] = field(init=False)
    """[R] end of the pass that yields its last token; -1 before."""
    passes: PassRows = field(default_factory=PassRows)
    busy: dict[str, int] = field(default_factory=dict)
    """Lane (device or copy queue) -> ps at work."""
    critical: dict[str, int] = field(default_factory=dict)
    """Lane -> ps during which it alone held the run back; the sum over lanes is the makespan."""
    critical_by_phase: dict[str, dict[str, int]] = field(default_factory=dict)
    """Phase (`prefill`, `decode`) -> lane -> ps of `critical` within its passes."""
    moved: dict[str, float] = field(default_factory=dict)
    """Link direction or tier side (`pcie:forward`, `ddr:read`) -> bytes."""
    caused: dict[str, float] = field(default_factory=dict)
    """Cause (demand, prefetch, eviction, migration, activation, kv) -> bytes moved over copy queues and links."""
    expert_tokens: dict[str, int] = field(default_factory=dict)
    """Device -> (token, expert) pairs computed there."""
    quality: Quality = field(default_factory=Quality)
    prefetches: Prefetches = field(default_factory=Prefetches)
    peak: dict[str, float] = field(default_factory=dict)
    """Tier -> largest number of bytes held at any time."""
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    """Tiers that failed or came back, and how soon placement recovered, in the order of time."""
    kv_peak: float = 0.0
    """Most bytes that the KV cache really held during a step; what is set aside for it is in `peak`."""
    breakdown: Breakdown = field(init=False)
    slices: list[Slice] = field(default_factory=list)
    keep_slices: bool = False
    window: tuple[int, int] | None = None
    """Only slices that touch this stretch (ps) are kept; all without it."""
    makespan: int = 0
    rounded: int = 0
    """Times of operations that were rounded to whole ps."""
    events: int = 0
    layer_visits: int = 0
    _levels: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    _counted: dict[str, int] = field(default_factory=dict)
    """What of `critical` belongs to a phase already, or to none."""

    def __post_init__(self) -> None:
        self.first_token = np.full(self.requests, -1, dtype=np.int64)
        self.finish = np.full(self.requests, -1, dtype=np.int64)
        self.breakdown = Breakdown(self.layers.visits.size, self.experts)

    def count_moves(self, usage: Mapping[str, float], nbytes: float, cause: str, number: int = 1) -> None:
        """Adds a `number` of moves of `nbytes` that drew `usage` [resource -> bytes] each on their way."""
        for resource, drawn in usage.items():
            self.moved[resource] = self.moved.get(resource, 0.0) + number * drawn
        self.caused[cause] = self.caused.get(cause, 0.0) + number * nbytes

    def close_phase(self, phase: str | None) -> None:
        """Gives `phase` what has become critical since the last call; None for time outside passes."""
        if phase is not None:
            sums = self.critical_by_phase.setdefault(phase, {})
            for lane, time in self.critical.items():
                sums[lane] = sums.get(lane, 0) + time - self._counted.get(lane, 0)
        self._counted = dict(self.critical)

    def drop_idle_lanes(self) -> None:
        """Leaves out lanes that never worked: whether one was asked for an empty job depends on how a visit was timed."""
        self.busy = {lane: time for lane, time in self.busy.items() if time}
        self.critical = {lane: time for lane, time in self.critical.items() if time}

    def level(self, resource: str, time: int, amount: float) -> None:
        """Notes for the timeline that `resource` stands at `amount` from `time` on; before the window only the last counts."""
        first, last = self.window or (0, time + 1)
        place, before = self._levels.get(resource, (-1, None))
        if not self.keep_slices or time >= last or amount == before:
            return
        item = Slice(f"{COUNTER}{resource}", "", max(time, first), max(time, first), amount)
        if place >= 0 and self.slices[place].start == item.start:
            self.slices[place] = item
        else:
            place = len(self.slices)
            self.slices.append(item)
        self._levels[resource] = (place, amount)

    def slice(self, track: str, name: str, start: int, end: int, amount: float = 0.0, cause: str = "") -> None:
        """Keeps one slice when the timeline is wanted; empty ones are left out."""
        if self.keep_slices and end > start and (self.window is None or (start < self.window[1] and end > self.window[0])):
            self.slices.append(Slice(track, name, start, end, amount, cause))
