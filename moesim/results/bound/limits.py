"""The least time in which this work could be done on this machine, whatever the placement and the schedule.

Must not know models, machines or policies: seconds, bytes and bytes per second come in, seconds go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.arrays import FloatArray
from moesim.errors import MoesimError
from moesim.results.bound.dual import Programme, best_prices, lagrangian, reference

__all__ = ["Bound", "Dense", "FurtherGpus", "Limits", "PhaseWork", "lower_bound"]


class Dense(NamedTuple):
    """Work outside the experts (attention, projections, head): seconds if the GPU does all of it, or the CPU all of it.

    `inf` where a device cannot. Any share may go to either.
    """

    gpu: float
    """Seconds."""
    cpu: float = float("inf")
    """Seconds."""


@dataclass(frozen=True)
class PhaseWork:
    """The work of one phase: items, one for each (pass, layer, active expert), those of equal cost taken together.

    Short names: U classes of items, D near-data units. Costs are for one item: all tokens that the expert gets in
    that layer of that pass. `inf` where a device cannot do it.
    """

    count: FloatArray
    """[U] items of each class."""
    gpu: FloatArray
    """[U] s on the GPU, weights in its memory."""
    cpu: FloatArray
    """[U] s on the CPU, weights in host memory."""
    ndp: FloatArray
    """[D, U] s on each near-data unit, weights beside it."""
    weight: FloatArray
    """[U] bytes of the weights of one item."""
    passes: int
    """Forward passes in the phase."""
    fixed: tuple[Dense, ...] = ()
    """Work outside the experts, over the whole phase."""
    further: FloatArray | None = None
    """[G, U] s on a GPU of each of `Limits.further`, weights in its memory; None without any."""

    @classmethod
    def of(
        cls,
        gpu: ArrayLike,
        weight: ArrayLike,
        *,
        passes: int,
        cpu: ArrayLike = np.inf,
        ndp: ArrayLike | None = None,
        fixed: Sequence[tuple[float, float]] = (),
        further: ArrayLike | None = None,
    ) -> PhaseWork:
        """From one entry per item, in any order and shape; items of equal cost are counted together.

        `gpu`, `cpu`, `weight`: broadcast against each other; `ndp`: [D, ...], `further`: [G, ...] over the same items.
        """
        near, more = (np.empty((0, 1)) if part is None else np.asarray(part, dtype=np.float64) for part in (ndp, further))
        flat = np.broadcast_arrays(np.asarray(gpu, dtype=np.float64), cpu, weight, *near, *more)
        rows = np.stack([np.ravel(column) for column in flat]).astype(np.float64)
        classes, count = np.unique(rows, axis=1, return_counts=True)
        last = 3 + len(near)
        return cls(
            count.astype(np.float64),
            classes[0],
            classes[1],
            classes[3:last],
            classes[2],
            passes,
            tuple(Dense(*pair) for pair in fixed),
            classes[last:] if len(more) else None,
        )


class FurtherGpus(NamedTuple):
    """GPUs beside the one that attends, which compute experts alike: together as one of all their rates and bytes."""

    number: int
    """How many there are."""
    memory: float
    """Bytes of expert weights that the memory of each may hold."""
    upload: float = 0.0
    """B/s of weights into each; 0 when nothing can be brought there."""


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most, in B and B/s."""

    gpu_memory: float
    """Bytes of GPU memory that expert weights may fill at any time, staging slots included."""
    upload: float = 0.0
    """B/s into the GPU; 0 when nothing can be uploaded."""
    sources: tuple[float, ...] | None = None
    """B/s of each tier that uploads may come from at the same time; None when they never limit."""
    host_bandwidth: float | None = None
    """B/s of all memory outside the GPU together, which uploads and the CPU's reads of weights share; None: no limit."""
    concurrent: int = 1
    """Largest number of passes in flight at once: one upload may serve that many."""
    further: tuple[FurtherGpus, ...] = ()
    """GPUs beside the one that attends, those that are alike together."""

    @property
    def upload_rate(self) -> float:
        """B/s of weights that uploads can hand to passes."""
        rate = self.upload if self.sources is None else min(self.upload, sum(self.sources))
        return rate * self.concurrent


