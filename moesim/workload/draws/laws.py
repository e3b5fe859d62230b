"""Owns the laws by which tokens are drawn, in the two forms they can be walked: block by block with numpy, or compiled.

Knows `blocks`, the specification, and `kernel`, which does the same to the bit; nothing of models, files, presets or names.

Short names: L layers, E experts, k experts per token, G decode passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray
from moesim.workload.draws import kernel
from moesim.workload.draws.blocks import (
    BLOCK,
    REACH,
    STEPS,
    Ledger,
    Process,
    chunk_of,
    independent_block,
    reflected,
    sticky_block,
)
from moesim.workload.draws.experts import AliasTable, mean_one
from moesim.workload.table import id_type

__all__ = ["DrawRequest", "IndependentLaw", "Kin", "Law", "StickyLaw", "strides"]

Ids = NDArray[np.unsignedinteger[Any]]
DrawRequest = Callable[[int, int, NDArray[np.uint32], Ids], None]
"""Draws one request: (its place in the block, tokens of its prompt, [L, E] counts of these, [G, L, k] ids of the others)."""


class Law(Protocol):
    """How the tokens of a block of requests are drawn; both ways give the same ids."""

    @property
    def layers(self) -> int:
        """L."""

    @property
    def experts(self) -> int:
        """E."""

    @property
    def top_k(self) -> int:
        """k."""

    def walk(
        self, generator: np.random.Generator, order: IntArray, ledger: Ledger, first: int
    ) -> tuple[NDArray[np.uint32], Ids]:
        """[n, L, E] counts of the prompts and [n, G, L, k] ids of the block's requests `order` [n], which the ledger knows.

        `first`: number of the block's first request.
        """

    def compiled(self, functions: Any, generator: np.random.Generator, first: int) -> DrawRequest:
        """What draws each request of the block by the compiled `functions` of `kernel`, each time the same; may be called from
        several threads."""

    def parts(self) -> Iterator[Any]:
        """Everything that determines the draws but for the generator and the lengths: numbers, texts and arrays."""


@dataclass(frozen=True, eq=False)
class IndependentLaw:
    """Every token of layer l draws k distinct experts from row l, whatever the others do."""

    popularity: FloatArray
    """[L, E], any positive scale."""
    top_k: int

    @property
    def layers(self) -> int:
        """L."""
        return len(self.popularity)

    @property
    def experts(self) -> int:
        """E."""
        return int(self.popularity.shape[1])

    @cached_property
    def table(self) -> AliasTable:
        """A row for each layer. InputError for a popularity from which k cannot be drawn."""
        return AliasTable(self.popularity, self.top_k)

    def walk(
        self, generator: np.random.Generator, order: IntArray, ledger: Ledger, first: int
    ) -> tuple[NDArray[np.uint32], Ids]:
        """See `Law.walk`."""
        independent_block(self.table, generator.bit_generator, order, ledger)
        return ledger.by_request()

    def compiled(self, functions: Any, generator: np.random.Generator, first: int) -> DrawRequest:
        """See `Law.compiled`."""
        streams, chunk = strides(generator.bit_generator), chunk_of(self.layers, self.top_k)
        tables = (*self.table.cells(), np.ascontiguousarray(self.popularity, dtype=np.float64))

        def draw(place: int, prompt: int, prefill: NDArray[np.uint32], decode: Ids) -> None:
            words = np.empty(self.top_k * chunk * self.layers, dtype=np.uint64)
            ids = np.empty(decode.shape, dtype=np.uint16)
            slots = np.empty(self.top_k, dtype=np.int64)
            functions.independent(streams[place].copy(), *tables, prompt, prefill, ids, words, slots, *_room(self))
            decode[:] = ids

        return draw

    def parts(self) -> Iterator[Any]:
        """See `Law.parts`."""
        yield from ("independent", self.top_k, self.popularity)


class Kin(NamedTuple):
    """What requests of one domain have in common."""

    share: float
    """Of the variance of a request's tilt that all requests of its domain share."""
    tilts: FloatArray
    """[D, L, E] tilts of the domains, threaded."""
    domain: IntArray
    """[R] domain of each request."""

    def mixed(self, own: FloatArray, first: int) -> FloatArray:
        """[L, BLOCK, E] tilts of the block that begins with request `first`, of their `own` [L, BLOCK, E] parts (in place)."""
        domain = self.domain[first : first + BLOCK]
        part = own[:, : len(domain)]
        part *= math.sqrt(1.0 - self.share)
        part += math.sqrt(self.share) * self.tilts[domain].transpose(1, 0, 2)
        return own


