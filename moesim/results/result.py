"""The result of one run: the summary that everything else reads, its tables, and where it came from.

Must not know what was simulated: numbers come from the recorder, names from `RunFacts`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import MoesimError, did_you_mean
from moesim.results import columns as tables
from moesim.results import serving
from moesim.results.breakdown import breakdown_tables
from moesim.results.columns import TABLES, Columns
from moesim.results.levels import queue_table, recovery_sentence, tier_table
from moesim.results.long.table import Table, by_rows, parts, whole
from moesim.results.plain import canonical, plain
from moesim.results.recorder import SECOND, Recorder, Slice
from moesim.results.rows import PHASES, PassRows
from moesim.results.serving import Served
from moesim.results.statistics import describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIELDS", "Result", "RunFacts", "make_result"]

FIELDS = (
    "scenario", "policy", "hardware", "model", "seed", "replicate", "throughput_tok_s", "total_tok_s", "makespan_s",
    "output_tokens", "prompt_tokens", "requests_completed", "requests_rejected", "ttft_s", "tpot_s", "e2e_s",
    "utilisation", "bytes", "hit_rate", "expert_tokens", "bottleneck", "bound_tok_s", "share_of_bound", "energy_J",
    "energy_known", "cost_usd_per_Mtok", "machine_usd", "events", "layer_visits", "wall_s", "quality", "prefetch", "runtime",
    "prefill_tok_s", "decode_tok_s", "decode_hit_rate", "queue_s", "itl_s", "slo", "preemptions", "is_bound", "proven_gap",
)  # fmt: skip
"""Fields of a summary, in their order; the set is a public contract."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a recorder cannot know of its run."""

    scenario: str
    policy: str
    hardware: str
    model: str
    runtime: str = ""
    seed: int
    replicate: int = 0
    arrival: NDArray[np.float64]
    """[R] s."""
    prompt: NDArray[np.int64]
    """[R] tokens."""
    output: NDArray[np.int64]
    """[R] tokens."""
    rejected: int = 0
    served: Served | None = None
    """Of a run whose requests arrive over time."""
    bound_s: float | None = None
    """Least time in which any placement and schedule could have done this work, s."""
    energy_J: float | None = None
    """Joules of the whole run; None where the power of a part is not known."""
    energy_known: float | None = None
    """Share of the machine's parts whose power is known."""
    power_unknown: list[str] = field(default_factory=list)
    """Keys of the machine that it lacks for that."""
    price_unknown: list[str] = field(default_factory=list)
    """Keys of the machine that its cost lacks."""
    cost_usd_per_Mtok: float | None = None
    machine_usd: float | None = None
    """Price of the whole machine; None where a part of it has none."""
    bill: list[dict[str, Any]] = field(default_factory=list)
    """Part by part: `part`, `name`, `amount`, `usd`."""
    lane_words: dict[str, str] = field(default_factory=dict)
    """Lane -> what it does, in words."""
    wall_s: float | None = None
    is_bound: bool = False
    """The policy is a bound that no system can run."""
    proven_gap: float | None = None
    """Where the policy solves a programme: by which share of its plan's objective the best plan may be below it."""
    single_layer_batch: bool = False
    """One MoE layer and one batch of tokens: throughput counts the tokens of the batch, and there is no first token."""
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """One run: `summary` (fields of `FIELDS`, plain JSON types), tables, provenance, and slices if they were kept."""

    summary: dict[str, Any]
    columns: dict[str, Table]
    """Table name -> column name -> values: what `frame` shows."""
    provenance: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """`critical_s` {lane: s}, `lane_words` {lane: text}, `caused_B` {cause: B}, `peak_B` {tier: B}, `bill` [part],
    `power_unknown`, `price_unknown`, `notes` [text]."""
    slices: list[Slice] = field(default_factory=list)
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def frame(self, name: str) -> pd.DataFrame:
        """The table of a name in `TABLES` (`requests`, `steps`, `lanes`, ...); units stand in the column names."""
        if name not in self.columns:
            raise MoesimError(f"no table '{name}'; there are {', '.join(TABLES)}.{did_you_mean(name, TABLES)}")
        if name not in self._frames:
            import pandas as pd

            self._frames[name] = pd.DataFrame(whole(self.columns[name]))
        return self._frames[name]

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        return list(self.details.get("notes", []))

    def plot_timeline(self, *, start: float | None = None, end: float | None = None, **where: Any) -> Figure:
        """Who worked when, between `start` and `end` (s); needs a run that kept its slices. `where`: as of `plot`."""
        return self.plot("timeline", start=start, end=end, **where)

    def plot(self, figure: str, *, ax: Axes | None = None, width: float | str | None = None, **options: Any) -> Figure:
        """One of the figures of a run, by its name in `moesim.report.figures`: `lane_use`, `layer_time`, `roofline`, ...

        `ax`: axes to draw into; `width`: `column` (3.33 inches), `page` (7) or inches, for print; else for a screen. Raises
        InputError where the run did not keep what the figure shows, MoesimError for a name that none has.
        """
        from moesim.report import figures

        if figure not in figures.OF_RUNS:
            raise MoesimError(
                f"no figure '{figure}'; there are {', '.join(figures.OF_RUNS)}.{did_you_mean(figure, figures.OF_RUNS)}"
            )
        drawn: Figure = getattr(figures, figure)(self, ax=ax, width=width, **options)
        return drawn

    plot_lane_use = partialmethod(plot, "lane_use")
    plot_layer_time = partialmethod(plot, "layer_time")
    plot_roofline = partialmethod(plot, "roofline")
    plot_traffic = partialmethod(plot, "traffic")
    plot_expert_map = partialmethod(plot, "expert_map")
    plot_hit_curve = partialmethod(plot, "hit_curve")
    plot_queue = partialmethod(plot, "queue")

    def canonical_json(self) -> bytes:
        """Bytes that equal runs share: all but `wall_s` and the place of the run (command, versions, platform).

        Tables enter by their hash, so a difference names the table that differs.
        """
        hashes = {name: _digest(table) for name, table in self.columns.items()}
        summary = {key: value for key, value in self.summary.items() if key != "wall_s"}
        origin = {key: self.provenance.get(key) for key in ("scenario", "content_hash", "seed", "replicate")}
        return canonical({"summary": summary, "details": self.details, "provenance": origin, "tables": hashes})

    def save(self, directory: str | Path, *, timeline: bool = False) -> Path:
        """Writes `result.json`, the tables and, on request, `trace.json.gz` into `directory`, all of it or nothing.

        A directory left by an earlier run is replaced; one that holds anything else is refused with InputError.
        """
        from moesim.results.store import save

        return save(self, Path(directory), timeline=timeline)

    @classmethod
    def load(cls, directory: str | Path) -> Result:
        """A saved run, from its directory or its `result.json`; slices are not kept on disk."""
        from moesim.results.store import load

        return cls(*load(Path(directory)))

    def __str__(self) -> str:
        from moesim.results.table import run_table

        return run_table(self)

    def _repr_html_(self) -> str:
        from moesim.results.notebook import run_html

        return run_html(self)


