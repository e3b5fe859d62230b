"""Who computes what when several devices work side by side: schedules that look at queues, not at each expert alone.

Knows times and counts of one visit. The rules that give one expert after another loop over experts with tokens only.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Dispatch, View, Visit
from moesim.policies.kit.dispatch import by_tokens, in_gpu_memory, in_order, to_cpu_where

__all__ = ["best_prefix", "makespan", "on_devices", "prefix_share", "two_ended", "two_ended_dispatch", "two_ended_end"]

_ROUNDS = 4
"""Moves off the busiest device that `makespan` tries at most."""


def two_ended(here: BoolArray, counts: IntArray, gpu: FloatArray, cpu: FloatArray, copy: FloatArray, start: float) -> BoolArray:
    """[E] experts that the CPU computes: it takes from the light end of a queue from whose heavy end the GPU takes.

    The queue holds experts `here` (no copy needed) by tokens, then the others by tokens. The next expert goes to whichever
    device would be done with its own end first; copies follow each other beside GPU work. `start`: seconds before the CPU's
    first expert. Source: HybriMoE, arXiv:2504.05897 (decode schedule of its code).
    """
    order, head, _ = _eaten(here, counts, gpu, cpu, copy, start)
    chosen = np.zeros(len(counts), dtype=np.bool_)
    chosen[order[head:]] = True
    return chosen


def two_ended_end(here: BoolArray, counts: IntArray, gpu: FloatArray, cpu: FloatArray, copy: FloatArray, start: float) -> float:
    """Seconds until both devices are done under `two_ended`; the same arguments."""
    return _eaten(here, counts, gpu, cpu, copy, start)[2]


def _eaten(
    here: BoolArray, counts: IntArray, gpu: FloatArray, cpu: FloatArray, copy: FloatArray, start: float
) -> tuple[IntArray, int, float]:
    """([n] the queue, how many of it the GPU takes, seconds until both are done)."""
    order = in_order(counts, here & (counts > 0))[: int(np.count_nonzero(counts))]
    there, on_gpu = here[order].tolist(), gpu[order].tolist()
    on_cpu, copies = cpu[order].tolist(), copy[order].tolist()
    head, tail = 0, len(order) - 1
    gpu_end, cpu_end, copied = 0.0, start, 0.0
    while head <= tail:
        landed = 0.0 if there[head] else copied + copies[head]
        gpu_next = (landed if landed > gpu_end else gpu_end) + on_gpu[head]
        cpu_next = cpu_end + on_cpu[tail]
        if gpu_next <= cpu_next:
            gpu_end, copied = gpu_next, landed or copied
            head += 1
        else:
            cpu_end = cpu_next
            tail -= 1
    return order, head, max(gpu_end, cpu_end if head < len(order) else 0.0)


def two_ended_dispatch(visit: Visit, view: View, start: float) -> Dispatch:
    """`two_ended` for this visit; copies on their way count as there."""
    here = in_gpu_memory(visit, view)
    return to_cpu_where(two_ended(here, visit.counts, visit.gpu, visit.cpu, visit.copy, start), visit, view)


def makespan(times: FloatArray, load: FloatArray | None = None) -> IntArray:
    """[n] column of `times` [n, D] that does each job, chosen so that the busiest device ends early; inf where it can't.

    Jobs in the order given go where they end first; then, a few times, the job is moved off the busiest device that brings
    the end forward most. Never worse than any device that can do all jobs alone. `load` [D]: seconds of work before.
    Source: TriMoE, arXiv:2603.01058 (greedy, then refinement).
    """
    before = [0.0] * times.shape[1] if load is None else load.tolist()
    loads, devices = list(before), []
    for row in times.tolist():
        device, end = 0, float("inf")
        for column, time in enumerate(row):
            if loads[column] + time < end:
                device, end = column, loads[column] + time
        loads[device] = end
        devices.append(device)
    chosen, busy = np.array(devices, dtype=np.int64), np.array(loads)
    for _ in range(_ROUNDS):
        if not _improve(times, chosen, busy):
            break
    alone = times.sum(axis=0) + before
    single = int(alone.argmin())
    longest = max((work for device, work in enumerate(before) if device != single), default=0.0)
    return np.full(len(devices), single) if max(float(alone[single]), longest) < busy.max() else chosen


def _improve(times: FloatArray, chosen: IntArray, busy: FloatArray) -> bool:
    """Moves one job off the busiest device if that lowers the end; `chosen` [n] and `busy` [D] are changed in place."""
    worst = int(busy.argmax())
    jobs = np.flatnonzero(chosen == worst)
    if not len(jobs):
        return False
    ends = busy + times[jobs]
    np.maximum(ends, (busy[worst] - times[jobs, worst])[:, None], out=ends)
    ends[:, worst] = np.inf
    best = int(ends.argmin())
    job, device = jobs[best // len(busy)], best % len(busy)
    if not ends.ravel()[best] < busy[worst]:
        return False
    busy[worst] -= times[job, worst]
    busy[device] += times[job, device]
    chosen[job] = device
    return True


def prefix_share(counts: IntArray, share: float) -> BoolArray:
    """[E] the ceil(share * active) experts with most tokens, at least one. Source: MoNDE, arXiv:2405.18832."""
    active = int(np.count_nonzero(counts))
    first = np.zeros(len(counts), dtype=np.bool_)
    first[by_tokens(counts)[: min(max(int(np.ceil(share * active)), 1), active)]] = True
    return first


def best_prefix(copy: FloatArray, gpu: FloatArray, ndp: FloatArray, crossing: FloatArray) -> int:
    """n in 0 .. N such that the GPU with the first n experts and near-data units with the rest end soonest.

    All [N] in one order, `crossing` [N + 1]: activations there and back if n stay on the GPU. T(n) = max(copies of the first n
    + the last one's GPU time, their GPU times; crossing + near-data times of the rest).
    Source: DynaNDE-Simulator (best prefix by benefit). Inferred: GPU times bound the GPU's side too.
    """
    gpu_side = np.concatenate(([0.0], np.maximum(np.cumsum(copy) + gpu, np.cumsum(gpu))))
    rest = np.concatenate((np.cumsum(ndp[::-1])[::-1], [0.0]))
    ends = np.maximum(gpu_side, np.where(rest > 0, rest + crossing, 0.0))
    return int(np.argmin(ends))


def on_devices(device: IntArray, visit: Visit, view: View) -> Dispatch:
    """Experts on `device` [E]; the GPU's queue has those that are there first, then most tokens."""
    return Dispatch(device, in_order(visit.counts, visit.resident))
