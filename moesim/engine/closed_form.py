"""The expert part of a layer without events: what every lane does and when it ends, for V visits at once.

Valid where no transfer contends and no lane is busy with anything else at the start; then it equals the event engine to
the picosecond. Time 0 is the moment at which the visit's routing is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.engine.lanes import serve
from moesim.engine.tables import IntTimes, queue_of
from moesim.engine.visits import SideWork, VisitWork

__all__ = ["Timed", "overlapped", "serial", "stalls"]


class Timed(NamedTuple):
    """When V visits end, and which lanes they waited for; all times in ps."""

    end: IntTimes
    """[V]"""
    critical: dict[str, IntTimes]
    """Lane -> [V] ps on the critical path; the lanes sum to `end`."""


def overlapped(work: VisitWork, gpu: str, up_queue: str, out_free: IntTimes | int = 0) -> Timed:
    """Uploads, GPU and sides side by side; `out_free` [V] is when the queue away from the GPU has stored its KV entries.

    The upload queue serves experts in order; results that come back go ahead of the next expert, never into a running copy.
    """
    known = np.where(work.ids > 0, out_free + work.ids, 0)
    arrival = np.cumsum(work.copy, axis=1) + np.where(work.uploads > 0, known, 0)[:, None]
    done = _computed(work.sides, np.maximum(known, out_free))
    ends = _return_results(arrival, done, [part.back for part in work.sides])
    finish = serve(arrival, work.gpu_after, work.gpu_first[:, None])
    gpu_end = finish[:, -1]
    critical = _gpu_critical(arrival, finish, work, gpu, up_queue, known)
    if not work.sides:
        return Timed(gpu_end, critical)
    return _joined(gpu_end, critical, work.sides, done, ends)


def _computed(sides: list[SideWork], out_free: IntTimes | int) -> list[IntTimes]:
    """When the device of each side is done [V]; activations leave for one side after another."""
    done = []
    sent: IntTimes | int = out_free
    for part in sides:
        sent = np.where(part.tokens > 0, sent + part.out, sent)
        done.append(np.where(part.tokens > 0, sent + part.work, 0))
    return done


def _return_results(arrival: IntTimes, done: list[IntTimes], back: list[IntTimes]) -> list[IntTimes]:
    """Ends [V] of the results' copies; pushes the experts behind them back, in `arrival` [V, E] itself."""
    if not done:
        return []
    ready, service = np.stack(done, axis=1), np.stack(back, axis=1)
    turn = np.argsort(ready, axis=1, kind="stable")
    rows = np.arange(len(arrival))
    ends = np.zeros_like(ready)
    free = np.zeros(len(arrival), dtype=np.int64)
    last = arrival.shape[1] - 1
    for column in turn.T:
        r, s = ready[rows, column], service[rows, column]
        ahead = np.minimum((arrival < r[:, None]).sum(axis=1), last)
        boundary = np.where(arrival[:, -1] >= r, arrival[rows, ahead], r)
        start = np.where((r <= free) & (free > 0), free, np.maximum(boundary, free))
        end = np.where(s > 0, start + s, 0)
        arrival += np.where((arrival > start[:, None]) & (s > 0)[:, None], s[:, None], 0)
        free = np.maximum(free, end)
        ends[rows, column] = end
    return list(ends.T)


def _gpu_critical(
    arrival: IntTimes, finish: IntTimes, work: VisitWork, gpu: str, up_queue: str, known: IntTimes
) -> dict[str, IntTimes]:
    """Splits the GPU's end into the time before the last expert it had to wait for (routing read back, uploads) and the rest."""
    before = np.concatenate([work.gpu_first[:, None], finish[:, :-1]], axis=1)
    waited = arrival > before
    held = np.where(waited, arrival, 0).max(axis=1)
    reading = np.minimum(known, held)
    critical = {gpu: finish[:, -1] - held, up_queue: held - reading}
    if work.down_queue and reading.any():
        critical[work.down_queue] = critical.get(work.down_queue, 0) + reading
    return critical


def _joined(
    gpu_end: IntTimes,
    critical: dict[str, IntTimes],
    sides: list[SideWork],
    computed: list[IntTimes],
    ends: list[IntTimes],
) -> Timed:
    """The visit ends with its last part; the critical path is that part's."""
    end = gpu_end
    for part, done, back in zip(sides, computed, ends, strict=True):
        wins = back > end
        if not wins.any():
            continue
        end = np.where(wins, back, end)
        critical = {lane: np.where(wins, 0, share) for lane, share in critical.items()}
        shares = ((queue_of(part.side.out), done - part.work), (part.side.name, part.work), (queue_of(part.side.back), back - done))
        for lane, share in shares:
            critical[lane] = np.where(wins, critical.get(lane, 0) + share, critical.get(lane, 0))
    return Timed(end, critical)


def stalls(work: VisitWork, row: int, staging: int) -> bool:
    """Whether an upload of the visit `row` has to wait for one of `staging` slots, that is for an earlier expert's computation.

    Copy i can start when copy i-1 has landed; it stalls if expert i - staging is still to be computed then. If nothing
    stalls with copies at full speed, nothing does with slower ones: their distances only grow.
    """
    columns = np.flatnonzero(work.copy[row])
    if len(columns) <= staging:
        return False
    arrival = work.ids[row] + np.cumsum(work.copy[row, columns])
    computed = serve(arrival, work.gpu_after[row, columns], int(work.gpu_first[row]))
    return bool((computed[:-staging] > arrival[staging - 1 : -1]).any())


def serial(work: VisitWork, gpu: str, up_queue: str, out_free: IntTimes | int = 0) -> Timed:
    """Uploads, then the GPU, then each side with its activations: nothing overlaps, all is on the critical path."""
    up = work.copy.sum(axis=1)
    on_gpu = work.gpu_first + work.gpu_after.sum(axis=1)
    known = np.where(work.ids > 0, out_free + work.ids, 0)
    critical = {up_queue: up, gpu: on_gpu}
    if work.down_queue and known.any():
        critical[work.down_queue] = critical.get(work.down_queue, 0) + known
    end = known + up + on_gpu
    for part in work.sides:
        sent = np.where(part.tokens > 0, np.maximum(end, out_free) - end + part.out, 0)
        for lane, share in ((queue_of(part.side.out), sent), (part.side.name, part.work), (queue_of(part.side.back), part.back)):
            critical[lane] = critical.get(lane, 0) + share
        end = end + sent + part.work + part.back
    return Timed(end, critical)
