"""Durations of everything in a pass, for all layers and experts at once: [V, E] arrays computed before the layers are walked.

Knows the cost models; knows neither policies nor events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray
from moesim.clock import LIMIT, SECOND, to_ps
from moesim.contract import Deployment, Problem
from moesim.hardware import Path
from moesim.units import format_bytes

__all__ = ["ExpertTimes", "IntTimes", "Placement", "queue_of", "usage_of"]

IntTimes = NDArray[np.int64]
_TABLE_LIMIT = 4096
"""Token counts up to this are looked up; above it (prefill) the models are evaluated directly."""


class ExpertTimes:
    """Times [V, E] of the experts of V visits, each alone: seconds for policies, ps for the engine; found when asked for."""

    gpu: FloatArray
    cpu: FloatArray
    local: FloatArray
    copy: FloatArray
    gpu_ps: IntTimes
    cpu_ps: IntTimes
    local_ps: IntTimes
    copy_ps: IntTimes
    """-1 in the last four where a device cannot compute the expert."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        values = self._find(name)
        setattr(self, name, values)
        return values

    def rows(self, index: slice | IntArray) -> ExpertTimes:
        """The times of some of the visits."""
        return ExpertTimes(lambda name: getattr(self, name)[index])


_CPU, _CPU_PS, _LOCAL, _LOCAL_PS = range(4)


class _Kind(NamedTuple):
    """Experts whose copies are equally large and lie in one tier share all costs."""

    tier: str
    nbytes: float


