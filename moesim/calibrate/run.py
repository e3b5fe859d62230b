"""Owns the course of a calibration: what is measured in which order and for how long, and that nothing half-written stays.

Knows every part of this package; the numerical ones are imported once the processors are chosen.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moesim.calibrate import machine as machines
from moesim.calibrate.budget import Budget
from moesim.errors import InputError, Mistake
from moesim.progress import Progress

if TYPE_CHECKING:
    from moesim.calibrate.profile import Memory, Processor

__all__ = ["Outcome", "calibrate"]

_MEMORY, _EXPERTS, _ATTENTION, _GPU = 0.3, 0.6, 0.08, 0.35
"""Shares of the budget; what one does not use goes to the next."""


_BUSY = 0.25
"""Share of the cores that others may keep busy before it is worth a word."""


class Outcome(NamedTuple):
    """What came of it."""

    path: Path
    """The profile."""
    report: str
    """What was measured and how well the fitted models match, for the terminal."""
    seconds: float


def calibrate(
    out: str | Path = "calibrated.yaml", *, minutes: float = 2.0, gpu: str = "rtx-4090", progress: Progress | None = None
) -> Outcome:
    """Measures this machine for about `minutes` and writes its profile to `out`, which a scenario names as `hardware:`.

    Without a GPU that torch can use, the profile takes the one of the shipped profile `gpu`. InputError, before anything is
    measured, for a place that cannot be written to or an unknown `gpu`.
    """
    from moesim.calibrate import document

    begin = time.perf_counter()
    if not minutes > 0:
        raise InputError(Mistake(f"{minutes:g} minutes are not a budget; write a number above 0", file="--minutes"))
    path = document.writable(Path(out))
    total = round(60 * minutes)

    def tick() -> None:
        if progress is not None:
            progress(min(round(time.perf_counter() - begin), total), total)

    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        machine = machines.read_machine()
        machines.stay_on(machine.home)
        content, report = _measured(machine, path.stem, gpu, Budget(60 * minutes, tick=tick))
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    document.write(path, content)
    return Outcome(path, report, time.perf_counter() - begin)


def _measured(machine: machines.Machine, name: str, gpu: str, budget: Budget) -> tuple[str, str]:
    """The text of the profile, and the report."""
    from moesim.calibrate import accelerator, cuda, document, experts, profile, summary
    from moesim.calibrate.stand_in import stand_in

    replacement = stand_in(gpu)  # an unknown name is reported before anything is measured
    versions = machines.versions()
    source = f"moesim calibrate, {datetime.date.today().isoformat()}, {machine.cpu}, {versions}"
    busy = _busy(len(machine.home.cpus))
    runtime = cuda.find()
    rest = budget.part(1 - _GPU) if runtime is not None else budget
    memories = _memories(machine, rest.part(_MEMORY))
    processor, notes = _processor(machine, memories, rest)
    lines = [*summary.machine_lines(machine, versions), *busy, "", *summary.memory_lines(memories), ""]
    lines += [*summary.curve_lines(processor.curves), summary.call_line(processor.call), *notes, f"split: {experts.SPLIT}"]
    warnings = summary.warning_lines(memories, processor.curves, {})
    if runtime is not None:
        points = cuda.measure(runtime, budget)
        fits = accelerator.fit(points)
        replacement = accelerator.parts(points, fits, source)
        lines += ["", *summary.gpu_lines(points, fits), f"split: {accelerator.SPLIT}"]
        warnings = summary.warning_lines(memories, processor.curves, fits)
    else:
        lines += ["", f"no GPU that torch can use: its part is that of profile {gpu}, and marked so"]
    built = profile.machine_profile(name, machine, memories, processor, replacement, source)
    lines += ["", *warnings] if warnings else []
    comments = [*busy, *warnings, "Split of the points: " + experts.SPLIT + ".", "", *summary.point_lines(processor.curves)]
    return document.text(built, comments), "\n".join(lines)


def _busy(cores: int) -> list[str]:
    """A warning where others kept the machine busy before anything was measured."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < _BUSY * cores:
        return []
    return [f"note: others kept {load:.1f} of {cores} cores busy when this began; what they do is in these numbers"]


def _memories(machine: machines.Machine, budget: Budget) -> list[Memory]:
    from moesim.calibrate.profile import Memory

    home = machine.home
    ordered = [home, *(node for node in machine.nodes if node.number != home.number)]
    measured = []
    for index, node in enumerate(ordered):
        place = node.number if len(machine.nodes) > 1 else None
        try:
            measured.append(_memory(machine, node, place, budget.part(1 / (len(ordered) - index))))
        except OSError as error:
            if node.number == home.number:  # the memory that is nearest anyway
                measured.append(_memory(machine, node, None, budget.part(1 / (len(ordered) - index))))
            else:
                measured.append(Memory(node, None, None, f"left out: {error.strerror or error}"))
    return measured


def _memory(machine: machines.Machine, node: machines.Node, place: int | None, budget: Budget) -> Memory:
    from moesim.calibrate import bandwidth, latency
    from moesim.calibrate.pages import array
    from moesim.calibrate.profile import Memory
    from moesim.streams import Streams

    cpus = machine.home.cpus
    sweep = bandwidth.measure(place, cpus, machine.cache, machine.available, budget.part(0.5))
    sweep = sweep._replace(node=node.number)
    if not latency.possible():
        return Memory(node, sweep, None, "latency not measurable: the C library has nothing that chases pointers")
    size = latency.buffer(machine.cache, machine.available, budget)
    chain = latency.Chain(size, Streams(0)["calibrate"], place)
    idle = latency.idle(chain, budget.part(0.4))
    loads = latency.loaded(chain, array(size, place), cpus[1:], budget)
    note = "" if loads else "one core: latency under load not measurable"
    return Memory(node, sweep, latency.Latency(node.number, idle, loads), note)


def _processor(machine: machines.Machine, memories: list[Memory], budget: Budget) -> tuple[Processor, list[str]]:
    """The CPU, and what is to be said of kernels that the budget was too small for."""
    from moesim.calibrate import attention, experts
    from moesim.calibrate.libraries import libraries
    from moesim.calibrate.profile import Processor

    kv = attention.kv_rate(machine.cache, machine.available, budget.part(_ATTENTION))
    known: list[Any] = libraries()
    call = experts.call_seconds(known[0], budget.part(0.01))
    points = experts.measure(known, machine.cache, machine.available, budget.part(0.97))
    sweep = memories[0].sweep
    assert sweep is not None
    by_library = {library.name: experts.curve(library, points, sweep.read) for library in known}
    curves = [curve for curve in by_library.values() if curve is not None]
    if not curves:
        raise InputError(Mistake("the budget is too small for any kernel to be fitted; allow more minutes", file="--minutes"))
    missing = [name for name, curve in by_library.items() if curve is None]
    notes = [f"too few points in this budget for {', '.join(missing)}"] if missing else []
    return Processor(curves, call, kv), notes
