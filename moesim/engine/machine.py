"""The machine at run time: clock, GPU lane, one server per copy queue and side device, and the bandwidth they share.

Owns what contends; knows nothing of layers, passes or policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moesim.engine.clock import Clock
from moesim.engine.flows import FlowNetwork
from moesim.engine.lanes import Lane
from moesim.engine.queues import Job, Server
from moesim.engine.tables import queue_of
from moesim.policies.problem import Problem
from moesim.results.recorder import Recorder

__all__ = ["Machine", "up_queue"]


def up_queue(problem: Problem) -> str:
    """The queue of copies into GPU memory."""
    return queue_of(problem.costs.path(problem.main_memory, problem.gpu_tier))


class Machine:
    """Everything of the hardware that has a state while the clock runs."""

    def __init__(self, problem: Problem, recorder: Recorder) -> None:
        self.problem = problem
        self.recorder = recorder
        self.clock = Clock()
        self.capacity: Mapping[str, float] = problem.system.resources()
        self.network = FlowNetwork(self.clock, self.capacity)
        self.gpu = Lane(problem.system.gpu_name)
        self._servers: dict[str, Server] = {}

    @property
    def now(self) -> int:
        """ps since the start."""
        return int(self.clock.now)

    @property
    def quiet(self) -> bool:
        """Nothing runs or waits beside the GPU."""
        return self.network.idle and all(server.idle for server in self._servers.values())

    def server(self, name: str) -> Server:
        """The server of a copy queue or side device, made on first use."""
        if name not in self._servers:
            self._servers[name] = Server(name, self.clock, self.network, self.recorder)
        return self._servers[name]

    def busy(self) -> dict[str, int]:
        """Lane -> ps at work so far, what runs now counted up to now."""
        sums = {**self.recorder.busy, self.gpu.name: self.gpu.busy + self.recorder.busy.get(self.gpu.name, 0)}
        for name, server in self._servers.items():
            if server.since is not None:
                sums[name] = sums.get(name, 0) + self.now - server.since
        return sums

    def close(self) -> None:
        """At the end of the run: the record holds all work, that which is still under way up to now."""
        for server in self._servers.values():
            server.close()
        self.recorder.busy[self.gpu.name] = self.gpu.busy + self.recorder.busy.get(self.gpu.name, 0)

    def submit(self, queue: str, job: Job) -> None:
        """Queues a job."""
        self.server(queue).submit(job)

    def backlog(self) -> dict[str, float]:
        """Queue -> seconds of work in it, for queues that have any."""
        return {name: server.backlog() / 1e12 for name, server in self._servers.items() if not server.idle}

    def on_gpu(self, service: int, name: str, then: Callable[[], None], amount: float = 0.0) -> Any:
        """Runs `service` ps on the GPU behind what it has, then calls `then`; the event of its end."""
        end = self.gpu.take_one(self.now, service)
        self.recorder.slice(self.gpu.name, name, end - service, end, amount)
        return self.clock.at(end, then, name)

    def event(self) -> Any:
        """A fresh event to wait for."""
        return self.clock.event()
