"""Owns draws that are made when a request is asked for, for jobs whose whole table is too large to hold.

Knows laws by their slot; nothing of schedulers. A request's experts depend on the seed and on its number alone, so what was
dropped is drawn again, the same, when a later step asks for it.

Short names: R requests, P prompt tokens, G decode passes, L layers, E experts, k experts per token.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim import jit
from moesim.arrays import IntArray
from moesim.streams import Streams
from moesim.workload.draws import kernel
from moesim.workload.draws.blocks import BLOCK, Ledger
from moesim.workload.draws.laws import DrawRequest, Law
from moesim.workload.table import Job, id_type

__all__ = ["DecodeDraws", "PrefillCounts", "PrefillDraws", "PromptDraws", "RequestDraws"]

Ids = NDArray[np.unsignedinteger[Any]]
_HELD = 1 << 27
"""Bytes of expert ids of prompts that are held at a time, and of those of decode passes."""
_BLOCKS = 4
"""Blocks of requests whose popularities are held at a time."""


class _Held:
    """Number of a request -> ids; the least recently used give way once there are more than so many bytes.

    What the present series of steps and the one before asked for stays: sequences that run ask in every step, so dropping one
    of them would draw all of them anew each time.
    """

    def __init__(self, most: int) -> None:
        self._most, self._nbytes = most, 0
        self._ids: OrderedDict[int, Ids] = OrderedDict()
        self._asked: dict[int, int] = {}
        self._turn = 0

    def turn(self) -> None:
        """Another series of steps begins."""
        self._turn += 1

    def __contains__(self, request: int) -> bool:
        return request in self._ids

    def get(self, request: int) -> Ids:
        self._ids.move_to_end(request)
        self._asked[request] = self._turn
        return self._ids[request]

    def put(self, request: int, ids: Ids) -> None:
        if request in self._ids:
            return
        self._ids[request], self._asked[request] = ids, self._turn
        self._nbytes += ids.nbytes
        while self._nbytes > self._most and len(self._ids) > 1:
            oldest = next(iter(self._ids))
            if self._turn and self._asked[oldest] >= self._turn - 1:
                break
            self._nbytes -= self._ids.pop(oldest).nbytes
            del self._asked[oldest]


class RequestDraws:
    """The tokens of R requests, drawn request by request: the same that `draw_job` draws at once.

    All tokens of a request are drawn in one walk, those of the next few requests beside it on all cores. Its prompt is dropped
    when others need the room, long before its decode passes are, which take less.
    """

    def __init__(self, job: Job, law: Law, streams: Streams, stream: str) -> None:
        self.job, self.law = job, law
        self._streams, self._stream = streams, stream
        self._functions = jit.native(kernel)
        self._blocks: OrderedDict[int, DrawRequest] = OrderedDict()
        self._prompts, self._passes = _Held(_HELD), _Held(_HELD)
        self._next = 0
        """The first request that no step has asked for yet."""

    def prompt(self, request: int) -> Ids:
        """[P, L, k] experts of its prompt tokens."""
        return self._ids(self._prompts, request)

    def turn(self) -> None:
        """Decode passes of another series of steps are asked for."""
        self._passes.turn()

    def passes(self, request: int) -> Ids:
        """[G, L, k] experts of its decode passes."""
        return self._ids(self._passes, request)

    def _ids(self, held: _Held, request: int) -> Ids:
        if request not in held:
            self._draw(request)
        return held.get(request)

    def _draw(self, request: int) -> None:
        if self._functions is None:
            self._walk(request)
            return
        threads = jit.threads()
        last = min(request + 2 * threads, self.job.requests) if request >= self._next else request + 1
        numbers = range(request, last)
        self._next = max(self._next, last)
        draws = {block: self._of_block(block) for block in {number // BLOCK for number in numbers}}

        def drawn(number: int) -> Ids:
            law, tokens = self.law, int(self.job.prompt[number] + self.job.output[number]) - 1
            ids = np.zeros((tokens, law.layers, law.top_k), dtype=id_type(law.experts))
            block, place = divmod(number, BLOCK)
            draws[block](place, 0, np.zeros((law.layers, law.experts), dtype=np.uint32), ids)
            return ids

        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(drawn, numbers))
        self._enter(request, dict(zip(numbers, parts, strict=True)))

    def _enter(self, request: int, drawn: dict[int, Ids]) -> None:
        """Holds what was drawn, `request` as the one used last."""
        for number in [*(number for number in drawn if number != request), request]:
            prompt = int(self.job.prompt[number])
            self._prompts.put(number, drawn[number][:prompt].copy())  # a view would keep its passes
            self._passes.put(number, drawn[number][prompt:].copy())

    def _of_block(self, block: int) -> DrawRequest:
        if block not in self._blocks:
            generator = self._streams.spawn(self._stream, block)
            self._blocks[block] = self.law.compiled(self._functions, generator, block * BLOCK)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[block]

    def _walk(self, request: int) -> None:
        """The block of a request, with numpy."""
        law, block = self.law, request // BLOCK
        first = block * BLOCK
        total = (self.job.prompt + self.job.output - 1)[first : first + BLOCK]
        order = np.argsort(-total, kind="stable")
        ledger = Ledger(np.zeros_like(total), total[order] + 1, law.layers, law.experts, law.top_k, int(total.max()))
        _, ids = law.walk(self._streams.spawn(self._stream, block), order, ledger, first)
        self._enter(request, {first + n: ids[place, : total[n]].copy() for place, n in enumerate(order.tolist())})


class PromptDraws:
    """As the array of `RoutingTable.prompts`: `draws[request, first:last]` is [n, L, k]."""

    def __init__(self, draws: RequestDraws) -> None:
        self._draws = draws

    def __getitem__(self, place: tuple[int, slice]) -> Ids:
        return self._draws.prompt(int(place[0]))[place[1]]


class PrefillCounts:
    """As the array `RoutingTable.prefill`, counted when asked for: `[requests]` is [n, L, E], `[request]` is [L, E]."""

    shape: tuple[int, ...]
    """(R, L, E)."""

    def __getitem__(self, requests: Any) -> NDArray[np.uint32]:
        if np.ndim(requests) == 0:
            return self._counts(int(requests))
        counts = np.zeros((len(requests), *self.shape[1:]), dtype=np.uint32)
        for row, request in enumerate(requests):
            counts[row] = self._counts(int(request))
        return counts

    def _counts(self, request: int) -> NDArray[np.uint32]:
        """[L, E] tokens of the prompt of a request by expert."""
        raise NotImplementedError


class PrefillDraws(PrefillCounts):
    """The counts of prompts that are drawn when they are asked for."""

    def __init__(self, draws: RequestDraws) -> None:
        self._draws, law = draws, draws.law
        self.shape = (draws.job.requests, law.layers, law.experts)

    def _counts(self, request: int) -> NDArray[np.uint32]:
        layers, experts = self.shape[1:]
        keys = self._draws.prompt(request) + np.arange(layers, dtype=np.int32)[:, None] * experts
        return np.bincount(keys.ravel(), minlength=layers * experts).reshape(layers, experts).astype(np.uint32)


class DecodeDraws:
    """As the array `RoutingTable.decode`, asked for requests and decode passes: `[request, passes]` is [n, L, k], `[requests,
    passes]` [S, L, k] with a pass for each (or one for all), and [S, n, L, k] with a slice of passes that all of them have."""

    def __init__(self, draws: RequestDraws) -> None:
        self._draws, job, law = draws, draws.job, draws.law
        self.shape = (job.requests, job.passes, law.layers, law.top_k)
        self.dtype = np.dtype(id_type(law.experts))

    def __getitem__(self, place: tuple[Any, Any]) -> Ids:
        requests, passes = place
        if np.ndim(requests) == 0:
            ids: Ids = self._draws.passes(int(requests))[passes]
            return ids
        if isinstance(passes, slice):
            return np.stack([self._draws.passes(int(request))[passes] for request in requests])
        return self._gather(np.asarray(requests), np.broadcast_to(passes, len(requests)))

    def _gather(self, requests: IntArray, passes: IntArray) -> Ids:
        """[S, L, k], request by request."""
        self._draws.turn()
        ids: Ids = np.empty((len(requests), *self.shape[2:]), dtype=self.dtype)
        order = np.argsort(requests, kind="stable")
        names, first = np.unique(requests[order], return_index=True)
        for name, rows in zip(names.tolist(), np.split(order, first)[1:], strict=True):
            ids[rows] = self._draws.passes(name)[passes[rows]]
        return ids