def _digest(table: Table) -> str:
    """SHA-256 of a table as CSV."""
    digest = hashlib.sha256()
    for text in tables.csv_parts(table):
        digest.update(text.encode())
    return digest.hexdigest()


def make_result(recorder: Recorder, facts: RunFacts) -> Result:
    """The result of the run that left `recorder`; raises MoesimError when the record contradicts itself."""
    _check(recorder, facts)
    served = facts.served
    if served is not None:
        serving.check(served, recorder.finish)
    requests = by_rows(recorder.requests, lambda rows: _requests(recorder, facts, rows))
    levels = served.levels if served is not None else None
    columns: dict[str, Table] = {
        "requests": requests,
        "steps": tables.steps(recorder),
        "queue": queue_table(levels),
        "kv_tiers": tier_table(levels),
        "lanes": tables.lanes(recorder),
        "layers": tables.layers(recorder),
        **breakdown_tables(recorder.breakdown),
    }
    _check_order(requests)
    summary = plain(_summary(recorder, facts, requests), "summary")
    served_details = serving.serving_details(served, requests) if served is not None else None
    disrupted = [recovery_sentence(row) for row in served_details["faults"]] if served_details is not None else []
    details = {
        "critical_s": _sorted(recorder.critical, lambda value: value / SECOND),
        "lane_words": {lane: words for lane, words in facts.lane_words.items() if lane in {*recorder.busy, *recorder.critical}},
        "caused_B": _sorted(recorder.caused, float),
        "bill": facts.bill,
        "peak_B": _sorted(recorder.peak, float),
        "recoveries": recorder.recoveries,
        "power_unknown": facts.power_unknown,
        "price_unknown": facts.price_unknown,
        "serving": served_details,
        "notes": [*facts.notes, *disrupted, *_beaten(summary, recorder)],
    }
    return Result(summary, columns, plain(facts.provenance, "provenance"), plain(details, "details"), list(recorder.slices))


