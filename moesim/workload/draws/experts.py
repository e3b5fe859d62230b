"""Owns the draw of k distinct experts per token from a popularity: exact, for many tokens at once.

Knows nothing of layers, requests or time: rows of popularity, and words of random bits handed in.

Drawing without replacement: each slot draws independently from the row's popularity, and every slot that equals an
earlier slot of its token draws again until all differ. A value is thrown away only if an earlier slot ends up with
it (an earlier slot that loses it lost it to one before itself), so slot j keeps its first draw that none of the
slots before it keeps. That is successive sampling (Plackett-Luce), the same law as taking the k first of E exponential
clocks with the popularities as rates.

Source: alias method, Walker (1977); table construction by one sweep, Huebschle-Schneider and Sanders (2019);
successor of a word, Steele, Lea and Flood (2014), splitmix64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray
from moesim.errors import InputError
from moesim.workload.draws.kernel import ROUNDS
from moesim.workload.table import id_type

__all__ = ["AliasTable", "Ids", "Words", "choose", "conflicts", "mean_one", "successor"]

Words = NDArray[np.uint64]
Ids = NDArray[np.unsignedinteger[Any]]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def successor(words: Words) -> Words:
    """The next word of each word's own splitmix64 sequence: what one token draws again never shifts another's."""
    z = words + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def choose(condition: NDArray[np.bool_], yes: Ids, no: Ids) -> Ids:
    """`np.where` for small unsigned ids without a branch per element (20 times faster on random conditions)."""
    return no ^ ((no ^ yes) * condition.view(np.uint8))


def conflicts(ids: Ids, fixed: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """[k, m] slots that must draw again: those equal to an earlier slot, or to any slot of `fixed` [k, m].

    `ids`: [k, m]. Fixed slots come before all others, never conflict and are distinct among themselves.
    """
    bad = np.zeros(ids.shape, dtype=np.bool_)
    free = None if fixed is None else ~fixed
    for shift in range(1, len(ids)):
        equal = ids[shift:] == ids[:-shift]
        if fixed is None or free is None:
            bad[shift:] |= equal
        else:
            bad[:-shift] |= equal & fixed[shift:]
            bad[shift:] |= equal & free[shift:]
    return bad


class AliasTable:
    """Alias tables of many rows of popularity: a draw costs two look-ups, whatever E.

    Valid: thresholds have 32 bits, so a probability is right to E / 2**32 / E.
    """

    def __init__(self, popularity: FloatArray, top_k: int, name: str = "popularity") -> None:
        """`popularity`: [rows, E], any positive scale; `name` is what an error calls it.

        Raises InputError for negative or non-finite values and for a row with fewer than `top_k` possible experts.
        """
        _check(popularity, top_k, name)
        self.popularity = popularity
        self.rows, self.experts = popularity.shape
        self.top_k = top_k
        self.dtype = id_type(self.experts)
        threshold, alias = _sweep(mean_one(popularity))
        self._threshold = np.minimum(threshold * 2.0**32, 2.0**32 - 1).astype(np.uint32).ravel()
        self._alias = alias.astype(self.dtype).ravel()

    def cells(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """[rows, E] thresholds and aliases, as the kernel takes them."""
        shape = (self.rows, self.experts)
        return self._threshold.reshape(shape), self._alias.reshape(shape).astype(np.uint16)

    def draw(self, words: Words, base: NDArray[np.intp]) -> Ids:
        """One expert per word, with replacement; the low 32 bits of each word are used.

        `words`: [...]; `base`: broadcastable, E times the row each word draws from.
        """
        scaled = (words & _LOW) * np.uint64(self.experts)
        column = (scaled >> _HALF).astype(np.intp)
        cell = column + base
        keep = scaled.astype(np.uint32) < self._threshold.take(cell)
        drawn = self._alias.take(cell)
        return choose(keep, column.astype(self.dtype), drawn)

    def distinct(self, words: Words, base: NDArray[np.intp]) -> Ids:
        """[k, m] distinct experts of m tokens; `words`: [k, m]; `base`: [m], E times the row of each token."""
        return self.resolve(self.draw(words, base), words, base)

    def resolve(self, ids: Ids, words: Words, base: NDArray[np.intp], fixed: NDArray[np.bool_] | None = None) -> Ids:
        """[k, m] `ids` after every slot in conflict has drawn again (in place); shapes as in `conflicts`, `distinct`.

        What a token gets depends on its own words and its row alone.
        """
        words, token, part = words.copy(), None, ids
        for _ in range(ROUNDS):
            bad = conflicts(part, fixed)
            if token is None and np.count_nonzero(bad) * 16 < bad.size:
                # a few rounds over all tokens settle most, the rest is too few to touch all for
                token = np.flatnonzero(bad.any(axis=0))
                part, words, base, bad = ids.take(token, axis=1), words.take(token, axis=1), base.take(token), bad[:, token]
                fixed = None if fixed is None else fixed.take(token, axis=1)
            again = np.flatnonzero(bad)
            if not again.size:
                break
            self._again(part, words, base, again, part.shape[1])
        else:
            self._finish(part, words, base, fixed)
        if token is not None:
            ids[:, token] = part
        return ids

    def _again(self, ids: Ids, words: Words, base: NDArray[np.intp], cell: NDArray[np.intp], size: int) -> None:
        """Draw the flat cells `cell` of `ids` [k, size] again, each from the successor of its word."""
        following = successor(words.reshape(-1)[cell])
        words.reshape(-1)[cell] = following
        ids.reshape(-1)[cell] = self.draw(following, base.take(cell % size))

    def _finish(self, ids: Ids, words: Words, base: NDArray[np.intp], fixed: NDArray[np.bool_] | None) -> None:
        """The same law without repetition, for rows whose mass lies on so few experts that drawing again takes for ever."""
        stuck = np.flatnonzero(conflicts(ids, fixed).any(axis=0))
        weight = self.popularity[base[stuck] // self.experts]
        token = np.arange(len(stuck))
        uniform = (successor(words[:, stuck]) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        part = ids[:, stuck]
        held = np.zeros(part.shape, dtype=np.bool_) if fixed is None else fixed[:, stuck]
        row, column = np.nonzero(held)
        weight[column, part[row, column]] = 0.0
        for slot, drawn in enumerate(part):
            taken = (weight[token, drawn] == 0.0) & ~held[slot]
            if taken.any():
                total = np.cumsum(weight[taken], axis=1)
                target = uniform[slot, taken] * total[:, -1]
                drawn[taken] = (total > target[:, None]).argmax(axis=1)
            weight[token, drawn] = 0.0
        ids[:, stuck] = part


def mean_one(popularity: FloatArray) -> FloatArray:
    """[rows, E] popularity in units of each row's mean."""
    scaled: FloatArray = popularity * (popularity.shape[1] / popularity.sum(axis=1, keepdims=True))
    return scaled


