"""The model that one writes first: a SimPy process per active expert, a resource per device, a join per layer.

Knows neither lanes nor closed forms; gets every duration and decision ready-made, so all that it does is wait.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import simpy

__all__ = ["NaiveVisit", "simulate"]

Events = Generator[simpy.Event, Any, None]


class NaiveVisit(NamedTuple):
    """One layer and its routing, in whole ps; lists are in the order of dispatch."""

    attention: int
    """GPU time before the routing is known."""
    read_back: int
    """Time in which the host reads the routing."""
    residents: list[int]
    """GPU time of each active expert in GPU memory."""
    uploads: list[tuple[int, int]]
    """Copy time and GPU time of each active expert that is uploaded."""
    on_cpu: list[int]
    """CPU time of each active expert that stays in host memory."""
    out: int
    """Copy time of the activations to the CPU."""
    back: int
    """Copy time of the CPU's results."""


class _Machine:
    """One resource per thing that can be busy. Results go ahead of uploads that wait, which takes a priority queue."""

    def __init__(self, env: simpy.Environment, staging: int) -> None:
        self.env = env
        self.gpu = simpy.Resource(env)
        self.cpu = simpy.Resource(env)
        self.up = simpy.PriorityResource(env)
        self.down = simpy.Resource(env)
        self.slots = simpy.Resource(env, capacity=staging)

    def use(self, resource: simpy.Resource, time: int) -> Events:
        """Waits for the resource and keeps it for `time`."""
        with resource.request() as turn:
            yield turn
            yield self.env.timeout(time)

    def copy_up(self, time: int, priority: int) -> Events:
        """One copy into GPU memory."""
        with self.up.request(priority=priority) as turn:
            yield turn
            yield self.env.timeout(time)

    def uploaded(self, copy: int, time: int) -> Events:
        """An expert that needs its weights first, and a slot to put them in."""
        with self.slots.request() as slot:
            yield slot
            yield from self.copy_up(copy, 1)
            yield from self.use(self.gpu, time)

    def beside(self, visit: NaiveVisit) -> Events:
        """Activations out, the CPU's experts, results back."""
        yield from self.use(self.down, visit.out)
        yield self.env.all_of([self.env.process(self.use(self.cpu, time)) for time in visit.on_cpu])
        yield from self.copy_up(visit.back, 0)

    def visit(self, visit: NaiveVisit) -> Events:
        """One layer."""
        process = self.env.process
        yield from self.use(self.gpu, visit.attention)
        parts = [process(self.use(self.gpu, time)) for time in visit.residents]
        if visit.read_back:
            yield from self.use(self.down, visit.read_back)
        parts += [process(self.uploaded(copy, time)) for copy, time in visit.uploads]
        if visit.on_cpu:
            parts.append(process(self.beside(visit)))
        yield self.env.all_of(parts)


def simulate(visits: Sequence[NaiveVisit], trailers: Sequence[int], staging: int) -> tuple[int, int]:
    """ps that the visits take one after another, and events that it took to find out.

    `trailers` holds the GPU time at the end of each pass (LM head); at most `staging` uploads wait for the GPU.
    """
    env = simpy.Environment(initial_time=0)
    machine = _Machine(env, staging)
    layers = len(visits) // len(trailers)

    def decode() -> Events:
        for number, trailer in enumerate(trailers):
            for visit in visits[number * layers : (number + 1) * layers]:
                yield from machine.visit(visit)
            yield from machine.use(machine.gpu, trailer)

    env.run(until=env.process(decode()))
    return int(env.now), next(env._eid)  # SimPy numbers its events