def _requests(recorder: Recorder, facts: RunFacts, rows: slice) -> Columns:
    """The table of some requests."""
    first, served = not facts.single_layer_batch, facts.served
    columns = tables.requests(recorder, facts.arrival, facts.prompt, facts.output, first, rows)
    if served is not None:
        columns.update(serving.request_columns(served, rows))
        if served.sample is not None:
            before = served.sample.ttft_before[rows]
            columns["ttft_s"] = np.where(np.isnan(before), columns["ttft_s"], before)
    return columns


def _sorted(values: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: convert(values[key]) for key in sorted(values)}


def _summary(recorder: Recorder, facts: RunFacts, requests: Table) -> dict[str, Any]:
    done = recorder.finish >= 0
    produced, read = (int(np.asarray(tokens)[done].sum()) for tokens in (facts.output, facts.prompt))
    batch = sum(int(part["tokens"].sum()) for part in recorder.passes.parts())
    # a layer alone turns the tokens of its batch into hidden states, not into output tokens
    produced = 0 if facts.single_layer_batch else produced
    counted, total = (batch, batch) if facts.single_layer_batch else (produced, produced + read)
    makespan = recorder.makespan / SECOND
    sample = facts.served.sample if facts.served is not None else None
    if sample is not None:
        produced, counted, makespan = sample.tokens, sample.tokens, sample.seconds
    values = {
        **_as_given(facts),
        "throughput_tok_s": _per(counted, makespan),
        "total_tok_s": _per(total, makespan),
        "makespan_s": makespan,
        "output_tokens": produced,
        "prompt_tokens": read,
        "requests_completed": int(done.sum()),
        "requests_rejected": int(facts.rejected),
        **_latencies(facts, requests),
        **serving.summary_fields(facts.served, requests, makespan),
        "utilisation": _sorted(recorder.busy, lambda busy: _per(busy, recorder.makespan)),
        "bytes": _sorted(recorder.moved, float),
        "hit_rate": _per(int(recorder.layers.hits.sum()), int(recorder.layers.activations.sum())),
        "expert_tokens": _sorted(recorder.expert_tokens, int),
        "bottleneck": _bottleneck(recorder, facts.lane_words),
        "bound_tok_s": _per(counted, facts.bound_s or 0),
        "share_of_bound": _per(facts.bound_s, makespan) if facts.bound_s else None,
        "events": int(recorder.events),
        "layer_visits": int(recorder.layer_visits),
        "quality": _quality(recorder),
        "prefetch": _prefetch(recorder),
        **_by_phase(recorder, facts),
    }
    return {name: values[name] for name in FIELDS}


def _latencies(facts: RunFacts, requests: Table) -> dict[str, Any]:
    """Distributions over the requests that count."""
    counts = (lambda _name: slice(None)) if facts.served is None else facts.served.counts
    return {name: describe(requests[name][counts(name)]) for name in ("ttft_s", "tpot_s", "e2e_s")}


_GIVEN = (
    "scenario", "policy", "hardware", "model", "seed", "replicate", "energy_J", "energy_known", "cost_usd_per_Mtok",
    "machine_usd", "wall_s", "runtime", "is_bound", "proven_gap",
)  # fmt: skip
"""Fields of a summary that are facts about a run as they are."""


def _as_given(facts: RunFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in _GIVEN}


def _by_phase(recorder: Recorder, facts: RunFacts) -> dict[str, float | None]:
    """Rates of passes over prompts and of passes that only decode; all None for a layer alone, which does neither."""
    rates: dict[str, float | None] = dict.fromkeys(("prefill_tok_s", "decode_tok_s", "decode_hit_rate"))
    if facts.single_layer_batch:
        return rates
    for phase, sums in zip(PHASES, _sums_by_phase(recorder.passes), strict=True):
        rates[f"{phase}_tok_s"] = _per(sums["tokens"], sums["time"] / SECOND)
        if phase == "decode":
            rates["decode_hit_rate"] = _per(sums["hits"], sums["activations"])
    return rates


