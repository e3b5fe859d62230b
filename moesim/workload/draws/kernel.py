"""The walk over the tokens of one request, as numba compiles it: the experts of `blocks`, bit for bit, in flat arrays.

Everything that is compiled for the draws stands in this file, because numba's cache does not notice changes in others. The
functions run as plain Python, too, on the same arrays: slowly, with bounds. `blocks` is the specification, and serves where
numba is not there or not worth loading.

Random bits: PCG64 (O'Neill, 2014), as numpy's. A block of requests takes its words in turn, one for each place in the block, so
the words of one request are every BLOCK-th, and stepping over those of the others is one multiplication by a constant.

Short names: L layers, E experts, k experts per token, T tokens, G decode passes. A row is a layer of a request.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEPTH", "FACTOR", "FUNCTIONS", "ROUNDS"]

DEPTH = 17
"""Position of the first token that may remember one before the last."""
ROUNDS = 25
"""Rounds of redraws after which a token that still conflicts is finished without repetition; counted for each token alone."""
FACTOR = 0x2360ED051FC65DA44385DF649FCCF645
"""By which PCG64 multiplies its state."""

Array = NDArray[Any]

_LOW = np.uint64(0xFFFFFFFF)
_BYTE = np.uint64(0xFF)
_1, _8, _11, _27, _30, _31, _32, _40, _58, _63, _64 = (np.uint64(n) for n in (1, 8, 11, 27, 30, 31, 32, 40, 58, 63, 64))
_GOLDEN, _MIX, _MIX_AGAIN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def high(a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two words."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _32, b & _LOW, b >> _32
    left, right = a_low * b_high, a_high * b_low
    middle = ((a_low * b_low) >> _32) + (left & _LOW) + (right & _LOW)
    return a_high * b_high + (left >> _32) + (right >> _32) + (middle >> _32)


def fill(stream: Array, words: Array) -> None:
    """The next words of a request.

    `stream` [6]: halves (high, low) of PCG64's state, and of the factor and the increment of a stride. The state goes on.
    """
    state_high, state_low = stream[0], stream[1]
    factor_high, factor_low, add_high, add_low = stream[2], stream[3], stream[4], stream[5]
    for index in range(len(words)):
        folded, turn = state_high ^ state_low, state_high >> _58
        words[index] = (folded >> turn) | (folded << ((_64 - turn) & _63))
        product = state_low * factor_low
        state_high = high(state_low, factor_low) + state_high * factor_low + state_low * factor_high + add_high
        state_low = product + add_low
        if state_low < product:
            state_high += _1
    stream[0], stream[1] = state_high, state_low


def successor(word: Any) -> Any:
    """The next word of a word's own splitmix64 sequence."""
    word = word + _GOLDEN
    word = (word ^ (word >> _30)) * _MIX
    word = (word ^ (word >> _27)) * _MIX_AGAIN
    return word ^ (word >> _31)


def sweep(scaled: Array, threshold: Array, alias: Array) -> None:
    """Alias tables of all rows, as in `draw`. `scaled` [rows, E]: popularity, each row's mean 1; fills the others [rows, E]."""
    rows, experts = scaled.shape
    for row in range(rows):
        heaviest = 0
        for expert in range(experts):
            if scaled[row, expert] > scaled[row, heaviest]:
                heaviest = expert
        light, heavy = 0, 0
        while heavy < experts and not scaled[row, heavy] > 1.0:
            heavy += 1
        left = scaled[row, heavy] if heavy < experts else 0.0
        for expert in range(experts):
            share = min(scaled[row, expert], 1.0)
            threshold[row, expert] = min(share * 4294967296.0, 4294967295.0)
            alias[row, expert] = expert if scaled[row, expert] >= 1.0 else heaviest
        for _ in range(experts):
            while light < experts and scaled[row, light] > 1.0:
                light += 1
            if left > 1.0 and light < experts:
                alias[row, light] = heavy
                left -= 1.0 - scaled[row, light]
                light += 1
                continue
            following = heavy + 1
            while following < experts and not scaled[row, following] > 1.0:
                following += 1
            if following < experts:
                share = min(left, 1.0)
                threshold[row, heavy] = min(share * 4294967296.0, 4294967295.0)
                alias[row, heavy] = following if share < 1.0 else heavy
                left = scaled[row, following] - (1.0 - share)
                heavy = following