def _check(popularity: FloatArray, top_k: int, name: str) -> None:
    if not np.isfinite(popularity).all() or (popularity < 0).any():
        raise InputError(f"{name} has negative or non-finite values; shares and counts are zero or above")
    possible = np.count_nonzero(popularity, axis=1)
    if (possible < top_k).any():
        row = int((possible < top_k).argmax())
        raise InputError(
            f"{name}: row {row} has {possible[row]} experts with a probability above zero, too few to draw "
            f"top-{top_k} without replacement; at least {top_k} are needed"
        )


def _sweep(scaled: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
    """Thresholds and aliases [rows, E] of `mean_one` popularity: E steps, each filling one cell of every row.

    A cell holds 1/E of the mass. Light experts fill up with what the current heavy one has above 1/E; once that
    falls to 1/E or below, its own cell is filled up by the next heavy one.
    """
    rows, experts = scaled.shape
    light_count = experts - np.count_nonzero(scaled > 1.0, axis=1)
    order = np.argsort(scaled > 1.0, axis=1, kind="stable")
    own = np.broadcast_to(np.arange(experts), (rows, experts))
    # what rounding leaves unfilled falls to the heaviest expert
    threshold = np.minimum(scaled, 1.0)
    alias = np.where(scaled >= 1.0, own, scaled.argmax(axis=1)[:, None]).astype(np.intp)
    row = np.arange(rows)
    light, heavy = np.zeros(rows, dtype=np.intp), light_count.astype(np.intp)
    current = order[row, np.minimum(heavy, experts - 1)]
    left = np.where(heavy < experts, scaled[row, current], 0.0)
    for _ in range(experts):
        feed = (left > 1.0) & (light < light_count)
        cell = order[row, np.minimum(light, experts - 1)]
        fed = row[feed]
        alias[fed, cell[feed]] = current[feed]
        left[feed] -= 1.0 - scaled[fed, cell[feed]]
        light[feed] += 1
        close = np.flatnonzero(~feed & (heavy + 1 < experts))
        following = order[close, heavy[close] + 1]
        share = np.minimum(left[close], 1.0)
        threshold[close, current[close]] = share
        alias[close, current[close]] = np.where(share < 1.0, following, current[close])
        left[close] = scaled[close, following] - (1.0 - share)
        heavy[close] += 1
        current[close] = following
    return threshold, alias