def _sums_by_phase(passes: PassRows) -> list[Counter[str]]:
    """For each phase the time (ps) of its passes, their tokens, hits and activations."""
    sums = [Counter[str]() for _ in PHASES]
    for part in passes.parts():
        part["time"] = part["end"] - part["start"]
        for number, totals in enumerate(sums):
            rows = part["phase"] == number
            totals.update({name: int(part[name][rows].sum()) for name in ("time", "tokens", "hits", "activations")})
    return sums


def _per(amount: float, whole: float) -> float | None:
    return amount / whole if whole > 0 else None


def _quality(recorder: Recorder) -> dict[str, Any]:
    """Shares of the routed activations that were skipped, replaced or stale; of the computed ones at each precision.

    `native`: bits per weight of the model's own experts; `precision`: bits per weight -> share.
    """
    quality = recorder.quality
    computed = sum(quality.precision.values())
    precision = {f"{bits:.4g}": quality.precision[bits] / computed for bits in sorted(quality.precision, reverse=True)}
    lossy = {name: getattr(quality, name) / max(quality.routed, 1) for name in ("skipped", "replaced", "stale")}
    return {"native": f"{quality.native:.4g}", "precision": precision, **lossy}


def _prefetch(recorder: Recorder) -> dict[str, Any] | None:
    """How good the prefetches were; None without any."""
    prefetches = recorder.prefetches
    if not prefetches.copies:
        return None
    needed = prefetches.used + int(recorder.layers.uploads.sum())
    shares = {"used": _per(prefetches.used, prefetches.copies), "in_time": _per(prefetches.in_time, prefetches.used)}
    return {"copies": prefetches.copies, **shares, "coverage": _per(prefetches.used, needed)}


def _bottleneck(recorder: Recorder, words: Mapping[str, str]) -> dict[str, Any] | None:
    """The lane with the largest share of the critical path, in all and of the passes of each phase (None without any)."""
    whole = _largest(recorder.critical, words)
    if whole is None:
        return None
    phases = {phase: _largest(recorder.critical_by_phase.get(phase, {}), words) for phase in ("prefill", "decode")}
    return {**whole, **phases}


def _largest(critical: Mapping[str, int], words: Mapping[str, str]) -> dict[str, Any] | None:
    """The lane with the most ps, the first by name among equals; None where there is no time."""
    total = sum(critical.values())
    if total <= 0:
        return None
    lane = min(critical, key=lambda name: (-critical[name], name))
    return {"lane": lane, "words": words.get(lane, lane), "share": critical[lane] / total}


def _check(recorder: Recorder, facts: RunFacts) -> None:
    """What must hold in any record; a breach is a mistake of the engine, not of the user."""
    for name in ("arrival", "prompt", "output"):
        if len(getattr(facts, name)) != recorder.requests:
            raise MoesimError(f"{name} has {len(getattr(facts, name))} entries for {recorder.requests} requests")
    critical = sum(recorder.critical.values())
    if critical != recorder.makespan:
        raise MoesimError(f"critical times add up to {critical} ps, but the run took {recorder.makespan} ps")
    late = {lane: busy for lane, busy in recorder.busy.items() if not 0 <= busy <= recorder.makespan}
    if late:
        raise MoesimError(f"I5: lanes at work for longer than the run of {recorder.makespan} ps: {late}")
    hits, activations = recorder.layers.hits, recorder.layers.activations
    if (hits < 0).any() or (hits > activations).any():
        raise MoesimError(f"hit rate outside [0, 1]: {int(hits.sum())} hits in {int(activations.sum())} activations")


def _check_order(requests: Table) -> None:
    if any((part[name] < 0).any() for part in parts(requests) for name in ("ttft_s", "tpot_s", "e2e_s")):
        raise MoesimError("I4: a request was answered before it arrived, or ended before its first token")


def _beaten(summary: dict[str, Any], recorder: Recorder) -> list[str]:
    """I11, up to the precision of floats and the rounding of the clock: half a picosecond for each operation."""
    share = summary["share_of_bound"]
    if share is None or share <= 1 + 1e-9 + 0.5 * recorder.rounded / recorder.makespan:
        return []
    return [f"I11: this run beats its bound ({share:.6f} of it), so the bound or the run is wrong; please report it"]
