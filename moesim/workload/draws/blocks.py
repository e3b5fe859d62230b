"""Owns the walk over the tokens of a block of requests: draws every token's experts and books them into the table.

Knows processes (independent, or sticky in time and coupled between layers), nothing of models, files or presets.

Randomness: requests come in blocks of BLOCK, each block with its own generator. Every slot of every token of a full block
gets its own word of random bits, wanted or not, and redraws come from that word alone. So a request's routing
depends on the seed and on its number, not on how many requests there are, nor on their lengths, nor on the batching.

Short names: n requests of the block, L layers, E experts, k experts per token, G decode passes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray
from moesim.portable import exponential, power_law
from moesim.progress import Progress
from moesim.workload.draws.experts import AliasTable, Ids, Words, choose, successor
from moesim.workload.draws.kernel import DEPTH
from moesim.workload.table import id_type

__all__ = [
    "BLOCK",
    "REACH",
    "STEPS",
    "Ledger",
    "Process",
    "chunk_of",
    "independent_block",
    "reflected",
    "sticky_block",
    "threaded",
]

BLOCK = 64
"""Requests that share one generator."""

_CHUNK = 1 << 17
REACH = 2
"""Ranks that a slot may lie from the one it follows."""
STEPS = np.repeat(np.array([0, 1, -1, 2, -2], dtype=np.intp), [204, 20, 20, 6, 6])
"""Ranks that each of 256 equally likely dice moves a slot that follows the layer above."""


class Ledger:
    """Books drawn experts: prompts as counts, decode passes as ids."""

    def __init__(self, prompt: IntArray, output: IntArray, layers: int, experts: int, top_k: int, passes: int) -> None:
        """`prompt`, `output`: [n] tokens, the longest request first; `passes`: G of the whole table."""
        count = len(prompt)
        self.prompt, self.decoded = prompt, output - 1
        self.total = prompt + output - 1
        self.row = np.arange(layers * count, dtype=np.intp).reshape(layers, count)
        self.counts = np.zeros(layers * count * experts, dtype=np.uint32)
        self.decode = np.zeros((count, passes, layers, top_k), dtype=id_type(experts))
        self.tick: Progress | None = None
        self._experts = experts

    def by_request(self) -> tuple[NDArray[np.uint32], Ids]:
        """[n, L, E] counts of the prompts and [n, G, L, k] ids of the decode passes."""
        layers, count = self.row.shape
        return self.counts.reshape(layers, count, self._experts).transpose(1, 0, 2), self.decode

    def active(self, first: int) -> int:
        """How many requests (a prefix) have a token at or after position `first`."""
        return int(np.searchsorted(-self.total, -first, side="left"))

    def add(self, ids: Ids, time: IntArray, layers: slice) -> None:
        """Book `ids` [k, ..., layers, a] of the first a requests at token positions `time` (broadcastable)."""
        active = ids.shape[-1]
        cells = self.row[layers, :active] * self._experts
        prefill = time < self.prompt[:active]
        if prefill.all():
            np.add.at(self.counts, (ids + cells).reshape(-1), np.uint32(1))
            return
        shape = ids.shape[1:]
        if prefill.any():
            np.add.at(self.counts, (ids + cells)[:, np.broadcast_to(prefill, shape)].reshape(-1), np.uint32(1))
        position = time - self.prompt[:active]
        decode = np.broadcast_to((position >= 0) & (position < self.decoded[:active]), shape)
        if decode.any():
            where = np.nonzero(decode)
            position = np.broadcast_to(position, shape)[where]
            self.decode[where[-1], position, where[-2] + layers.start] = ids[:, decode].T


def chunk_of(layers: int, top_k: int) -> int:
    """Tokens of each request for which independent draws take their words together."""
    return max(1, _CHUNK // (BLOCK * layers * top_k))


def independent_block(table: AliasTable, bits: np.random.BitGenerator, order: IntArray, ledger: Ledger) -> None:
    """Tokens that know nothing of each other: every token of layer l draws k distinct experts from row l of `table`.

    `order`: [n] place of each request of the ledger within its block.
    """
    layers, top_k = table.rows, table.top_k
    chunk = chunk_of(layers, top_k)
    base = np.arange(layers, dtype=np.intp) * table.experts
    layers_slice = slice(0, layers)
    for first in range(0, int(ledger.total[0]), chunk):
        active = ledger.active(first)
        words = _words(bits, (top_k, chunk, layers, BLOCK))[..., order[:active]]
        last = min(chunk, int(ledger.total[0]) - first)
        words = np.ascontiguousarray(words[:, :last])
        rows = np.broadcast_to(base[:, None], words.shape[1:]).reshape(-1)
        ids = table.distinct(words.reshape(top_k, -1), rows).reshape(words.shape)
        ledger.add(ids, first + np.arange(last)[:, None, None], layers_slice)
        if ledger.tick is not None:
            ledger.tick(first + last, int(ledger.total[0]))


class Process(NamedTuple):
    """How a token's experts depend on its neighbours, in popularity ranks (rank 0 the most popular of its layer)."""

    curve: FloatArray
    """[L, E] popularity by rank, before tilting."""
    tilt: float
    """Standard deviation of the logarithm by which a request's own popularity differs from the curve."""
    thread: float
    """Correlation of a request's tilt from one layer to the next, rank by rank."""
    reuse: FloatArray
    """[L] probability that a slot keeps the expert it had for the token before."""
    memory: FloatArray
    """[L] probability that a slot takes up an expert of 2 to `reach` tokens before."""
    coupling: FloatArray
    """[L] probability that a slot that does neither takes the rank (or a close one) that the layer above took."""
    bond: FloatArray
    """[L] probability that a slot keeps, remembers or does neither as the same slot of the layer above did."""
    decay: float = 1.0
    """What is remembered lies `lag` tokens before in proportion to lag**-decay."""
    reach: int = 16
    """The farthest token that is remembered, at least 2."""

    def tilts(self, generator: np.random.Generator) -> FloatArray:
        """[L, BLOCK, E] standard normal, each layer correlated with the one above; the first that a block draws."""
        layers, experts = self.curve.shape
        return threaded(generator.standard_normal((layers, BLOCK, experts)), self.thread)

    def popularity(self, tilts: FloatArray) -> FloatArray:
        """[L, ..., E] popularity by rank of the requests whose `tilts` [L, ..., E] these are, any scale."""
        curve = self.curve.reshape(len(self.curve), *[1] * (tilts.ndim - 2), -1)
        popularity: FloatArray = curve * exponential(self.tilt * tilts)
        return popularity

    def bounds(self) -> NDArray[np.uint32]:
        """[3, DEPTH + 1, L] 24-bit coins below these keep, remember, follow; by token position (the last row: any later one).

        A first token has nothing to keep, and the first DEPTH tokens remember nothing: they follow or draw instead. A later
        one draws where it would remember what lies before the first.
        """
        position = np.arange(DEPTH + 1)[:, None]
        keep = np.where(position >= 1, self.reuse, 0.0)
        remember = np.where(position >= DEPTH, self.memory, 0.0)
        spent = np.minimum(keep + remember, 1.0)
        follow = spent + (1.0 - spent) * self.coupling
        return _coins(np.stack([keep, spent, follow]))

    def ties(self) -> NDArray[np.uint32]:
        """[2, L] 24-bit coins below these go by the layer above; then, if that does neither, coins below these follow."""
        return _coins(np.stack([self.bond, self.coupling]))

    def lags(self) -> NDArray[np.intp]:
        """[256] tokens back, 2 to `reach`, rising: what is remembered for each of 256 equally likely dice."""
        weight = power_law(self.reach, self.decay, 0.0)[1:]
        shares = np.cumsum(weight) / np.sum(weight)
        return np.searchsorted(shares, (np.arange(256) + 0.5) / 256) + 2


