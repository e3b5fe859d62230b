"""The serving loop that one writes first: SimPy arrivals, a queue, and a process per active expert of every layer and step.

Knows no scheduler but its own: everybody who waits joins the next step with a whole prompt. Gets every duration ready-made.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import simpy

__all__ = ["Request", "StepTimes", "serve"]

Events = Generator[simpy.Event, Any, None]


class Request(NamedTuple):
    """When it arrives, ps, and the tokens that it generates."""

    arrival: int
    output: int


class StepTimes(NamedTuple):
    """One step in whole ps."""

    layers: list[tuple[int, list[int]]]
    """GPU time before the experts of each layer, and of each active expert."""
    trailer: int
    """GPU time behind the last layer."""


class _Server:
    def __init__(self, env: simpy.Environment, requests: Sequence[Request], steps: Sequence[StepTimes]) -> None:
        self.env, self.requests, self.steps = env, requests, steps
        self.gpu = simpy.Resource(env)
        self.waiting: list[int] = []
        self.running: dict[int, int] = {}
        """Number -> tokens that are left."""
        self.arrived = env.event()
        self.finish = [-1] * len(requests)

    def arrivals(self) -> Events:
        for number, request in enumerate(self.requests):
            yield self.env.timeout(request.arrival - self.env.now)
            self.waiting.append(number)
            self.arrived.succeed()
            self.arrived = self.env.event()

    def use(self, time: int) -> Events:
        with self.gpu.request() as turn:
            yield turn
            yield self.env.timeout(time)

    def step(self, times: StepTimes) -> Events:
        for attention, experts in times.layers:
            yield from self.use(attention)
            yield self.env.all_of([self.env.process(self.use(time)) for time in experts])
        yield from self.use(times.trailer)

    def serve(self) -> Events:
        taken = 0
        while -1 in self.finish:
            if not self.waiting and not self.running:
                yield self.arrived
            self.running.update((number, self.requests[number].output) for number in self.waiting)
            self.waiting.clear()
            yield from self.step(self.steps[taken])
            taken += 1
            for number in list(self.running):
                self.running[number] -= 1
                if not self.running[number]:
                    del self.running[number]
                    self.finish[number] = int(self.env.now)


def serve(requests: Sequence[Request], steps: Sequence[StepTimes]) -> tuple[list[int], int]:
    """When each request has its last token, ps, and the events that it took to find out."""
    env = simpy.Environment(initial_time=0)
    server = _Server(env, requests, steps)
    env.process(server.arrivals())
    env.run(until=env.process(server.serve()))
    return server.finish, next(env._eid)  # SimPy numbers its events
