"""Owns what the spreads of a machine's values do to a run: machines drawn from them, intervals, and who drives the spread.

Knows a scenario and the summary of its runs; nothing of what a parameter means. Each spread is a triangular distribution
over [low, high] with its mode at the value, independent of every other one, also where one profile stands at several
places. All draws meet the same requests and the same routing (common random numbers), and the policy plans on the machine
that was drawn, as it would on the real one. Where the routing is borrowed, each draw takes one of the nearest presets.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moesim.arrays import FloatArray
from moesim.errors import InputError, Mistake
from moesim.progress import Progress
from moesim.results.columns import Columns
from moesim.results.drivers import drivers, enough, together
from moesim.results.result import Result
from moesim.results.statistics import percentile
from moesim.results.table import align
from moesim.runs.altered import altered, place_of, root_of
from moesim.runs.borrowed import borrowed_note, lenders
from moesim.runs.borrowed import chosen as which
from moesim.runs.run import run_loaded
from moesim.scenario.annotated import spreads
from moesim.scenario.scenario import LoadedScenario
from moesim.scenario.tree import Spread
from moesim.streams import Streams
from moesim.units import format_share

__all__ = ["Parameter", "Study", "flat", "parameters", "sample", "study"]

SHARES = {"p5": 0.05, "p50": 0.50, "p95": 0.95}
"""The interval of every metric: nine draws of ten lie between the outer two."""
OUTCOME = "throughput_tok_s"
"""The metric whose variance is shared out over the parameters."""
NO_METRICS = frozenset({"scenario", "policy", "hardware", "runtime", "model", "seed", "replicate", "wall_s"})


@dataclass(frozen=True)
class Parameter:
    """One value of the machine that carries a spread."""

    path: str
    spread: Spread


def parameters(loaded_scenario: LoadedScenario) -> tuple[Parameter, ...]:
    """The values of the scenario's machine and runtime with a spread, in the order of the files.

    InputError when there are none, when one stands outside the hardware, or when an end of it is not a possible value.
    """
    known_spreads = spreads(root_of(loaded_scenario))
    mistakes = [
        Mistake(
            "a spread counts on values of the hardware and the runtime only: nothing else is drawn",
            path,
            *place_of(loaded_scenario, path),
        )
        for path in known_spreads
        if not path.startswith(("hardware.", "runtime."))
    ]
    chosen = tuple(Parameter(path, spread) for path, spread in known_spreads.items() if spread.high > spread.low)
    if not known_spreads:
        example = "{value: 26.5 GB/s, spread: [24.8 GB/s, 28.3 GB/s], basis: ..., source: ...}"
        mistakes.append(Mistake(f"no value of this machine carries a spread; write one as {example}", "hardware"))
    for parameter in chosen if not mistakes else ():
        for end in (parameter.spread.low, parameter.spread.high):
            wrong = altered(loaded_scenario, {parameter.path: parameter.spread.as_written(end)})[1]
            mistakes += [one_wrong._replace(message=f"no end of a spread: {one_wrong.message}") for one_wrong in wrong]
    if mistakes:
        raise InputError(*dict.fromkeys(mistakes))
    return chosen


def sample(chosen: Sequence[Parameter], draws: int, streams: Streams) -> FloatArray:
    """[draws, parameters] values in the units of the files.

    Each parameter has a stream of its own, named by its path, so draws do not change when another parameter is added, and the
    first of many draws are the draws of fewer.
    """
    columns = [
        streams.spawn("uncertainty", zlib.crc32(parameter.path.encode())).triangular(
            parameter.spread.low, parameter.spread.value, parameter.spread.high, draws
        )
        for parameter in chosen
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((draws, 0))


@dataclass(frozen=True)
class Study:
    """What came out of the machines that were drawn."""

    parameters: tuple[Parameter, ...]
    samples: FloatArray
    """[draws, parameters] in the units of the files."""
    metrics: dict[str, list[float | None]]
    """Metric of the summary (`ttft_s.p50`) -> its value in each draw."""
    explained: float
    """Share of the throughput's variance that single parameters explain."""
    shares: dict[str, float] = field(default_factory=dict)
    """Path -> share of the throughput's variance, largest first; empty when there are too few draws to tell."""
    note: str = ""

    @property
    def draws(self) -> int:
        """Number of machines."""
        return len(self.samples)

    def intervals(self) -> dict[str, dict[str, float | None]]:
        """Metric -> `{p5, p50, p95}` over the draws in which it has a value."""
        return {name: _interval(values) for name, values in self.metrics.items()}

    def summary(self) -> dict[str, Any]:
        """`{draws, metrics, drivers}` in JSON types, and a `note` where there is something to say."""
        sentences = [{"path": path, "share": share} for path, share in self.shares.items()]
        document = {"draws": self.draws, "metrics": self.intervals(), "drivers": sentences}
        return {**document, "note": self.note} if self.note else document

    def columns(self) -> Columns:
        """One row per draw: its number, the parameters with their units, the metrics (NaN where there is none)."""
        table: Columns = {"draw": np.arange(self.draws)}
        for index, parameter in enumerate(self.parameters):
            table[f"{parameter.path} ({parameter.spread.unit})" if parameter.spread.unit else parameter.path] = self.samples[
                :, index
            ]
        for name, values in self.metrics.items():
            table[name] = np.array([np.nan if value is None else value for value in values])
        return table

    def enter(self, result: Result) -> None:
        """Adds the draws to the tables of the run that stands for them, and what they were made from to its provenance."""
        result.columns["uncertainty"] = self.columns()
        ends = {
            parameter.path: [parameter.spread.as_written(end) for end in parameter.spread[:3]] for parameter in self.parameters
        }
        result.provenance["uncertainty"] = {"draws": self.draws, "spreads": ends}

    def table(self, summary: Mapping[str, Any]) -> str:
        """The intervals beside the run itself, and the parameters that drive the throughput."""
        own, rows, unchanged = flat(summary), [], []
        for name, interval in self.intervals().items():
            if interval["p5"] == interval["p95"]:
                unchanged.append(name)
                continue
            rows.append([name, *(_figure(value) for value in (own.get(name), *interval.values()))])
        lines = align([f"over {self.draws} machines", "as written", "5 %", "median", "95 %"], rows)
        lines += [f"the same in at least nine of ten: {len(unchanged)} other metrics"] if unchanged else []
        return "\n".join([*lines, "", *self._drivers()])

    def _drivers(self) -> list[str]:
        lines = []
        if self.shares:
            known = {parameter.path: parameter.spread for parameter in self.parameters}
            rows = [
                [path.removeprefix("hardware."), _range(known[path]), format_share(share)]
                for path, share in self.shares.items()
            ]
            rows.append(["not explained by any one of them", "", format_share(max(0.0, 1 - self.explained))])
            lines = align(["throughput varies because of", "from ... to", "share of variance"], rows)
        return [*lines, *([f"note: {self.note}"] if self.note else [])]