def threaded(normals: FloatArray, thread: float) -> FloatArray:
    """[L, ...] `normals`, each layer correlated by `thread` with the one above (in place)."""
    for layer in range(1, len(normals)):
        normals[layer] = thread * normals[layer - 1] + math.sqrt(1.0 - thread**2) * normals[layer]
    return normals


def _coins(shares: FloatArray) -> NDArray[np.uint32]:
    coins: NDArray[np.uint32] = np.round(shares * 2.0**24).astype(np.uint32)
    return coins


class _Past:
    """What the diagonals before have left: ranks, and the upper halves of the words that slots went by."""

    def __init__(self, process: Process, top_k: int, count: int, dtype: Any) -> None:
        self.bounds, self.ties, self.lags = process.bounds(), process.ties(), process.lags()
        self.tied = bool(self.ties[0].any())
        layers = len(process.reuse)
        self.ring: Ids = np.zeros((int(self.lags[-1]) + 1, top_k, layers, count), dtype=dtype)
        self.heads: NDArray[np.uint32] = np.zeros((top_k, layers, count if self.tied else 0), dtype=np.uint32)

    def narrow(self, active: int) -> None:
        """Forgets all but the first `active` requests."""
        if active < self.ring.shape[-1]:
            self.ring = np.ascontiguousarray(self.ring[..., :active])
            self.heads = np.ascontiguousarray(self.heads[..., :active])

    def last(self, step: int) -> Ids:
        """[k, L, a] ranks of the diagonal before."""
        ranks: Ids = self.ring[(step - 1) % len(self.ring)]
        return ranks

    def remembered(self, step: int, low: int, dice: NDArray[np.intp]) -> Ids:
        """[k, l, a] ranks that `dice` [k, l, a] take up, in layers from `low` on."""
        last = self.ring[0]
        high = low + dice.shape[1]
        entry = ((step - self.lags) % len(self.ring) * last.size).take(dice)
        entry += np.arange(last.size, dtype=np.intp).reshape(last.shape)[:, low:high]
        ranks: Ids = self.ring.reshape(-1).take(entry)
        return ranks


