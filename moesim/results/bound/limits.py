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

__all__ = ["Bound", "Dense", "Limits", "PhaseWork", "lower_bound"]


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
    ) -> PhaseWork:
        """From one entry per item, in any order and shape; items of equal cost are counted together.

        `gpu`, `cpu`, `weight`: broadcast against each other; `ndp`: [D, ...] over the same items.
        """
        near = np.empty((0, 1)) if ndp is None else np.asarray(ndp, dtype=np.float64)
        flat = np.broadcast_arrays(np.asarray(gpu, dtype=np.float64), cpu, weight, *near) if near.size else (
            np.broadcast_arrays(np.asarray(gpu, dtype=np.float64), cpu, weight))  # fmt: skip
        rows = np.stack([np.ravel(column) for column in flat]).astype(np.float64)
        classes, count = np.unique(rows, axis=1, return_counts=True)
        return cls(
            count.astype(np.float64),
            classes[0],
            classes[1],
            classes[3:],
            classes[2],
            passes,
            tuple(Dense(*pair) for pair in fixed),
        )


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


def _rows(units: int) -> list[str]:
    return ["gpu", "cpu", "upload", "host", *(f"ndp {unit}" for unit in range(units))]


def _solve(phases: Sequence[PhaseWork], limits: Limits) -> tuple[float, dict[str, float]]:
    units = max(len(phase.ndp) for phase in phases)
    names = _rows(units)
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
    offset = 0
    for index, phase in enumerate(phases):
        for block in (*_expert_options(phase, limits, units), *_dense_options(phase, units)):
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
    resident = np.where(owner == np.arange(len(phases))[:, None], table[-1], 0.0)
    capacity = np.array([phase.passes * limits.gpu_memory for phase in phases], dtype=np.float64)
    return Programme(table[:-1], resident, capacity, group)


def _expert_options(phase: PhaseWork, limits: Limits, units: int) -> list[tuple[FloatArray, NDArray[np.int64]]]:
    """Options of the expert items: rows as in `_rows`, then resident bytes; [rows, U] each."""
    items, none = np.arange(phase.count.size), np.zeros(phase.count.size)
    nbytes = phase.count * phase.weight
    upload = nbytes / limits.upload_rate if limits.upload_rate > 0 else np.where(nbytes > 0, np.inf, 0.0)
    host = nbytes / limits.host_bandwidth if limits.host_bandwidth else none
    rows = [none] * units
    options = [
        [phase.count * phase.gpu, none, none, none, *rows, nbytes],
        [phase.count * phase.gpu, none, upload, host / limits.concurrent, *rows, none],
        [none, phase.count * phase.cpu, none, host, *rows, none],
    ]
    for unit, seconds in enumerate(phase.ndp):
        options.append([none, none, none, none, *rows[:unit], phase.count * seconds, *rows[unit + 1 :], none])
    return [(np.stack(option), items) for option in options]


def _dense_options(phase: PhaseWork, units: int) -> list[tuple[FloatArray, NDArray[np.int64]]]:
    items = phase.count.size + np.arange(len(phase.fixed))
    options = []
    for row, name in enumerate(("gpu", "cpu")):
        table = np.zeros((5 + units, len(phase.fixed)))
        table[row] = [getattr(work, name) for work in phase.fixed]
        options.append((table, items))
    return options
