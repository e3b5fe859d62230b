"""The machine at run time: its lanes, the program that runs on them, the engine that times it, and its timeline.

Knows nothing of layers, passes or policies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from moesim import jit
from moesim.contract import Problem
from moesim.engine.kernel import kernel
from moesim.engine.kernel.engine import KernelEngine
from moesim.engine.programs.durations import queue_of
from moesim.engine.programs.program import LABELS, Label, Operation, Program
from moesim.results.recorder import Recorder
from moesim.workload.table import Job

if TYPE_CHECKING:
    from moesim.engine.reference.walk import ReferenceWalk

__all__ = ["STALLS", "EngineKind", "Machine", "repaid", "up_queue"]

EngineKind = Literal["auto", "kernel", "reference", "events"]
_Times = TypeVar("_Times")
_PLAIN = ("reference", "events")
ARRIVALS = "arrivals"
"""The lane that is critical while no request has work; it does not count as busy."""
STALLS = "stalls"
"""Track of the timeline that shows what the GPU waits for."""


def up_queue(problem: Problem) -> str:
    """The queue of copies into GPU memory."""
    return queue_of(problem.costs.path(problem.main_memory, problem.gpu_tier))


def repaid(problem: Problem) -> bool:
    """Whether compiling the kernel, or loading what an earlier run compiled, costs less than it saves this run."""
    return jit.repaid(kernel, _passes(problem.job) * problem.layers * (problem.experts + _FIXED) * _EACH, _COMPILING)


def _passes(job: Job) -> int:
    """About how many passes a job takes: for requests that arrive, the geometric mean of one by one and all at a time."""
    longest = 1 + int(job.output.max(initial=1))
    if job.most is None:
        return longest
    tokens = int(job.output.sum())
    return int(math.sqrt(max(longest, tokens // max(job.together, 1)) * max(tokens, 1)))


_FIXED = 60
"""Experts whose look-up costs plain Python as much as all else of a visit."""
_EACH, _COMPILING = 5e-6, 8.0
"""Seconds that plain Python takes for an expert, and that compiling the kernel takes."""


class Machine:
    """Everything of the hardware that has a state while the clock runs."""

    def __init__(self, problem: Problem, recorder: Recorder, kind: EngineKind, compiled: bool) -> None:
        self.problem, self.recorder = problem, recorder
        self.capacity: Mapping[str, float] = problem.system.resources()
        self.program = Program()
        self.gpu = self.program.lane(problem.system.attending_gpu)
        self.plain = kind in _PLAIN
        """The engine is the reference."""
        self.arrays = compiled and not self.plain
        """The engine reads arrays, not lists."""
        self.engine = self._reference() if self.plain else self._kernel()
        self._labels = list(LABELS)
        self._gpu_free = 0
        """When the GPU ended what the timeline shows of it."""

    def _kernel(self) -> KernelEngine | ReferenceWalk:
        return KernelEngine(self.program, self.capacity, compiled=self.arrays, item_rows=self.recorder.keep_slices)

    def _reference(self) -> KernelEngine | ReferenceWalk:
        from moesim.engine.reference.walk import ReferenceWalk  # brings SimPy, which no other run needs

        return ReferenceWalk(self.program, self.capacity)

    @property
    def now(self) -> int:
        """ps since the start."""
        return self.engine.now

    def slow(self, name: str, share: float) -> None:
        """From now on all rates of a tier or link are `share` of what they were at the start."""
        for resource in self.capacity:
            if resource.partition(":")[0] == name:
                self.engine.slow(resource, share)

    def slow_device(self, name: str, share: float) -> None:
        """From now on everything that a device begins takes 1 / `share` times as long as at the start."""
        self.engine.slow_lane(self.lane(name), share)

    def lane(self, name: str) -> int:
        """The number of a device or copy queue."""
        return self.program.lane(name)

    def label(self, name: str, cause: str) -> int:
        """A label for the timeline; all alike where no timeline is kept."""
        if self.recorder.keep_slices:
            self._labels.append(Label(name, cause))
        return len(self._labels) - 1 if self.recorder.keep_slices else 0

    def add(self, operations: Sequence[Operation]) -> list[int]:
        """Adds operations, which wait for each other by their place in the list, to the program; their numbers."""
        first = len(self.program)
        return [self.program.add(replace(op, after=[first + earlier for earlier in op.after])) for op in operations]

    def run(self, operations: Sequence[Operation]) -> dict[str, int]:
        """Runs operations, which wait for each other by their place in the list, until the last has ended.

        Returns lane -> ps of the critical path meanwhile.
        """
        self.mark()
        begin, numbers = self.now, self.add(operations)
        self.engine.submit()
        self.engine.run(numbers[-1])
        shares = self.shares(self.engine.critical(numbers[-1], begin))
        self.forget(numbers)
        return shares

    def shares(self, path: Sequence[tuple[int, int, int]]) -> dict[str, int]:
        """Lane -> ps of a path."""
        names = list(self.program.lanes)
        sums: dict[str, int] = {}
        for lane, start, end in path:
            sums[names[lane]] = sums.get(names[lane], 0) + end - start
        return sums

    def forget(self, numbers: Sequence[int]) -> None:
        """These operations have ended and are not asked for any more."""
        self.engine.forget(numbers)
        self.program.forget(numbers)

    def mark(self) -> None:
        """Paths are asked for from now on only; what was done goes to the timeline."""
        self.show()
        self.engine.mark()

    def show(self, *, last: bool = False) -> None:
        """Puts what lanes have done since the mark on the timeline: right before the next mark, or at the end (`last`)."""
        if not self.recorder.keep_slices:
            return
        names = list(self.program.lanes)
        for stretch in sorted(self.engine.stretches(last=last), key=lambda stretch: (stretch.lane, stretch.start)):
            label = self._labels[stretch.label]
            self.recorder.slice(names[stretch.lane], label.name, stretch.start, stretch.end, stretch.nbytes, label.cause)
            if stretch.lane == self.gpu:
                if stretch.lane_before not in (-1, self.gpu):
                    waits = f"{names[self.gpu]} waits for {names[stretch.lane_before]}"
                    self.recorder.slice(STALLS, waits, self._gpu_free, stretch.start, cause="stall")
                self._gpu_free = stretch.end

    def busy(self) -> dict[str, int]:
        """Lane -> ps at work so far, what runs now counted up to now; waiting for requests is not work."""
        return self.named(self.engine.busy())

    def named(self, busy: Iterable[_Times]) -> dict[str, _Times]:
        """Lane -> ps at work, by the number of the lane."""
        times = zip(self.program.lanes, busy, strict=False)
        return {lane: time for lane, time in times if lane != ARRIVALS}

    def idle(self, queue: str) -> bool:
        """Nothing runs or waits in a queue."""
        return self.engine.idle(self.lane(queue))

    def backlog(self) -> dict[str, float]:
        """Queue -> seconds of work in it, for queues that have any."""
        sums = self.engine.backlogs()
        if not sums:
            return {}
        lanes = enumerate(zip(self.program.lanes, sums, strict=False))
        return {name: time / 1e12 for lane, (name, time) in lanes if time and lane != self.gpu}