class Placement:
    """Where the master copies lie and what follows from it for costs; refreshed when a migration changes it."""

    def __init__(self, problem: Problem, home: IntArray, deployment: Deployment) -> None:
        self.problem = problem
        self._dequantised = deployment.dequantised
        self.pieces = deployment.pieces
        """Pieces in which each expert crosses into GPU memory."""
        self.home = home
        self.expert_bytes = deployment.expert_bytes
        self._tables: dict[_Kind, tuple[NDArray[Any], ...]] = {}
        """Kind -> by tokens: s and ps on the CPU, s and ps on the near-data unit."""
        self._tables_of: dict[tuple[tuple[_Kind, ...], int], NDArray[Any]] = {}
        """(kinds, number of the curve) -> [kinds, tokens] that curve of each."""
        self._gpu_table: FloatArray = np.zeros(0)
        self._gpu_ps_table: IntTimes = np.zeros(0, dtype=np.int64)
        self.version = 0
        """Changes whenever kinds do."""
        self.refresh()

    def kind_of(self, layers: IntArray) -> IntArray:
        """[V, E] kinds of the stored copies of MoE layers `layers` [V]."""
        return np.asarray(self._kind_of[layers])

    def refresh(self) -> None:
        """Sorts the experts into kinds and prices a copy of each; call after `home` has changed."""
        self.version += 1
        self._kinds: list[_Kind] = []
        self._price: list[float] = []
        self._kind_of: IntArray = self.kinds_of(self.home, self.expert_bytes)
        self._copy: FloatArray = np.array(self._price)[self._kind_of]
        self._copy_ps = _possible_ps(self._copy)

    def kinds_of(self, tiers: IntArray, nbytes: FloatArray) -> IntArray:
        """[V, E] kinds of copies in `tiers` [V, E], of `nbytes` [V, E] bytes each."""
        if tiers.size and (nbytes == nbytes.flat[0]).all():
            size, numbers = float(nbytes.flat[0]), np.zeros(len(self.problem.tiers), dtype=np.int64)
            for tier in np.flatnonzero(np.bincount(tiers.ravel(), minlength=len(numbers))).tolist():
                numbers[tier] = self._known(_Kind(self.problem.tiers[tier], size))
            return np.asarray(numbers[tiers])
        pairs = np.stack([tiers.ravel().astype(np.float64), nbytes.ravel()])
        unique, inverse = np.unique(pairs, axis=1, return_inverse=True)
        numbers = np.array(
            [self._known(_Kind(self.problem.tiers[int(tier)], float(size))) for tier, size in unique.T], dtype=np.int64
        )
        return np.asarray(numbers[inverse.reshape(nbytes.shape)])

    def _known(self, kind: _Kind) -> int:
        """Number of a kind, which need not be one of the stored copies."""
        if kind not in self._kinds:
            self._kinds.append(kind)
            self._price.append(self._priced(kind))
            self.version += 1
        return self._kinds.index(kind)

    def _priced(self, kind: _Kind) -> float:
        """Seconds of a copy to the GPU that attends: inf from another GPU, which computes in place; InputError where the clock
        does not hold them."""
        target = self.problem.gpu_tier
        if kind.tier != target and self.problem.system.is_gpu_memory(kind.tier):
            return float("inf")
        seconds = float(self.problem.costs.copy(kind.nbytes, kind.tier, target, self.pieces))
        to_ps(seconds, f"a copy of an expert ({format_bytes(kind.nbytes)}) from {kind.tier} to {target}")
        return seconds

    def times(self, counts: IntArray, layers: IntArray, kinds: IntArray | None = None) -> ExpertTimes:
        """Times of visits with `counts` [V, E] of MoE layers `layers` [V], from copies of `kinds` [V, E] (None: the stored).

        As placement and kinds are now, whenever a time is looked at.
        """
        known, kind_of, copy, copy_ps = self._kinds, self._kind_of, self._copy, self._copy_ps
        price, largest = self._price, int(counts.max(initial=0))

        def host(curve: int) -> Any:
            kinds_of = kind_of[layers] if kinds is None else kinds
            values = self._host(counts, known, kinds_of, largest, curve)
            return self._one_by_one(values, counts, known, kinds_of, curve) if curve in (_CPU, _CPU_PS) else values

        def gpu() -> FloatArray:
            seconds = self._gpu(counts, largest)
            if self._dequantised:
                whole = [self.problem.costs.dequantise(kind.nbytes, self.problem.system.attending_gpu) for kind in known]
                seconds = seconds + np.where(counts > 0, np.array(whole)[kind_of[layers] if kinds is None else kinds], 0.0)
            return seconds

        find: dict[str, Callable[[], Any]] = {
            "gpu": gpu,
            "cpu": lambda: host(_CPU),
            "local": lambda: host(_LOCAL),
            "copy": lambda: copy[layers] if kinds is None else np.array(price)[kinds],
            "gpu_ps": lambda: self._gpu_ps(counts, largest, gpu),
            "cpu_ps": lambda: host(_CPU_PS),
            "local_ps": lambda: host(_LOCAL_PS),
            "copy_ps": lambda: copy_ps[layers] if kinds is None else _possible_ps(np.array(price)[kinds]),
        }
        return ExpertTimes(lambda name: find[name]())

    def copy_ps_of(self, kinds: IntArray) -> IntTimes:
        """Ps of lone copies of such `kinds` into GPU memory, -1 from another GPU."""
        return np.asarray(_possible_ps(np.array(self._price))[kinds])

    @property
    def stored(self) -> tuple[IntArray, IntTimes]:
        """[L, E] kinds of the stored copies, and [L, E] ps of each on its way into GPU memory."""
        return self._kind_of, self._copy_ps

    def upload(self, layer: int, experts: IntArray, kinds: IntArray | None = None) -> tuple[dict[str, float], IntTimes | None]:
        """What uploading `experts` [n] of a layer draws [resource -> bytes], and chunks per copy [n] (None: one each).

        `kinds` [E]: of the copies asked for, where they are not the stored ones; so in what follows, [V, E] for V visits.
        """
        usage: dict[str, float] = {}
        chunks = np.ones(len(experts), dtype=np.int64)
        kinds = self._kind_of[layer, experts] if kinds is None else kinds[experts]
        for index, number in enumerate(np.bincount(kinds, minlength=len(self._kinds)).tolist()):
            if number:
                path = self.problem.costs.path(self._kinds[index].tier, self.problem.gpu_tier)
                nbytes = self._kinds[index].nbytes
                for resource, factor in path.usage:
                    usage[resource] = usage.get(resource, 0.0) + factor * nbytes * number
                chunks[kinds == index] = self.problem.costs.chunks(nbytes, path.source, path.target, self.pieces)
        return usage, chunks if (chunks > 1).any() else None

    def read_by(self, device: int, runs: NDArray[np.bool_], layer: int, kinds: IntArray | None = None) -> dict[str, float]:
        """What a side device draws [resource -> bytes] by reading the weights of the experts `runs` [E] in place."""
        usage: dict[str, float] = {}
        if device in self.problem.local_index.values():
            return usage  # reads inside its own memory, which nobody else sees
        name = self.problem.devices[device]
        kinds = self._kind_of[layer] if kinds is None else kinds
        for index, number in enumerate(np.bincount(kinds[runs], minlength=len(self._kinds)).tolist()):
            if number:
                reach = self.problem.costs.reach(name, self._kinds[index].tier)
                for resource, factor in reach.usage:
                    usage[resource] = usage.get(resource, 0.0) + factor * self._kinds[index].nbytes * number
        return usage

    def kinds(self) -> list[tuple[str, float]]:
        """(tier, bytes) of each kind of copy."""
        return [(kind.tier, kind.nbytes) for kind in self._kinds]

    def kind_sums(self, values: NDArray[Any], kinds: IntArray | None = None) -> FloatArray:
        """[kinds] sums of `values` [L, E] over the experts of each kind."""
        weights = values.ravel().astype(np.float64)
        kinds = self._kind_of if kinds is None else kinds
        return np.bincount(kinds.ravel(), weights=weights, minlength=len(self._kinds)).astype(np.float64)

    def _gpu_ps(self, counts: IntArray, largest: int, gpu: Callable[[], FloatArray]) -> IntTimes:
        """[V, E] ps on the GPU: of `gpu`, or looked up."""
        seconds, padded = len(self._gpu_table), self.problem.runtime.gpu.capacity is not None
        if not (padded or self._dequantised or largest >= _TABLE_LIMIT):
            if largest >= seconds or len(self._gpu_ps_table) != seconds:
                self._gpu(counts[:0], largest)
                self._gpu_ps_table = _possible_ps(self._gpu_table)
            if self._gpu_ps_table.min() >= 0:
                return self._of_one_token(np.asarray(self._gpu_ps_table[counts]), counts)
        return to_ps(gpu(), f"an expert with up to {largest:,} tokens on the GPU")

    def _gpu(self, counts: IntArray, largest: int) -> FloatArray:
        if self.problem.runtime.gpu.capacity is not None:
            return _padded(counts, self.problem.runtime.gpu.capacity, self.problem.costs.gpu)
        if largest >= _TABLE_LIMIT:
            return self.problem.costs.gpu(counts, several=True)
        if largest >= len(self._gpu_table):
            self._gpu_table = self.problem.costs.gpu(np.arange(_table_size(largest)), several=True)
        return self._of_one_token(np.asarray(self._gpu_table[counts]), counts)

    def _of_one_token(self, values: NDArray[Any], counts: IntArray) -> NDArray[Any]:
        """[V, E] `values`, s or ps on the GPU, but those of visits of one token where its experts go through other kernels."""
        if self.problem.runtime.gpu.packed is None:
            return values
        alone = counts.sum(axis=-1, keepdims=True) <= self.problem.model.top_k
        if not alone.any():
            return values
        seconds = self.problem.costs.gpu(1, several=False)
        own = seconds if values.dtype == np.float64 else to_ps(seconds, "an expert of one token on the GPU")
        return np.where(alone & (counts > 0), own, values)

    def _host(self, counts: IntArray, known: list[_Kind], kinds: IntArray, largest: int, curve: int) -> NDArray[Any]:
        """[V, E] one of the curves of helpers, by the kind of each copy."""
        capacity, system = self.problem.runtime.gpu.capacity, self.problem.system
        if capacity is not None and system.further_gpus and curve in (_LOCAL, _LOCAL_PS):
            values = np.full(counts.shape, np.inf)
            for index, kind in enumerate(known):
                price = partial(self._local, tier=kind.tier, nbytes=kind.nbytes)
                on_gpu = system.is_gpu_memory(kind.tier)
                values = np.where(kinds == index, _padded(counts, capacity, price) if on_gpu else price(counts), values)
            return values if curve == _LOCAL else _possible_ps(values)
        if len(known) == 1:
            return self._host_of(known[0], counts, largest, curve)
        if largest < _TABLE_LIMIT:
            tables = self._host_tables(tuple(known), largest, curve)
            return np.asarray(tables.ravel()[kinds * tables.shape[1] + counts])
        values = np.empty(counts.shape, dtype=np.float64 if curve in (_CPU, _LOCAL) else np.int64)
        for index, kind in enumerate(known):
            where = kinds == index
            values[where] = self._host_of(kind, counts[where], largest, curve)
        return values

    def _one_by_one(
        self, values: NDArray[Any], counts: IntArray, known: list[_Kind], kinds: IntArray, curve: int
    ) -> NDArray[Any]:
        """[V, E] `values`, but those of one token for each token in visits of fewer than the program takes together."""
        least = self.problem.runtime.cpu.group
        alone = counts.sum(axis=-1, keepdims=True) < least * self.problem.model.top_k if least > 1 else np.False_
        if not np.any(alone):
            return values
        single = self._host(np.minimum(counts, 1), known, kinds, 1, curve)
        return np.where(alone & (single >= 0), counts * single, values)

    def _local(self, counts: IntArray, tier: str, nbytes: float) -> FloatArray:
        """[..] s on the device that works from `tier` alone; a GPU takes the time of the model's precision, as the one that
        attends does."""
        costs = self.problem.costs
        if not self.problem.system.is_gpu_memory(tier) or tier not in costs.local_of:
            return costs.local(counts, tier, nbytes)
        whole = costs.dequantise(nbytes, costs.local_of[tier]) if self._dequantised else 0.0
        return costs.local(counts, tier) + np.where(counts > 0, whole, 0.0)

    def _host_of(self, kind: _Kind, counts: IntArray, largest: int, curve: int) -> NDArray[Any]:
        if largest >= _TABLE_LIMIT:
            price = self.problem.costs.cpu if curve in (_CPU, _CPU_PS) else self._local
            seconds = price(counts, kind.tier, kind.nbytes)
            return seconds if curve in (_CPU, _LOCAL) else _possible_ps(seconds)
        return np.asarray(self._curves(kind, largest)[curve][counts])

    def _curves(self, kind: _Kind, largest: int) -> tuple[NDArray[Any], ...]:
        """The curves of copies of a kind, by tokens up to `largest` at least."""
        curves = self._tables.get(kind)
        if curves is None or largest >= len(curves[0]):
            tokens = np.arange(_table_size(largest))
            sides = (price(tokens, kind.tier, kind.nbytes) for price in (self.problem.costs.cpu, self._local))
            curves = self._tables[kind] = tuple(values for side in sides for values in (side, _possible_ps(side)))
        return curves

    def _host_tables(self, known: tuple[_Kind, ...], largest: int, curve: int) -> NDArray[Any]:
        """[kinds, tokens] one of the curves, of all kinds."""
        tables = self._tables_of.get((known, curve))
        if tables is None or largest >= tables.shape[1]:
            curves = [self._curves(kind, largest)[curve] for kind in known]
            width = min(len(values) for values in curves)
            tables = self._tables_of[known, curve] = np.stack([values[:width] for values in curves])
        return tables