def drawn(word: Any, row: int, threshold: Array, alias: Array) -> Any:
    """The expert that the low 32 bits of a word draw from a row."""
    scaled = (word & _LOW) * np.uint64(threshold.shape[1])
    column = scaled >> _32
    substitute = np.uint64(alias[row, column])  # read whatever the outcome: half of all guesses at a branch would be wrong
    return np.int64(column if (scaled & _LOW) < threshold[row, column] else substitute)


def conflicts(ids: Array, flags: Array, taken_by: Array, mark: int) -> bool:
    """Flags the slots that must draw again: those equal to an earlier slot, or to any held one. Whether there are any.

    `flags` [2, k]: slots that are held, which differ, and those to draw again. `taken_by` [E]: marks `mark` and older ones.
    """
    held, bad, clash = flags[0], flags[1], False
    for slot in range(len(ids)):
        if held[slot]:
            taken_by[ids[slot]] = mark
    for slot in range(len(ids)):
        bad[slot] = not held[slot] and taken_by[ids[slot]] == mark
        clash |= bad[slot]
        taken_by[ids[slot]] = mark
    return clash


def settle(
    ids: Array,
    words: Array,
    flags: Array,
    row: int,
    threshold: Array,
    alias: Array,
    weights: Array,
    taken_by: Array,
    mark: int,
    spare: Array,
) -> int:
    """Draws the slots [k] of a token again until all differ; returns the last mark that it left in `taken_by`.

    `flags`, `taken_by`, `mark`: see `conflicts`. `weights` [rows, E]: popularity, any scale. `spare` [E]: room.
    """
    for _ in range(ROUNDS):
        mark += 1
        if not conflicts(ids, flags, taken_by, mark):
            return mark
        for slot in range(len(ids)):
            if flags[1, slot]:
                words[slot] = successor(words[slot])
                ids[slot] = drawn(words[slot], row, threshold, alias)
    mark += 1
    if conflicts(ids, flags, taken_by, mark):
        for expert in range(len(spare)):
            spare[expert] = weights[row, expert]
        finish(ids, words, flags[0], spare)
    return mark


def finish(ids: Array, words: Array, held: Array, weight: Array) -> None:
    """The same law without repetition; `weight` [E] is used up."""
    for slot in range(len(ids)):
        if held[slot]:
            weight[ids[slot]] = 0.0
    for slot in range(len(ids)):
        if weight[ids[slot]] == 0.0 and not held[slot]:
            total = 0.0
            for expert in range(len(weight)):
                total += weight[expert]
            target = np.float64(successor(words[slot]) >> _11) * 2.0**-53 * total
            total, expert = weight[0], 0
            while not total > target:
                expert += 1
                total += weight[expert]
            ids[slot] = expert
        weight[ids[slot]] = 0.0


def independent(
    stream: Array,
    threshold: Array,
    alias: Array,
    weights: Array,
    prompt: int,
    prefill: Array,
    decode: Array,
    words: Array,
    ids: Array,
    own: Array,
    flags: Array,
    taken_by: Array,
    spare: Array,
) -> None:
    """A request whose tokens know nothing of each other; those of a chunk take their words together, slot by slot.

    Adds the first `prompt` tokens to `prefill` [L, E] and writes the ids of the others into `decode` [G, L, k]. Room: `words`
    [k * chunk * L], `ids` and `own` [k], `flags` [2, k] and `taken_by` [E], both 0, and `spare` [E].
    """
    (passes, layers, top_k), token = decode.shape, 0
    total, chunk = prompt + passes, len(words) // (layers * top_k)
    for first in range(0, total, chunk):
        fill(stream, words)
        for time in range(first, min(first + chunk, total)):
            for layer in range(layers):
                clash = False
                token += 1
                for slot in range(top_k):
                    own[slot] = words[(slot * chunk + time - first) * layers + layer]
                    ids[slot] = drawn(own[slot], layer, threshold, alias)
                    clash |= taken_by[ids[slot]] == token
                    taken_by[ids[slot]] = token
                if clash:
                    token = settle(ids, own, flags, layer, threshold, alias, weights, taken_by, token, spare)
                for slot in range(top_k):
                    if time < prompt:
                        prefill[layer, ids[slot]] += 1
                    else:
                        decode[time - prompt, layer, slot] = ids[slot]