def sticky_block(
    process: Process, popularity: FloatArray, bits: np.random.BitGenerator, order: IntArray, ledger: Ledger
) -> None:
    """Tokens that follow their predecessors and, between layers, themselves; ids are booked as ranks.

    `popularity` [L, n, E] by rank, of each request of the ledger; `order`: [n] its place within its block.
    Token t of layer l needs token t - 1 of layer l and token t of layer l - 1. Walking along the diagonal, step n does
    token n - l of every layer l at once, and both are what step n - 1 left behind.
    """
    layers, count, experts = popularity.shape
    total, top_k = int(ledger.total[0]), ledger.decode.shape[-1]
    table = AliasTable(popularity.reshape(layers * count, experts), top_k)
    past = _Past(process, top_k, count, table.dtype)
    full = np.array_equal(order, np.arange(BLOCK))
    for step in range(total + layers - 1):
        low, high = max(0, step - total + 1), min(layers, step + 1)
        active = ledger.active(step - layers + 1)
        past.narrow(active)
        words = _words(bits, (top_k, layers, BLOCK))[:, low:high]
        words = np.ascontiguousarray(words if full and active == BLOCK else words[:, :, order[:active]])
        base = ledger.row[low:high, :active] * experts
        ids = _step(table, words, base, past, step, low)
        past.ring[step % len(past.ring), :, low:high] = ids
        ledger.add(ids, step - np.arange(low, high)[:, None], slice(low, high))
        if ledger.tick is not None and step % 64 == 0:
            ledger.tick(step, total + layers - 1)


def _step(table: AliasTable, words: Words, base: NDArray[np.intp], past: _Past, step: int, low: int) -> Ids:
    """[k, l, a] ranks of one diagonal, layers `low` to low + l - 1.

    A word's high 24 bits decide what the slot does, the next 8 are the dice of that, the low 32 draw. Where a slot goes by
    the layer above, its own 24 bits decide whether it follows, should that one neither keep nor remember.
    """
    layer = np.arange(low, low + words.shape[1])
    time = step - layer
    bounds = past.bounds[:, np.minimum(time, DEPTH), layer][..., None]
    # layer 0 has none above: what it would take comes from itself and is never taken, its coupling and its bond being 0
    upper = np.maximum(layer - 1, 0)
    last = past.last(step)
    head = (words >> np.uint64(32)).astype(np.uint32)
    coin, near = head >> np.uint32(8), (head & np.uint32(0xFF)).astype(np.intp)
    follows = coin < bounds[2]
    if past.tied:
        tie = (successor(words) >> np.uint64(40)).astype(np.uint32) < past.ties[0, layer, None]
        follows = np.where(tie, coin < past.ties[1, layer, None], follows)
        head = np.where(tie, past.heads[:, upper], head)
        past.heads[:, layer] = head
        coin = head >> np.uint32(8)
    ids = table.draw(words, base)
    if follows.any():
        follows &= coin >= bounds[1]
        ids = choose(follows, _neighbour(last[:, upper], near, table.experts), ids)
    if (bounds[1] > bounds[0]).any():
        dice = (head & np.uint32(0xFF)).astype(np.intp)
        remembers = (coin < bounds[1]) & (past.lags.take(dice) <= time[:, None])
        ids = choose(remembers, past.remembered(step, low, dice), ids)
    repeats = coin < bounds[0]
    ids = choose(repeats, last[:, layer], ids)
    flat = (len(ids), -1)
    table.resolve(ids.reshape(flat), words.reshape(flat), base.reshape(-1), repeats.reshape(flat))
    return ids


def reflected(experts: int) -> NDArray[np.intp]:
    """[E + 2 REACH] the rank that each of the ranks -REACH to E + REACH - 1 stands for: both ends reflect."""
    fold = np.abs(np.arange(-REACH, experts + REACH))
    inside: NDArray[np.intp] = np.clip(np.minimum(fold, 2 * (experts - 1) - fold), 0, None)
    return inside


def _neighbour(above: Ids, dice: NDArray[np.intp], experts: int) -> Ids:
    """Ranks near those of the layer above; `dice` [k, l, a] from 0 to 255 decide how near."""
    near: Ids = reflected(experts).astype(above.dtype).take(above + (STEPS + REACH).take(dice))
    return near


def _words(bits: np.random.BitGenerator, shape: tuple[int, ...]) -> Words:
    raw: Any = bits.random_raw(int(np.prod(shape)))
    words: Words = raw.reshape(shape)
    return words
