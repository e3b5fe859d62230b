"""The expert part of a layer without events: what every lane does and when it ends, for V visits at once.

Valid where no transfer contends and no lane is busy with anything else at the start; then it equals the event engine to
the picosecond. Time 0 is the moment at which the visit's routing is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.engine.lanes import serve
from moesim.engine.pieces import computed, parted
from moesim.engine.tables import IntTimes, queue_of
from moesim.engine.visits import SideWork, VisitWork

__all__ = ["Timed", "overlapped", "serial", "stalls"]


class Timed(NamedTuple):
    """When V visits end, and which lanes they waited for; all times in ps."""

    end: IntTimes
    """[V]"""
    critical: dict[str, IntTimes]
    """Lane -> [V] ps on the critical path; the lanes sum to `end`."""


def overlapped(work: VisitWork, gpu: str, up_queue: str, out_free: IntTimes | int = 0, staging: int = 1 << 30) -> Timed:
    """Uploads, GPU and sides side by side; `out_free` [V] is when the queue away from the GPU has stored its KV entries.

    The upload queue serves experts in order; results that come back go ahead of the next expert, never into a running copy.
    At most `staging` uploads are in GPU memory and not yet computed.
    """
    copy, after = _packed(work)
    known = np.where(work.ids > 0, out_free + work.ids, 0)
    done = _computed(work.sides, np.maximum(known, out_free))
    if copy.shape[1] <= max(staging, 1):  # without uploads there is one empty column, which needs no slot
        arrival = np.cumsum(copy, axis=1) + np.where(work.uploads > 0, known, 0)[:, None]
        ends = _return_results(arrival, done, [part.back for part in work.sides])
    else:
        arrival, ends = _staged(work, copy, after, known, staging, done)
    finish = serve(arrival, after, work.gpu_first[:, None])
    gpu_end = finish[:, -1]
    critical = _gpu_critical(arrival, finish, work, gpu, up_queue, known)
    if not work.sides:
        return Timed(gpu_end, critical)
    return _joined(gpu_end, critical, work.sides, done, ends)


def _packed(work: VisitWork) -> tuple[IntTimes, IntTimes]:
    """[V, n] copies and GPU times of the uploads alone, in order, 0 behind the last; n is the most of a visit, at least 1."""
    row, column = np.nonzero(work.copy)
    number = np.bincount(row, minlength=len(work.copy))
    place = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
    shape = (len(number), max(int(number.max()), 1))
    copy, after = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    copy[row, place], after[row, place] = work.copy[row, column], work.gpu_after[row, column]
    return copy, after


def _staged(
    work: VisitWork, copy: IntTimes, after: IntTimes, known: IntTimes, staging: int, done: list[IntTimes]
) -> tuple[IntTimes, list[IntTimes]]:
    """Landing times [V, n] of uploads that wait for one of `staging` slots, and ends [V] of the results' copies.

    Results that are there when an upload could start go ahead of it. One step per upload, not per expert.
    """
    ready = np.stack(done, axis=1) if done else np.zeros((len(copy), 0), dtype=np.int64)
    turn = np.argsort(ready, axis=1, kind="stable")
    ready = np.take_along_axis(ready, turn, 1)
    service = np.take_along_axis(np.stack([part.back for part in work.sides], axis=1), turn, 1) if done else ready
    ends, waiting = np.zeros_like(ready), service > 0
    free, gpu = np.where(work.uploads > 0, known, 0), work.gpu_first
    landed, finish = np.zeros_like(copy), np.zeros_like(copy)
    last = free
    for column in range(copy.shape[1] + 1):
        uploads = column < work.uploads
        start = free if column < staging else np.maximum(free, finish[:, column - staging])
        for k in range(ready.shape[1]):
            goes = waiting[:, k] & ((ready[:, k] <= start) | ~uploads)
            ends[:, k] = np.where(goes, np.maximum(free, ready[:, k]) + service[:, k], ends[:, k])
            free = np.maximum(free, ends[:, k])
            start = np.maximum(start, free)
            waiting[:, k] &= ~goes
        if column < copy.shape[1]:
            last = free = np.where(uploads, start + copy[:, column], last)
            gpu = np.maximum(gpu, last) + after[:, column]
            landed[:, column], finish[:, column] = last, gpu
    by_side = np.empty_like(ends)
    np.put_along_axis(by_side, turn, ends, 1)
    return landed, list(by_side.T)


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
    """Splits the GPU's end at the last expert that it had to wait for: routing read back and uploads before, GPU after."""
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
        shares = (
            (queue_of(part.side.out), done - part.work),
            (part.side.name, part.work),
            (queue_of(part.side.back), back - done),
        )
        for lane, share in shares:
            critical[lane] = np.where(wins, critical.get(lane, 0) + share, critical.get(lane, 0))
    return Timed(end, critical)


def stalls(work: VisitWork, row: int, staging: int, pieces: int = 1) -> bool:
    """Whether an upload of the visit `row` has to wait for one of `staging` slots, that is for an earlier expert's computation.

    Copy i can start when copy i-1 has landed; it stalls if expert i - staging is still to be computed then. If nothing
    stalls with copies at full speed, nothing does with slower ones: their distances only grow.
    """
    columns = np.flatnonzero(work.copy[row])
    if len(columns) <= staging:
        return False
    arrival = work.ids[row] + np.cumsum(parted(work.copy[row, columns], pieces))
    left = computed(arrival, parted(work.gpu_after[row, columns], pieces), int(work.gpu_first[row]), pieces)
    return bool((left[:-staging] > arrival[pieces - 1 :: pieces][staging - 1 : -1]).any())


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
        for lane, share in (
            (queue_of(part.side.out), sent),
            (part.side.name, part.work),
            (queue_of(part.side.back), part.back),
        ):
            critical[lane] = critical.get(lane, 0) + share
        end = end + sent + part.work + part.back
    return Timed(end, critical)