def _padded(counts: IntArray, factor: float, price: Callable[[Any], FloatArray]) -> FloatArray:
    """[V, E] s where each expert computes at least its capacity; the others share the time of those without tokens."""
    experts, used = counts.shape[-1], counts > 0
    least = np.ceil(factor * counts.sum(axis=-1, keepdims=True) / experts)
    idle = (~used).sum(axis=-1, keepdims=True) * price(least)
    own = price(np.maximum(counts, least)) + idle / np.maximum(used.sum(axis=-1, keepdims=True), 1)
    return np.where(used, own, 0.0)


def _table_size(largest: int) -> int:
    """The next power of two above `largest`, so that a growing batch rebuilds a table a few times only."""
    return int(min(max(64, 2 ** int(np.ceil(np.log2(largest + 1)))), _TABLE_LIMIT))


def _possible_ps(seconds: FloatArray) -> IntTimes:
    """ps, with -1 where the device cannot run the expert at all, or not before the clock ends."""
    possible = seconds * SECOND < LIMIT
    if possible.all():
        return to_ps(seconds, "an expert")
    return np.where(possible, to_ps(np.where(possible, seconds, 0.0), "an expert"), -1)


def queue_of(path: Path) -> str:
    """The queue that copies on this path stand in: a link's copy engine, or one of its own where no link is serial."""
    return path.queue or f"{path.source}>{path.target}"


def usage_of(path_usage: Mapping[str, float] | tuple[tuple[str, float], ...], nbytes: float) -> dict[str, float]:
    """Resource -> bytes drawn by moving `nbytes` along a path."""
    pairs = path_usage.items() if isinstance(path_usage, Mapping) else path_usage
    return {resource: factor * nbytes for resource, factor in pairs}
