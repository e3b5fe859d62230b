"""Owns the routing of sequences that run already when a job begins: what they computed before is not drawn.

Knows tables; nothing of schedulers. A token from before the beginning is asked for only where a sequence lost its cache; it has
the experts of the first drawn token of its sequence.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.arrays import IntArray
from moesim.workload.draws.on_demand import PrefillCounts
from moesim.workload.table import Job, RoutingTable

__all__ = ["begun", "drawn_part"]

Ids = NDArray[np.unsignedinteger[Any]]


def drawn_part(job: Job, begun_tokens: IntArray) -> Job:
    """The job whose table is drawn: of a sequence that has `begun_tokens` [R] of its prompt in the cache, only the rest."""
    return replace(job, prompt=job.prompt - begun_tokens)


def begun(table: RoutingTable, job: Job, begun_tokens: IntArray) -> RoutingTable:
    """The table of `job`, made from the `table` of its `drawn_part`."""
    if not begun_tokens.any():
        return table
    prompts = _Prompts(table, begun_tokens)
    return replace(table, prefill=_Prefill(prompts, job.prompt), prompts=lambda: prompts)  # type: ignore[arg-type,return-value]


class _Prompts:
    """As the array of `RoutingTable.prompts`: `prompts[request, first:last]` is [n, L, k]."""

    def __init__(self, table: RoutingTable, begun_tokens: IntArray) -> None:
        self.table, self.begun_tokens = table, begun_tokens

    @cached_property
    def _drawn(self) -> Any:
        assert self.table.prompts is not None
        return self.table.prompts()

    def __getitem__(self, place: tuple[Any, slice]) -> Ids:
        request, first, last = int(place[0]), int(place[1].start), int(place[1].stop)
        earlier = int(self.begun_tokens[request])
        late: Ids = self._drawn[request, max(first - earlier, 0) : max(last - earlier, 0)]
        if first >= earlier:
            return late
        return np.concatenate([np.repeat(self._drawn[request, 0:1], min(last, earlier) - first, axis=0), late])


class _Prefill(PrefillCounts):
    """The counts of prompts that began before the job."""

    def __init__(self, prompts: _Prompts, prompt: IntArray) -> None:
        self._prompts, self._prompt = prompts, prompt
        self.shape = prompts.table.prefill.shape

    def _counts(self, request: int) -> NDArray[np.uint32]:
        table = self._prompts.table
        if not self._prompts.begun_tokens[request]:
            return np.asarray(table.prefill[request], dtype=np.uint32)
        return table.count(self._prompts[request, 0 : int(self._prompt[request])]).astype(np.uint32)
