"""Owns what a run is asked to do: the job (who arrives when, how long) and its routing table (each token's experts).

Knows nothing of where routing comes from, of machines or of policies.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import FloatArray, IntArray
from moesim.errors import InputError, Mistake

__all__ = ["Job", "RoutingTable", "distinct", "id_type", "nowhere"]

_AT_ONCE = 1 << 17
"""Expert ids that are counted together: as many as the cache of a core holds."""


def id_type(experts: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds expert ids below `experts`."""
    return np.uint8 if experts <= 256 else np.uint16


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be served. The prefill pass of a request yields its first output token, each decode pass one more."""

    arrival: FloatArray
    """[R] seconds."""
    prompt: IntArray
    """[R] tokens, at least 1."""
    output: IntArray
    """[R] tokens, at least 1."""
    layers: int
    """MoE layers simulated: the model's, or 1."""
    attention: bool = True
    """False: the MoE part alone, without attention, KV cache and LM head."""

    source: IntArray | None = None
    """[R] the recorded sequence that each request replays, when its routing is a trace."""
    chunk: int = 0
    """Tokens of prompts that pass the layers together: longer ones are cut. 0 for whole prompts."""
    users: int = 0
    """Users of a closed loop: request i + `users` is sent after request i has ended, and has no arrival (NaN) before."""
    think: FloatArray | None = None
    """[R] seconds between the end of a user's request before and this one, in a closed loop."""
    shared: list[tuple[tuple[int, int], ...]] | None = None
    """[R] (tokens, number) of older prompts that begin with the same tokens, falling; numbers below 0 are not in the job."""
    priority: IntArray | None = None
    """[R] lower goes first, where the scheduler looks at it."""
    most: int | None = None
    """Sequences that a scheduler lets run at a time; None where the policy cuts the job into rounds."""
    kv: float | None = None
    """Bytes set aside for keys and values whatever the batch; None: room for the longest requests of the batch."""
    kv_block: int = 1
    """Tokens of a block of the KV cache: a sequence takes whole ones."""
    kv_beside: int = 0
    """Tokens that have to be free beside its own for a sequence to be let in."""
    kv_aside: Mapping[str, float] = field(default_factory=dict)
    """Tier of the host -> bytes of it set aside for keys and values that a scheduler moves there."""

    @property
    def requests(self) -> int:
        """R."""
        return len(self.prompt)

    @property
    def together(self) -> int:
        """Sequences that may be there at a time."""
        return self.requests if self.most is None else min(self.requests, self.most)

    @property
    def passes(self) -> int:
        """G: decode passes of the longest request, max(output) - 1."""
        return int(self.output.max()) - 1


