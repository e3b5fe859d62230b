"""Serves requests on a clock that needs no machine: each step takes a stated time."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sized

import numpy as np

from moesim.scheduling.base import Batching, Room
from moesim.scheduling.sequence import Batch, Sequence
from moesim.scheduling.server import Server, Traffic

__all__ = ["serve", "steps_of"]


def serve(
    rules: Batching,
    requests: Sized[tuple[int, int]],
    *,
    arrival: Sized[int] | None = None,
    room: int = 1_000_000,
    step_time: Callable[[Batch], int] = lambda batch: 1,
    seen: Callable[[Server, Batch, int], None] = lambda server, batch, now: None,
    shared: Sized[tuple[tuple[int, int], ...]] = (),
) -> Server:
    """Serves (prompt, output) requests to the end; times are whole numbers, all requests arrive at 0 by default.

    Blocks that come from other tiers take a step. `shared`: as of a `Sequence`, for each request.
    """
    alike = [*shared, *[()] * (len(requests) - len(shared))]
    sequences = [Sequence(number, *lengths, shared=alike[number]) for number, lengths in enumerate(requests)]
    arrivals = np.asarray(arrival if arrival is not None else [0] * len(requests), dtype=np.int64)
    server = Server(rules.session(Room(room, 0)), Traffic(sequences, arrivals), rules.steps_ahead)
    now = 0
    while (step := server.compose(now)) is not None:
        if isinstance(step, int):
            now = step
            continue
        seen(server, step, now)
        now += step_time(step)
        if step.sequences:
            server.ended(now)
        server.landed([move.request for move in step.moves if move.request >= 0])
    return server


def steps_of(rules: Batching, requests: Sized[tuple[int, int]], **more: object) -> list[dict[int, int]]:
    """Each step as {number of the request: new tokens}, in order."""
    steps: list[dict[int, int]] = []

    def seen(server: Server, batch: Batch, now: int) -> None:
        steps.append(dict(zip(batch.numbers.tolist(), batch.new_tokens.tolist(), strict=True)))

    serve(rules, requests, seen=seen, **more)  # type: ignore[arg-type]
    return steps