def book(ids: Array, named: Array, layer: int, position: int, prefill: Array, decode: Array) -> None:
    """Enters the ranks [k] of a token, by their experts: a prompt's (`position` below 0) as counts, others as ids."""
    for slot in range(len(ids)):
        expert = named[layer, ids[slot]]
        if position < 0:
            prefill[layer, expert] += 1
        else:
            decode[position, layer, slot] = expert


def sticky(
    stream: Array,
    bounds: Array,
    ties: Array,
    steps: Array,
    lags: Array,
    fold: Array,
    named: Array,
    threshold: Array,
    alias: Array,
    weights: Array,
    prompt: int,
    prefill: Array,
    decode: Array,
    words: Array,
    past: Array,
    heads: Array,
    own: Array,
    flags: Array,
    taken_by: Array,
    spare: Array,
) -> None:
    """A request whose tokens follow their predecessors and, between layers, themselves.

    What the coin and dice of a slot mean: `bounds` [3, DEPTH + 1, L], `ties` [2, L], `steps` [256] and `lags` [256], which
    rise. `fold` [E + 4]: ranks reflected at both ends. `named` [L, E]: the expert at each rank. Room, all 0: `words` [k * L],
    `past` [last lag + 1, L, k], and `heads` [2, L, k] for the upper halves of words that slots went by, in this step and the
    last. The rest as in `independent`. Step n draws token n - l of every layer l, the order in which words are handed out.
    """
    (depth, layers, top_k), total, token = past.shape, prompt + len(decode), 0
    tied, held = False, flags[0]
    for layer in range(layers):
        tied |= ties[0, layer] > 0
    for step in range(total + layers - 1):
        fill(stream, words)
        for layer in range(max(0, step - total + 1), min(layers, step + 1)):
            time = step - layer
            place = time % depth
            keep, spent, follow = bounds[:, min(time, DEPTH), layer]
            ids, last = past[place, layer], past[place - 1 if place else depth - 1, layer]
            clash = False
            token += 1
            for slot in range(top_k):
                word = words[slot * layers + layer]
                own[slot], head = word, word >> _32
                coin, near, follows = head >> _8, np.int64(head & _BYTE), head >> _8 < follow
                if tied:
                    if successor(word) >> _40 < ties[0, layer]:
                        follows, head = coin < ties[1, layer], heads[1 - step % 2, layer - 1, slot]
                    heads[step % 2, layer, slot], coin = head, head >> _8
                held[slot], lag = coin < keep, lags[np.int64(head & _BYTE)]
                if coin < keep:
                    rank = last[slot]
                elif coin < spent and lag <= time:
                    rank = past[place - lag if lag <= place else place - lag + depth, layer, slot]
                elif follows and coin >= spent:
                    rank = fold[past[place, layer - 1, slot] + steps[near]]
                else:
                    rank = drawn(word, layer, threshold, alias)
                ids[slot] = rank
                clash |= taken_by[rank] == token
                taken_by[rank] = token
            if clash:
                token = settle(ids, own, flags, layer, threshold, alias, weights, taken_by, token, spare)
            book(ids, named, layer, time - prompt, prefill, decode)


FUNCTIONS = (high, fill, successor, sweep, drawn, conflicts, settle, finish, book, independent, sticky)
"""What `moesim.jit` compiles."""
ENTRIES = (fill, sweep, independent, sticky)
"""What others call."""
_ROW, _TABLE, _CUBE = "[::1]", "[:, ::1]", "[:, :, ::1]"
BUFFERS = {
    "stream": f"uint64{_ROW}", "words": f"uint64{_ROW}",
    "own": f"uint64{_ROW}", "heads": f"uint64{_CUBE}", "scaled": f"float64{_TABLE}",
    "threshold": f"uint32{_TABLE}", "alias": f"uint16{_TABLE}", "weights": f"float64{_TABLE}", "spare": f"float64{_ROW}",
    "prefill": f"uint32{_TABLE}", "decode": f"uint16{_CUBE}", "ids": f"int64{_ROW}", "flags": f"boolean{_TABLE}",
    "taken_by": f"int64{_ROW}", "bounds": f"uint32{_CUBE}", "ties": f"uint32{_TABLE}", "steps": f"int64{_ROW}",
    "lags": f"int64{_ROW}", "fold": f"int64{_ROW}", "named": f"int64{_TABLE}", "past": f"int64{_CUBE}",
}  # fmt: skip
"""Parameters of the entries that are arrays, and what these hold; all others are whole numbers."""