@dataclass(frozen=True, eq=False)
class RoutingTable:
    """Which experts every token of every request asks for: the same table whatever the batching and the policy.

    Short names: R requests, G decode passes, L MoE layers, E experts per layer, k experts per token.
    """

    prefill: NDArray[np.uint32]
    """[R, L, E] tokens of each prompt routed to each expert. This and `decode` may be drawn when a request is asked for, see
    `draws.on_demand`: they are then asked by request alone."""
    decode: NDArray[np.unsignedinteger[Any]]
    """[R, G, L, k] expert ids of each decode pass (uint8 or uint16); rows from output - 1 on are unused."""
    experts: int
    """E."""
    profile: FloatArray
    """[L, E] popularity learnt beforehand, each layer's sum 1 (not from this run's draws, unless asked for)."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know about this table: gaps filled, presets borrowed."""
    prompts: Callable[[], NDArray[np.unsignedinteger[Any]]] | None = None
    """Gives [R, P, L, k] expert ids of every prompt token, P tokens of the longest prompt and rows past a prompt unused: called
    once, when a prompt is cut for the first time. Their counts are `prefill`. None where only the counts are known."""
    topics: IntArray | None = None
    """[R] number of each request's subject or task, which its text shows before it runs; None where the routing has none."""
    followers: Callable[[int], IntArray] | None = None
    """Distance d -> [L - d, E, E] tokens that used an expert and, d layers on, another one, in recorded sequences that the run
    leaves out; None where routing is not recorded, or the profile is not learnt on the record."""
    _offsets: NDArray[np.unsignedinteger[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layers, top_k = self.decode.shape[2:]
        # small keys: half the time of a count is widening them
        kind = np.uint16 if layers * self.experts <= 2**16 else np.uint32
        first = (np.arange(layers) * self.experts).astype(kind)
        object.__setattr__(self, "_offsets", np.repeat(first, top_k).reshape(layers, top_k))

    def let_go(self) -> None:
        """What was read of a file leaves memory; what is asked for again comes from the file once more."""
        for array in (self.prefill, self.decode, vars(self).get("_prompt_ids")):
            while isinstance(array, np.ndarray):
                array = array.base
            if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                array.madvise(mmap.MADV_DONTNEED)

    @property
    def layers(self) -> int:
        """L."""
        return int(self.prefill.shape[1])

    @property
    def top_k(self) -> int:
        """k."""
        return int(self.decode.shape[3])

    def prefill_counts(self, requests: IntArray) -> IntArray:
        """[L, E] tokens per expert when the prompts of `requests` [S] pass together."""
        counts: IntArray = self.prefill[requests].sum(axis=0, dtype=np.int64)
        return counts

    @cached_property
    def _prompt_ids(self) -> NDArray[np.unsignedinteger[Any]]:
        if self.prompts is None:
            message = "this routing knows how many tokens of a whole prompt each expert gets, not which; prompts cannot be cut"
            raise InputError(Mistake(message, path="workload.routing"))
        return self.prompts()

    def chunk_counts(self, requests: IntArray, first: IntArray, last: IntArray, prompt: IntArray) -> IntArray:
        """[L, E] tokens per expert when tokens `first` to `last` - 1 of each request of [S] pass together.

        `prompt` [S] are their prompt lengths: tokens from there on are generated ones (a sequence that is computed again).
        All arrays are [S]; parts of a prompt sum to `prefill_counts` of the whole. InputError where prompts cannot be cut.
        """
        whole = (first == 0) & (last >= prompt)
        counts = self.prefill_counts(requests[whole])
        parts = zip(requests, first, last, prompt, whole, strict=True)
        for request, begin, end, length, is_whole in parts:
            if not is_whole and begin < length:
                counts += self.count(self._prompt_ids[request, begin : min(end, length)])
            if end > length:
                counts += self.count(self.decode[request, max(begin - length, 0) : end - length])
        return counts

    def decode_counts(self, requests: IntArray, position: int) -> IntArray:
        """[L, E] tokens per expert when `requests` [S] make their decode pass `position` (from 0) together.

        The caller leaves out requests that have finished: those with `position >= output - 1`.
        """
        return self.count(self.decode[requests, position])

    def pass_counts(self, requests: IntArray, first: int, last: int) -> IntArray:
        """[P, L, E] `decode_counts` of the decode passes `first` to `last` - 1 that `requests` [S] make together, in one call.

        The caller leaves out requests that finish before: those with `last > output - 1`.
        """
        ids = self.decode[requests, first:last].astype(np.intp)
        passes, cells = ids.shape[1], self.layers * self.experts
        ids += self._offsets
        ids += (np.arange(passes) * cells)[:, None, None]
        return np.bincount(ids.ravel(), minlength=passes * cells).reshape(passes, self.layers, self.experts)

    def mixed_counts(self, requests: IntArray, positions: IntArray) -> IntArray:
        """[L, E] like `decode_counts`, each request of [S] at its own decode pass of `positions` [S]."""
        return self.count(self.decode[requests, positions])

    def step_counts(self, requests: IntArray, positions: IntArray, step: IntArray, steps: int) -> IntArray:
        """[n, L, E] like `mixed_counts`, each request of [S] in the step `step` [S] of n = `steps`, which rises."""
        ids = self.decode[requests, positions].reshape(len(requests), self.layers * self.top_k)
        cells, offsets = self.layers * self.experts, self._offsets.ravel()
        counts = np.empty((steps, cells), dtype=np.int64)
        together = max(1, _AT_ONCE * steps // max(ids.size, 1))
        for first in range(0, steps, together):
            last = min(first + together, steps)
            rows = slice(*np.searchsorted(step, (first, last)))
            keys = ids[rows].astype(np.uint32)
            keys += offsets
            keys += ((step[rows] - first) * cells).astype(np.uint32)[:, None]
            counts[first:last] = np.bincount(keys.ravel(), minlength=(last - first) * cells).reshape(last - first, cells)
        return counts.reshape(steps, self.layers, self.experts)

    def count(self, ids: NDArray[np.unsignedinteger[Any]]) -> IntArray:
        """[L, E] tokens per expert of the expert ids [S, L, k]."""
        keys = ids.astype(self._offsets.dtype)
        keys += self._offsets
        cells = self.layers * self.experts
        return np.bincount(keys.ravel().astype(np.intp), minlength=cells).reshape(self.layers, self.experts)


def nowhere(job: Job) -> RoutingTable:
    """The routing of a model without experts: L = E = k = 0."""
    counts = np.zeros((job.requests, 0, 0), dtype=np.uint32)
    decode = np.zeros((job.requests, job.passes, 0, 0), dtype=np.uint8)
    prompts = np.zeros((job.requests, int(job.prompt.max()), 0, 0), dtype=np.uint8)
    return RoutingTable(counts, decode, 0, np.zeros((0, 0)), prompts=lambda: prompts)


def distinct(counts: IntArray) -> IntArray:
    """[...] how many experts have tokens; `counts`: [..., E] tokens per expert."""
    active: IntArray = np.count_nonzero(counts, axis=-1)
    return active
