"""Which side of CXL-Expert is the busier one, and which experts should change their class: what its adaptation goes by.

Knows one visit, or counts averaged over passes; decides no device.
"""

from __future__ import annotations

import numpy as np

from moesim.arrays import BoolArray, FloatArray, IntArray
from moesim.contract import Problem, View, Visit
from moesim.policies.migration import Terms, exchanges
from moesim.policies.placement import host_order, ranks

__all__ = ["busier_side", "class_changes", "resident_changes"]


def busier_side(visit: Visit, view: View, device: IntArray, here: BoolArray, sizes: FloatArray) -> int:
    """1 if the GPU side would end later than CPU and near-data units, -1 if sooner, 0 if both wait for the same CXL device.

    `device` [E] as dispatched, `here` [E] in GPU memory, `sizes` [E] stored bytes. GPU side: the longest of its work, of its
    uploads behind what waits in their queue, and of the CXL devices that they come from. Other side: the longest of CPU,
    near-data units and the CXL devices that the CPU reads. A device is busy for all bytes that either side draws from it, so
    where it holds both back no other threshold helps.
    """
    problem, active = view.problem, visit.counts > 0
    on_gpu = device == problem.gpu_index
    up, on_cpu = active & on_gpu & ~here, active & (device == problem.cpu_index) & ~on_gpu
    waiting = max((view.backlog.get(name, 0.0) for name in _queues(problem)), default=0.0) if up.any() else 0.0
    gpu = max(float(visit.gpu[on_gpu & active].sum()), waiting + float(visit.copy[up].sum()))
    other = float(visit.cpu[on_cpu].sum())
    for unit in problem.ndp_index.values():
        other = max(other, float(visit.ndp[active & (device == unit)].sum()))
    home = view.home[visit.layer]
    for tier, rate in _cxl_rates(problem):
        mine, theirs = up & (home == tier), on_cpu & (home == tier)
        busy = float(sizes[mine | theirs].sum()) / rate
        gpu, other = max(gpu, busy if mine.any() else 0.0), max(other, busy if theirs.any() else 0.0)
    return int(np.sign(gpu - other))


def _queues(problem: Problem) -> set[str]:
    """Copy queues of uploads."""
    paths = [problem.costs.path(tier, problem.gpu_tier) for tier in problem.system.host_tiers]
    return {path.queue for path in paths if path.queue is not None}


def _cxl_rates(problem: Problem) -> list[tuple[int, float]]:
    """(tier index, B/s of reads) of every CXL device."""
    rates, tiers = problem.system.resources(), problem.system.tiers
    return [(i, rates[f"{name}:read"]) for i, name in enumerate(problem.tiers) if tiers[name].kind == "cxl"]


def resident_changes(uses: FloatArray, view: View, saved: FloatArray, slots: int, terms: Terms) -> tuple[IntArray, IntArray]:
    """(evict, load), both [n, 2]: experts that turned hot for residents that cooled; `uses` [L, E] tokens per pass.

    `saved` [T]: seconds of an upload by tier, `slots` residents in all. A resident without a copy in the host stays.
    """
    held = view.resident | view.in_flight
    evictable = view.resident & (view.home != view.problem.gpu_tier_index)
    flat = (uses.ravel(), saved[view.home].ravel(), held.ravel(), evictable.ravel())
    load, drop = exchanges(*flat, slots, terms)
    experts = uses.shape[1]
    load = load[~view.in_flight.ravel()[load]]
    return np.column_stack(np.divmod(drop, experts)), np.column_stack(np.divmod(load, experts))


def class_changes(
    uses: FloatArray, view: View, sizes: FloatArray, room: FloatArray, still: BoolArray, warm: float, terms: Terms
) -> IntArray:
    """[n, 3] (layer, expert, tier): of the experts `still` [L, E], those that left or entered the warm class.

    Warm is who stands high enough by `uses` [L, E] in the layer.

    An expert above the percentile `warm` moves from CXL memory to the best other tier with room, one below it the other way; it
    has to be past the border by the hysteresis in uses, so that equals do not change places. `room` [T] free bytes.
    """
    problem = view.problem
    kinds = {tier: problem.system.tiers[tier].kind for tier in problem.system.host_tiers}
    order = host_order(problem)
    far = [problem.tiers.index(tier) for tier in order if kinds[tier] == "cxl"]
    near = [problem.tiers.index(tier) for tier in order if kinds[tier] not in ("cxl", "nvme", "remote")]
    if not far or not near:
        return np.zeros((0, 3), dtype=np.int64)
    count = round(uses.shape[1] * (1.0 - warm))
    place = ranks(uses)
    border = np.sort(uses, axis=1)[:, ::-1][:, [min(max(count - 1, 0), uses.shape[1] - 1), min(count, uses.shape[1] - 1)]]
    margin, away = 1.0 + terms.hysteresis, still & ~view.resident
    rising = away & np.isin(view.home, far) & (place < count) & (uses > margin * border[:, 1:])
    falling = away & np.isin(view.home, near) & (place >= count) & (margin * uses < border[:, :1])
    room, found = room.copy(), []
    for which, targets, sign in ((falling, far, 1.0), (rising, near, -1.0)):
        pairs = np.argwhere(which)
        for layer, expert in pairs[np.argsort(sign * uses[which], kind="stable")][: terms.limit].tolist():
            target = next((tier for tier in targets if room[tier] >= sizes[layer, expert]), None)
            if target is not None:
                room[target] -= sizes[layer, expert]
                found.append((layer, expert, target))
    return np.array(found, dtype=np.int64).reshape(-1, 3)