def study(loaded_scenario: LoadedScenario, draws: int, *, progress: Progress | None = None) -> Study:
    """Runs the scenario on `draws` machines drawn from the spreads of its values."""
    if draws < 2:
        raise InputError(Mistake(f"{draws} draws tell nothing of a spread; write 2 or more, better 100", file="--uncertainty"))
    chosen = parameters(loaded_scenario)
    streams = Streams(loaded_scenario.scenario.seed, loaded_scenario.scenario.replicate)
    samples = sample(chosen, draws, streams)
    borrowed = lenders(loaded_scenario)
    worlds = list(borrowed.values()) or [loaded_scenario]
    taken = which(len(worlds), draws, streams)
    outcomes: list[dict[str, float | None]] = []
    for number, row in enumerate(samples.tolist()):
        if progress is not None:
            progress(number, draws)
        changed = {parameter.path: parameter.spread.as_written(value) for parameter, value in zip(chosen, row, strict=True)}
        drawn_parts, wrong = altered(loaded_scenario, changed)
        if wrong:
            raise InputError(*wrong)
        world = worlds[taken[number]]
        drawn = replace(world, scenario=world.scenario.model_copy(update=drawn_parts), job_and_table=world.build())
        outcomes.append(flat(run_loaded(drawn).summary))
    if progress is not None:
        progress(draws, draws)
    names = list(dict.fromkeys(name for metrics in outcomes for name in metrics))
    judged_study = _judged(chosen, samples, {name: [metrics.get(name) for metrics in outcomes] for name in names})
    notes = (judged_study.note, borrowed_note(tuple(borrowed)))
    return replace(judged_study, note="; ".join(note for note in notes if note))


def _judged(chosen: tuple[Parameter, ...], samples: FloatArray, metrics: dict[str, list[float | None]]) -> Study:
    outcome = metrics.get(OUTCOME, [])
    if not outcome or None in outcome:
        return Study(chosen, samples, metrics, 0.0, note="not every machine has a throughput, so none of them drives it")
    needed = enough(len(chosen))
    if len(samples) < needed:
        note = f"{len(samples)} draws are too few to tell {len(chosen)} parameters apart; take {needed} or more"
        return Study(chosen, samples, metrics, 0.0, note=note)
    shares, explained = drivers(samples, np.array(outcome, dtype=np.float64))
    ranked = sorted(
        zip(shares.tolist(), (parameter.path for parameter in chosen), strict=True), key=lambda pair: (-pair[0], pair[1])
    )
    note = together(explained) if shares.any() else "the throughput does not depend on any of these values"
    return Study(chosen, samples, metrics, explained, {path: share for share, path in ranked}, note)


def flat(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a run's summary by dotted name; texts and what does not depend on the machine are left out."""
    figures: dict[str, float | None] = {}
    for name, value in summary.items():
        if name in NO_METRICS:
            continue
        inside = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, figure in inside:
            if figure is None or (isinstance(figure, (int, float)) and not isinstance(figure, bool)):
                figures[f"{name}.{key}" if key else name] = figure
    return figures


def _interval(values: Sequence[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    return {name: float(percentile(known, share)) if known else None for name, share in SHARES.items()}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _range(spread: Spread) -> str:
    return f"{spread.low:g} ... {spread.high:g} {spread.unit}".rstrip()