class Bound(NamedTuple):
    """`seconds`: no schedule is faster. `phases`: its parts, one per phase (one alone when taken jointly).

    `prices`: resource -> its weight in the bound; they add up to 1 (0 for no work), and the larger, the more a faster
    resource would help. Prices of phases are weighted by their seconds.
    """

    seconds: float
    """Least time of all phases together."""
    phases: tuple[float, ...]
    """Seconds of each."""
    prices: dict[str, float]
    """Resource -> weight, 0 to 1."""


def lower_bound(phases: Sequence[PhaseWork], limits: Limits, *, joint: bool = False) -> Bound:
    """A lower bound on the time of `phases`, each a linear programme over shares of its items.

    For each class the shares x_resident + x_uploaded + x_cpu + sum x_ndp = 1 are chosen so that T is least, where

        GPU seconds (resident, uploaded, dense share) <= T      CPU seconds <= T      seconds of each near-data unit <= T
        bytes uploaded <= T * upload rate                       bytes uploaded + bytes read by the CPU <= T * host rate
        bytes run as resident <= passes * GPU memory

    Further GPUs add a pair x_resident, x_uploaded each, with the same three limits of their own but no dense share: attention,
    router and head run where the machine says. n that are alike are taken as one with n times the rates and n times the memory,
    which allows all that they can do.

    Every term is needed by any schedule, and everything else (order, waiting, whole experts, the capacity of other tiers,
    activations) is left out, so no run is faster. The last line holds for every cache, however it changes: in one pass
    each (layer, expert) is visited once, and an expert that the GPU runs without an upload since the pass began must
    have lain in GPU memory when the pass began. All such experts lay there at that one moment, so their bytes are at
    most the memory's size; the rest of what the GPU ran was uploaded during the pass. Summed over the passes this is the
    constraint. An upload before the pass (a prefetch across passes) makes an expert resident and costs the bound
    nothing, so it stays valid. Where passes overlap one upload may serve several: `Limits.concurrent` says how many.

    Phases that run one after another: the sum of their bounds. `joint=True`: one T over all phases, weaker, for
    rounds of requests that may overlap.

    The answer is certified: it is the value of the dual at the prices found, a lower bound for *any* prices, so neither
    the tolerance of the solver nor an early end can push it above the optimum.
    Source: linear programming duality (Bertsimas and Tsitsiklis, Introduction to Linear Optimization, chapter 4).
    Valid: items priced per pass, not per micro-batch; times and bytes those of the run's own precisions and experts.
    """
    groups = [list(phases)] if joint else [[phase] for phase in phases]
    solved = [_solve(group, limits) for group in groups if group]
    seconds = sum(part for part, _ in solved)
    prices: dict[str, float] = {}
    for part, of_part in solved:
        for name, price in of_part.items():
            prices[name] = prices.get(name, 0.0) + (price * part / seconds if seconds > 0 else 0.0)
    return Bound(seconds, tuple(part for part, _ in solved), prices)


def _rows(units: int, gpus: int) -> list[str]:
    further = [f"{row} {gpu + 1}" for row in ("gpu", "upload") for gpu in range(gpus)]
    return ["gpu", "cpu", "upload", "host", *(f"ndp {unit}" for unit in range(units)), *further]


def _solve(phases: Sequence[PhaseWork], limits: Limits) -> tuple[float, dict[str, float]]:
    units = max(len(phase.ndp) for phase in phases)
    names = _rows(units, len(limits.further))
    programme = _programme(phases, limits, units)
    scale = reference(programme)
    if not np.isfinite(scale):
        raise MoesimError("the times of its work are too long to add up")
    if scale == 0:
        return 0.0, dict.fromkeys(names, 0.0)
    scaled = programme._replace(time=programme.time / scale)
    prices, rents = best_prices(scaled)
    seconds = max(lagrangian(scaled, prices, rents), 0.0) * scale
    return seconds, {name: float(price) for name, price in zip(names, prices, strict=True)}


