"""Owns what the attention of a model keeps, reads and computes, per token, layer and sequence.

Knows nothing of experts, nor of hardware: everything here is bytes and FLOPs, never seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from moesim.arrays import FloatArray
from moesim.model.attention import AnyAttention
from moesim.model.precision import Precision
from moesim.model.shape import Shape
from moesim.model.windows import (
    Groups,
    attended,
    cached_tokens,
    causal_pairs,
    entries,
    entry_pairs,
    summed,
    visible_before,
)

__all__ = ["AttentionWork"]

_FAR = 2**20
"""Tokens behind every window, and a whole number of entries of any rate."""


class AttentionWork(Shape):
    """The attention of a model; its properties are floats in bytes or FLOP, per layer as arrays of `layers`."""

    @property
    def kv_layers(self) -> int:
        """Decoder layers with a cache."""
        return self.layers - len(self.linear_layers)

    @cached_property
    def _windowed_layers(self) -> tuple[int, ...]:
        """Decoder layers with the attention of windows, where that differs from the others'."""
        return tuple(k for k, window in enumerate(self.windows) if window) if self.windowed else ()

    def _mean(self, measure: Callable[[AnyAttention], float]) -> float:
        """What `measure` says of the attention of one layer, on average over the decoder layers."""
        windowed = len(self._windowed_layers)
        full = measure(self.attention) * (self.kv_layers - windowed)
        linear = measure(self.linear) * len(self.linear_layers) if self.linear else 0.0
        return (full + linear + (measure(self.windowed) * windowed if self.windowed else 0.0)) / self.layers

    def _cached(self, measure: Callable[[AnyAttention], float]) -> float | FloatArray:
        """What `measure` says of the attention of each layer with a cache: a number, or [layers] where windowed ones differ."""
        if self.windowed is None:
            return measure(self.attention)
        values = np.full(self.layers, measure(self.attention), dtype=np.float64)
        values[list(self._windowed_layers)] = measure(self.windowed)
        return values

    def _per_layer(self, full: ArrayLike, linear: ArrayLike = 0.0) -> FloatArray:
        """[.., layers] `full` where a layer has a cache and `linear` [..] where it has not."""
        array = np.asarray(full, dtype=np.float64)
        values = np.array(np.broadcast_to(array, (*array.shape[:-1], self.layers)))
        if self.linear_layers:
            values[..., list(self.linear_layers)] = np.asarray(linear)[..., None]
        return values

    def _of_indexers(self, value: float) -> FloatArray:
        """[layers] `value` in the layers with an indexer, 0 in the others."""
        values = np.zeros(self.layers)
        values[list(self.indexer_layers)] = value
        return values

    @property
    def _sees(self) -> tuple[int, ...]:
        """[layers] tokens of which a query sees keys and values of their own at most, 0 for all."""
        if self.indexer is None or self.compression:
            return self.windows
        chosen, sparse = self.indexer.tokens, set(self.sparse_layers)
        return tuple(
            (min(window, chosen) if window else chosen) if layer in sparse else window
            for layer, window in enumerate(self.windows)
        )

    @property
    def _rates(self) -> tuple[int, ...]:
        """[layers] tokens of an entry of what is kept beside keys and values of single tokens, 0 where nothing is."""
        return self.compression or tuple(int(layer in self.indexer_layers) for layer in range(self.layers))

    @property
    def _most(self) -> tuple[int, ...]:
        """[layers] compressed entries that a query sees at most, 0 for all."""
        chosen = self.indexer.tokens if self.indexer else 0
        return tuple(chosen if layer in self.sparse_layers else 0 for layer in range(self.layers))

    @property
    def _beside(self) -> bool:
        """Whether any layer keeps more than keys and values of single tokens."""
        return self.indexer is not None or bool(self.compression)

    @property
    def _activation(self) -> float:
        return Precision.bytes_of(self.precision.activations)

    # Weights of what stands beside attention proper

    @property
    def indexer_parameters(self) -> float:
        """Weights of the indexer of one layer, on average over the decoder layers."""
        if self.indexer is None:
            return 0.0
        return self.indexer.parameters(self.hidden, bool(self.compression)) * len(self.indexer_layers) / self.layers

    @property
    def compressor_parameters(self) -> float:
        """Weights that make compressed entries (DeepSeek-V4): a value and its gate, twice in layers that choose among them,
        whose entries overlap; on average over the decoder layers."""
        if not self.compression:
            return 0.0
        width = self.attention.cached * self.hidden * 2
        return (
            width
            * sum((2 if layer in self.sparse_layers else 1) for layer, rate in enumerate(self.compression) if rate)
            / self.layers
        )

    # The cache

    @cached_property
    def _pair_bytes(self) -> float | FloatArray:
        """Bytes of the key and value of one token (or compressed entry), as `kv_bytes`."""
        return self._cached(lambda kind: kind.cached) * Precision.bytes_of(self.precision.kv)

    @property
    def _index_bytes(self) -> FloatArray:
        """[layers] bytes of the key that an indexer keeps of one token (or compressed entry)."""
        width = self.indexer.head_dim if self.indexer else 0
        return self._of_indexers(width * Precision.bytes_of(self.precision.indexer))

    @property
    def _entry_bytes(self) -> FloatArray:
        """[layers] bytes of one entry of `_rates` tokens: a compressed key and value, and the key of an indexer."""
        return self._index_bytes + (self._pair_bytes if self.compression else 0.0)

    @property
    def kv_bytes(self) -> float | FloatArray:
        """Bytes that one token adds to the cache of one layer that has one; [layers] where layers differ.

        The share of a token in a compressed entry, and the key of an indexer, are in it.
        """
        if not self._beside:
            return self._pair_bytes
        rates = np.array(self._rates)
        return self._pair_bytes + np.where(rates > 0, self._entry_bytes / np.maximum(rates, 1), 0.0)

    @cached_property
    def kv_bytes_per_layer(self) -> FloatArray:
        """[layers] bytes that one token adds to the cache of each decoder layer, 0 where there is none; not to be
        written to."""
        nbytes = self._per_layer(self.kv_bytes)
        nbytes.flags.writeable = False
        return nbytes

    @cached_property
    def state_bytes(self) -> float:
        """Bytes of the recurrent state of one sequence in one layer of linear attention."""
        return self.linear.state * Precision.bytes_of(self.precision.state) if self.linear else 0.0

    def kv_total(self, tokens: ArrayLike) -> float:
        """Bytes kept for sequences of `tokens` [S] tokens: caches (no more than a window each) and recurrent states."""
        return float(self.kv_totals(tokens))

    def kv_totals(self, tokens: ArrayLike, groups: Groups | None = None) -> FloatArray:
        """As `kv_total`; [G] with `groups` of sequences."""
        states = summed(np.asarray(tokens) != 0, groups) * self.state_bytes
        nbytes = self._pair_bytes * cached_tokens(tokens, self.windows, groups)
        if self._beside:
            nbytes = nbytes + self._entry_bytes * entries(tokens, self._rates, groups=groups)
        return np.asarray(self._per_layer(nbytes, states).sum(axis=-1))

    @cached_property
    def kv_pooled(self) -> tuple[float, float]:
        """Bytes that a pool of KV blocks has for a sequence whatever its length, and for each of its tokens.

        Every token counts with a cache of every layer, also of those that forget what is behind a window. Where all layers do,
        and keep compressed entries of the rest, windows are a state of their own and a token counts with its share of entries.
        """
        step = _FAR if self.compression else 1
        first, second = (self.kv_total([tokens]) for tokens in (step, 2 * step))
        token = (second - first) / step
        return first - token * step, token

    def cached_bytes(self, before: ArrayLike) -> FloatArray:
        """[layers] bytes of cache that a further part of a prompt attends to; `before` [S] tokens are there already.

        Recurrent states are not in it.
        """
        nbytes = self._pair_bytes * self._visible(np.asarray(before, dtype=np.float64))
        return self._per_layer(nbytes + self._entry_bytes * entries(before, self._rates) if self._beside else nbytes)

    # The attention core

    def core_flops_decode(self, context: ArrayLike, groups: Groups | None = None) -> FloatArray:
        """[layers] FLOP of the attention core for one new token of each sequence; [G, layers] with `groups` of sequences.

        `context`: [S] tokens attended to, the new one included. MLA in its absorbed form; the scores of an indexer are in it.
        """
        return self.core_work_decode(context, groups)[0]

    def core_bytes_decode(self, context: ArrayLike, groups: Groups | None = None) -> FloatArray:
        """[layers] bytes of cache that the attention core reads for one new token of each sequence, as `core_flops_decode`.

        `context`: [S] tokens attended to, the new one included. Linear attention reads and writes its state; an indexer reads
        its keys of all tokens.
        """
        return self.core_work_decode(context, groups)[1]

    def core_work_decode(self, context: ArrayLike, groups: Groups | None = None) -> tuple[FloatArray, FloatArray]:
        """`core_flops_decode` and `core_bytes_decode`."""
        linear: FloatArray | float = 0.0
        states: FloatArray | float = 0.0
        if self.linear:
            number = summed(np.ones_like(context), groups)
            linear, states = self.linear.decode_flops * number, 2.0 * self.state_bytes * number
        seen = self._attended(context, groups)
        flops, read = self._cached(lambda kind: kind.decode_flops) * seen, self._pair_bytes * seen
        if self.indexer:
            chosen = entries(context, self._rates, groups=groups)
            flops = flops + self._of_indexers(self.indexer.score_flops) * chosen
            read = read + self._index_bytes * chosen
        return self._per_layer(flops, linear), self._per_layer(read, states)

    def core_flops_prefill(self, prompt: ArrayLike, before: ArrayLike = 0, groups: Groups | None = None) -> FloatArray:
        """[layers] FLOP of the attention core for `prompt` [S] tokens of prompts, causal half only; MLA expanded.

        `before` [S]: tokens of the same prompts that earlier passes have put into the cache; MLA expands their latents again.
        [G, layers] with `groups` of sequences. Sequences of more tokens than an indexer chooses attend in the absorbed form
        to the chosen ones, shorter ones to all (DeepSeek-V3.2 technical report, section 2.1).
        """
        new, there = np.asarray(prompt, dtype=np.float64), np.asarray(before, dtype=np.float64)
        linear = self.linear.prefill_flops * summed(new, groups) if self.linear else 0.0
        flops = self._prompt_flops(new, there, groups)
        if self.indexer:
            flops = flops + self._of_indexers(self.indexer.score_flops) * self._entry_pairs(new, there, None, groups)
        return self._per_layer(flops, linear)

    def core_bytes_prefill(self, prompt: ArrayLike, before: ArrayLike = 0, groups: Groups | None = None) -> FloatArray:
        """[layers] bytes of keys and values that the attention core reads for `prompt` [S] tokens of prompts.

        [G, layers] with `groups` of sequences.

        Each key and value once, fresh from the projection in the precision of activations; the write to the cache is not
        counted. Those of the `before` [S] tokens of earlier passes come from the cache; where they have to be expanded (MLA),
        they are read twice, as latents and expanded. Compressed entries and the keys of an indexer are read once.
        Source: FlashAttention, arXiv:2205.14135. Valid: key and value tiles are shared on chip by all queries.
        """
        new, there = np.asarray(prompt, dtype=np.float64), np.asarray(before, dtype=np.float64)
        linear: FloatArray | float = 0.0
        if self.linear:
            states = self.state_bytes * (summed(new != 0, groups) + summed(there != 0, groups))
            linear = self.linear.fresh * summed(new, groups) * self._activation + states
        read = self._prompt_bytes(new, there, groups)
        if self._beside:
            read = read + self._entry_bytes * entries(new + there, self._rates, groups=groups)
        return self._per_layer(read, linear)

    def _attended(self, context: ArrayLike, groups: Groups | None) -> FloatArray:
        """[layers] keys that one new token of each sequence attends to, of single tokens and of compressed entries."""
        seen = attended(context, self._sees, self.chunked, groups)
        return seen + entries(context, self.compression, self._most, groups) if self.compression else seen

    def _prompt_flops(self, new: FloatArray, there: FloatArray, groups: Groups | None) -> FloatArray:
        """[layers] FLOP of the attention core without indexers, as `core_flops_prefill`."""
        per_pair = self._cached(lambda kind: kind.decode_flops)
        if self.compression:
            return self._all_flops(new, there, groups) + per_pair * self._entry_pairs(new, there, self._most, groups)
        if self.indexer is None:
            return self._all_flops(new, there, groups)
        long = new + there > self.indexer.tokens
        short = self._all_flops(np.where(long, 0.0, new), np.where(long, 0.0, there), groups)
        ends, starts = np.where(long, new + there, 0.0), np.where(long, there, 0.0)
        chosen = self._pairs(ends, self._sees, groups) - self._pairs(starts, self._sees, groups)
        sparse = np.isin(np.arange(self.layers), self.sparse_layers)
        return np.where(sparse, short + per_pair * chosen, self._all_flops(new, there, groups))

    def _all_flops(self, new: FloatArray, there: FloatArray, groups: Groups | None) -> FloatArray:
        """[layers] FLOP of prompts that attend to all tokens of their windows, each with a key and a value of its own."""
        pairs = self._pairs(new + there, self.windows, groups) - self._pairs(there, self.windows, groups)
        again = self._cached(lambda kind: kind.expansion_flops) * self._visible(there, groups)
        return np.asarray(self._cached(lambda kind: kind.prefill_flops) * pairs + again)

    def _prompt_bytes(self, new: FloatArray, there: FloatArray, groups: Groups | None) -> FloatArray:
        """[layers] bytes of keys and values of single tokens, as `core_bytes_prefill`."""
        if self.indexer is None or self.compression:
            return self._all_bytes(new, there, groups)
        long = new + there > self.indexer.tokens
        short = self._all_bytes(np.where(long, 0.0, new), np.where(long, 0.0, there), groups)
        latents = (
            self._cached(lambda kind: kind.cached) * summed(np.where(long, new, 0.0), groups)[..., None] * self._activation
        )
        latents = latents + self._pair_bytes * self._visible(np.where(long, there, 0.0), groups)
        sparse = np.isin(np.arange(self.layers), self.sparse_layers)
        return np.where(sparse, short + latents, self._all_bytes(new, there, groups))

    def _all_bytes(self, new: FloatArray, there: FloatArray, groups: Groups | None) -> FloatArray:
        """[layers] bytes of keys and values of prompts that attend to all tokens of their windows."""
        fresh, expands = self._cached(lambda kind: kind.fresh), self._cached(lambda kind: float(kind.expansion_flops > 0))
        seen, tokens = self._visible(there, groups), summed(new, groups)[..., None]
        again = self._pair_bytes * seen + expands * fresh * seen * self._activation
        return np.asarray(fresh * tokens * self._activation + again)

    def _pairs(self, tokens: FloatArray, windows: tuple[int, ...], groups: Groups | None) -> FloatArray:
        return causal_pairs(tokens, windows, self.chunked, groups)

    def _entry_pairs(
        self, new: FloatArray, there: FloatArray, most: tuple[int, ...] | None, groups: Groups | None
    ) -> FloatArray:
        """[layers] pairs of a new query and an entry before it, at most `most` entries for each (None: all)."""
        limit, rates = most or (0,) * self.layers, self._rates
        return entry_pairs(new + there, rates, limit, groups) - entry_pairs(there, rates, limit, groups)

    def _visible(self, before: FloatArray, groups: Groups | None = None) -> FloatArray:
        return visible_before(before, self.windows, self.chunked, groups)