@dataclass(frozen=True, eq=False)
class StickyLaw:
    """Tokens follow their predecessors and, between layers, themselves."""

    process: Process
    named: IntArray
    """[L, E] the expert at each popularity rank."""
    top_k: int
    kin: Kin | None = None
    """None: requests have no domains."""

    @property
    def layers(self) -> int:
        """L."""
        return len(self.named)

    @property
    def experts(self) -> int:
        """E."""
        return int(self.named.shape[1])

    def walk(
        self, generator: np.random.Generator, order: IntArray, ledger: Ledger, first: int
    ) -> tuple[NDArray[np.uint32], Ids]:
        """See `Law.walk`."""
        popularity = self.process.popularity(self._tilts(generator, first)[:, order])
        sticky_block(self.process, popularity, generator.bit_generator, order, ledger)
        by_rank, ranks = ledger.by_request()
        counts = np.empty_like(by_rank)
        np.put_along_axis(counts, np.broadcast_to(self.named, counts.shape), by_rank, axis=2)
        ids = self.named.astype(id_type(self.experts))[np.arange(self.layers)[:, None], ranks]
        ids[np.arange(ids.shape[1]) >= ledger.decoded[:, None]] = 0  # no rank was drawn there
        return counts, ids

    def compiled(self, functions: Any, generator: np.random.Generator, first: int) -> DrawRequest:
        """See `Law.compiled`."""
        tilts = self._tilts(generator, first)
        streams, process = strides(generator.bit_generator), self.process
        steps, fold = (STEPS + REACH).astype(np.int64), reflected(self.experts).astype(np.int64)
        lags, named = process.lags().astype(np.int64), np.ascontiguousarray(self.named, dtype=np.int64)
        meanings, shape = (process.bounds(), process.ties(), steps, lags, fold, named), (self.layers, self.top_k)

        def draw(place: int, prompt: int, prefill: NDArray[np.uint32], decode: Ids) -> None:
            popularity = process.popularity(tilts[:, place])
            threshold, alias = np.empty(popularity.shape, dtype=np.uint32), np.empty(popularity.shape, dtype=np.uint16)
            functions.sweep(mean_one(popularity), threshold, alias)
            past, heads = np.zeros((lags[-1] + 1, *shape), dtype=np.int64), np.zeros((2, *shape), dtype=np.uint64)
            words, ids = np.zeros(self.layers * self.top_k, dtype=np.uint64), np.empty(decode.shape, dtype=np.uint16)
            tables = (*meanings, threshold, alias, popularity)
            functions.sticky(streams[place].copy(), *tables, prompt, prefill, ids, words, past, heads, *_room(self))
            decode[:] = ids

        return draw

    def parts(self) -> Iterator[Any]:
        """See `Law.parts`."""
        yield from ("sticky", self.top_k, self.named, *self.process, *(self.kin or ()))

    def _tilts(self, generator: np.random.Generator, first: int) -> FloatArray:
        own = self.process.tilts(generator)
        return own if self.kin is None else self.kin.mixed(own, first)


def _room(law: Law) -> tuple[NDArray[Any], ...]:
    """What a compiled draw works in: words, flags and the last token of each expert, and its weights."""
    slots, experts = law.top_k, law.experts
    words, flags = np.zeros(slots, dtype=np.uint64), np.zeros((2, slots), dtype=np.bool_)
    return words, flags, np.zeros(experts, dtype=np.int64), np.zeros(experts)


def strides(bits: np.random.BitGenerator) -> NDArray[np.uint64]:
    """[BLOCK, 6] for `kernel.fill`: where the words of each place of a block begin, and the step from one to its next.

    PCG64's state goes s -> factor * s + increment modulo 2**128, and so does the state of every BLOCK-th word, with the
    constants of BLOCK steps.
    """
    state: Any = bits.state
    current, increment = int(state["state"]["state"]), int(state["state"]["inc"])
    factor, addend, starts = 1, 0, []
    for _ in range(BLOCK):
        current = (current * kernel.FACTOR + increment) % 2**128
        starts.append(current)
        factor, addend = factor * kernel.FACTOR % 2**128, (addend * kernel.FACTOR + increment) % 2**128
    halves = [[half for value in (start, factor, addend) for half in divmod(value, 2**64)] for start in starts]
    return np.array(halves, dtype=np.uint64)
