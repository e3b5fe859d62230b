"""Owns what a better part would bring: the same run on machines that have one part made so many times as good.

Knows a scenario, names of parts and units of values; nothing of what a part does. All machines meet the same requests and the
same routing, and the policy plans on each of them anew. Fixed times (launches, set-ups, latencies) stay as they are, and so do
the shares of a peak that kernels were measured to reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.errors import InputError, Mistake
from moesim.progress import Progress
from moesim.results.columns import Columns
from moesim.results.marks import lane_word
from moesim.results.result import Result
from moesim.results.table import align
from moesim.runs.altered import altered, root_of
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario.scenario import LoadedScenario
from moesim.scenario.tree import Node
from moesim.units import format_number, format_seconds, format_share, split

__all__ = ["Better", "Outcome", "PartChange", "better", "changes"]

_SMALLEST = 0.005
"""Gains and losses below half a percent are named together."""
_TIMES = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class PartChange:
    """One part made better in one respect."""

    part: str
    """`pcie`, `hbm`, `cpu`: its name in the machine; of devices that share the load, that of the whole."""
    respect: str
    """`rate`, `bandwidth`, `capacity`, `speed`."""
    values: dict[str, Any]
    """Dotted path -> value as it would be written."""

    @property
    def name(self) -> str:
        """`pcie rate`."""
        return f"{self.part} {self.respect}"


@dataclass(frozen=True)
class Outcome:
    """The run with one part made better; its gain beside the run as it is."""

    change: PartChange
    gain: float
    """Of throughput; where requests arrive by themselves, of the mean time of a whole request: 0.2 is a sixth less of it."""
    throughput_tok_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    """Means."""
    bottleneck: str
    """The lane that limits this machine."""


@dataclass(frozen=True)
class Better:
    """What each better part would bring, the most welcome first."""

    factor: float
    metric: str
    """What `gain` is of: `throughput_tok_s`, or `e2e_s`."""
    outcomes: tuple[Outcome, ...]
    refused: tuple[str, ...] = ()
    """Why a machine could not be run, in sentences."""

    def summary(self) -> dict[str, Any]:
        """In JSON types."""
        rows = [{name: column.tolist()[row] for name, column in self.columns().items()} for row in range(len(self.outcomes))]
        plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        return {"factor": self.factor, "metric": self.metric, "parts": plain, "refused": list(self.refused)}

    def columns(self) -> Columns:
        """One row per part: which, in what respect, the gain, the figures (NaN where there is none), the bottleneck."""
        table: Columns = {
            "part": np.array([outcome.change.part for outcome in self.outcomes]),
            "respect": np.array([outcome.change.respect for outcome in self.outcomes]),
        }
        for name in ("gain", "throughput_tok_s", *_TIMES):
            numbers = [getattr(outcome, name) for outcome in self.outcomes]
            table[name] = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        return {**table, "bottleneck": np.array([outcome.bottleneck for outcome in self.outcomes])}

    def enter(self, result: Result) -> None:
        """Adds the table to those of the run, and the factor to its provenance."""
        result.columns["better"] = self.columns()
        result.provenance["better"] = {"factor": self.factor, "metric": self.metric}

    def table(self, _: Mapping[str, Any]) -> str:
        """The parts that matter in rows, the others in a sentence."""
        rows, idle = [], []
        for outcome in self.outcomes:
            if abs(outcome.gain) < _SMALLEST:
                idle.append(outcome.change.name)
                continue
            times = (format_seconds(getattr(outcome, name)) for name in _TIMES[:2])
            rows.append([outcome.change.name, format_share(outcome.gain, sign="+"), format_number(outcome.throughput_tok_s),
                         *times, outcome.bottleneck])  # fmt: skip
        gain = "throughput" if self.metric == "throughput_tok_s" else "speed of a request"
        head = [f"one part {self.factor:g} x as good", gain, "tok/s", "first token", "per token", "then limited by"]
        lines = align(head, rows) if rows else []
        alone = f"{self.factor:g} x as good by itself changes less than {format_share(_SMALLEST)}: {', '.join(idle)}"
        return "\n".join([*lines, *([alone] if idle else []), *(f"not run: {reason}" for reason in self.refused)])


def changes(loaded_scenario: LoadedScenario, factor: float) -> tuple[PartChange, ...]:
    """Every part of the scenario's machine made `factor` times as good: speeds of devices, bandwidths and capacities of
    tiers, rates of links. The members of an interleaved tier change together, and so do the links to them."""
    hardware = root_of(loaded_scenario).child("hardware")
    assert hardware is not None
    groups = _groups(hardware)
    values: dict[tuple[str, str], dict[str, Any]] = {}
    for path, leaf in hardware.leaves():
        if len(path) < 3 or _of_memory(hardware, path):
            continue
        respect, value = _better(str(path[0]), str(path[-1]), leaf.value, factor)
        if respect:
            part = groups.get((str(path[0]), str(path[1])), str(path[1]))
            values.setdefault((part, respect), {})[".".join(map(str, ("hardware", *path)))] = value
    return tuple(PartChange(part, respect, values) for (part, respect), values in values.items())


def _of_memory(hardware: Node, path: Sequence[str | int]) -> bool:
    """Whether a value of a CPU's kernel is its memory's doing: the weight stream that was seen beside a stated memory."""
    beside = hardware.at((*path[:-1], "memory"))
    return path[0] == "devices" and path[2] == "kernels" and path[-1] in ("bandwidth", "memory") and beside is not None


def _better(kind: str, key: str, value: Any, factor: float) -> tuple[str, Any]:
    """In what respect a value of a part makes it better, and the better value; an empty word where it does not."""
    if kind == "devices" and key == "cores":
        return "speed", max(1, round(value * factor))
    number, unit = split(value) or (0.0, "")
    if kind == "devices" and key == "time" and unit.endswith("s"):
        return "speed", f"{number / factor!r} {unit}"
    respect = ""
    if unit.endswith("FLOPS") or (unit.endswith("B/s") and kind == "devices"):
        respect = "speed"
    elif unit.endswith("B/s"):
        respect = "rate" if kind == "links" else "bandwidth"
    elif kind == "tiers" and key == "capacity":
        respect = "capacity"
    return respect, f"{number * factor!r} {unit}"


def _groups(hardware: Node) -> dict[tuple[str, str], str]:
    """(`tiers` or `links`, name) -> the interleaved tier that it belongs to."""
    groups: dict[tuple[str, str], str] = {}
    plain = hardware.plain()
    nodes: dict[str, str] = {}
    for name, tier in plain.get("tiers", {}).items():
        for member in tier.get("of", ()) if tier.get("kind") == "interleaved" else ():
            groups["tiers", member] = name
            nodes[plain["tiers"][member]["at"]] = name
    for name, link in plain.get("links", {}).items():
        for end in link.get("ends", ()):
            if end in nodes:
                groups["links", name] = f"links to {nodes[end]}"
    return groups


def better(loaded_scenario: LoadedScenario, factor: float, *, progress: Progress | None = None) -> Better:
    """Runs the scenario as it is, and with each part `factor` times as good. InputError for a factor that changes nothing."""
    if not 0 < factor < np.inf or factor == 1:
        raise InputError(Mistake(f"{factor:g} does not make a part better or worse; write 2, say", file="--better"))
    candidates = changes(loaded_scenario, factor)
    options = RunOptions(bound=False)
    before = run_loaded(loaded_scenario, options).summary
    metric = "e2e_s" if before["queue_s"] is not None else "throughput_tok_s"
    outcomes, refused = [], []
    for number, change in enumerate(candidates):
        if progress is not None:
            progress(number, len(candidates))
        parts, wrong = altered(loaded_scenario, change.values)
        try:
            if wrong:
                raise InputError(*wrong)
            scenario = loaded_scenario.scenario.model_copy(update=parts)
            world = replace(loaded_scenario, scenario=scenario, job_and_table=loaded_scenario.build())
            outcomes.append(_outcome(change, metric, before, run_loaded(world, options).summary))
        except InputError as error:
            refused.append(f"{change.name}: {'; '.join(mistake.message for mistake in error.mistakes)}")
    ranked = sorted(outcomes, key=lambda outcome: (-outcome.gain, outcome.change.name))
    return Better(factor, metric, tuple(ranked), tuple(refused))


def _outcome(change: PartChange, metric: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Outcome:
    if metric == "throughput_tok_s":
        gain = after[metric] / before[metric] - 1
    else:
        gain = before[metric]["mean"] / after[metric]["mean"] - 1
    means = {name: after[name]["mean"] if after[name] is not None else None for name in _TIMES}
    holder = after["bottleneck"]
    return Outcome(change, gain, after["throughput_tok_s"], **means, bottleneck=lane_word(holder) if holder else "")