def _programme(phases: Sequence[PhaseWork], limits: Limits, units: int) -> Programme:
    blocks: list[FloatArray] = []
    owners: list[NDArray[np.int64]] = []
    groups: list[NDArray[np.int64]] = []
    offset, gpus = 0, len(limits.further)
    for index, phase in enumerate(phases):
        for block in (*_expert_options(phase, limits, units), *_dense_options(phase, len(_rows(units, gpus)) + 1 + gpus)):
            options, items = block
            blocks.append(options)
            groups.append(items + offset)
            owners.append(np.full(items.size, index, dtype=np.int64))
        offset += phase.count.size + len(phase.fixed)
    table, group, owner = np.concatenate(blocks, axis=1), np.concatenate(groups), np.concatenate(owners)
    possible = np.isfinite(table).all(axis=0)
    missing = np.flatnonzero(np.bincount(group[possible], minlength=offset) == 0)
    if missing.size:
        raise MoesimError(f"no device can do {missing.size} of {offset} kinds of work, so there is no bound")
    order = np.argsort(group[possible], kind="stable")
    table, group, owner = table[:, possible][:, order], group[possible][order], owner[possible][order]
    memories = [limits.gpu_memory, *(gpu.number * gpu.memory for gpu in limits.further)]
    held = table[-len(memories) :, None]
    resident = np.where(owner == np.arange(len(phases))[:, None], held, 0.0)
    resident = resident.reshape(len(memories) * len(phases), len(owner))
    capacity = np.array([phase.passes * memory for memory in memories for phase in phases], dtype=np.float64)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return Programme(table[: -len(memories)], resident, capacity, starts, len(memories))


def _expert_options(phase: PhaseWork, limits: Limits, units: int) -> list[tuple[FloatArray, NDArray[np.int64]]]:
    """Options of the expert items: rows as in `_rows`, then bytes resident in each memory; [rows, U] each."""
    gpus = len(limits.further)
    place = {name: number for number, name in enumerate([*_rows(units, gpus), *(f"memory {gpu}" for gpu in range(gpus + 1))])}
    items, nbytes = np.arange(phase.count.size), phase.count * phase.weight
    host = nbytes / limits.host_bandwidth if limits.host_bandwidth else np.zeros_like(nbytes)

    def option(**rows: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        table = np.zeros((len(place), items.size))
        for name, values in rows.items():
            table[place[name.replace("_", " ")]] = values
        return table, items

    def brought(rate: float) -> FloatArray:
        return nbytes / rate if rate > 0 else np.where(nbytes > 0, np.inf, 0.0)

    gpu = phase.count * phase.gpu
    options = [
        option(gpu=gpu, memory_0=nbytes),
        option(gpu=gpu, upload=brought(limits.upload_rate), host=host / limits.concurrent),
        option(cpu=phase.count * phase.cpu, host=host),
        *(option(**{f"ndp_{unit}": phase.count * seconds}) for unit, seconds in enumerate(phase.ndp)),
    ]
    for number, alike in enumerate(limits.further, 1):
        assert phase.further is not None
        work = {f"gpu_{number}": phase.count * phase.further[number - 1] / alike.number}
        options.append(option(**work, **{f"memory_{number}": nbytes}))
        options.append(option(**work, **{f"upload_{number}": brought(alike.number * alike.upload * limits.concurrent)}))
    return options


def _dense_options(phase: PhaseWork, rows: int) -> list[tuple[FloatArray, NDArray[np.int64]]]:
    items = phase.count.size + np.arange(len(phase.fixed))
    options = []
    for row, name in enumerate(("gpu", "cpu")):
        table = np.zeros((rows, len(phase.fixed)))
        table[row] = [getattr(work, name) for work in phase.fixed]
        options.append((table, items))
    return options
