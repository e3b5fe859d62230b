"""Owns a measured serving run of vLLM, request by request: Llama-3.1-8B on one RTX PRO 6000, more requests than it can serve.

Knows its scenario by name and the record of the run where it lies; the record is not shipped.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moesim.arrays import FloatArray
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.validation.case import Case, Findings, Row
from moesim.validation.parts import NO_DATA, data_folder
from moesim.validation.systems.vllm_seconds import LEVELS, Seconds, blocks_of_stamps, exhibit, levels_at
from moesim.workload.csvfile import read_columns

__all__ = ["CASE", "Latencies", "latencies", "measured", "record", "simulated", "step_time"]

SCENARIO = "serving/llama-3.1-8b-rtxpro6000"
FILE = Path("serving") / "vllm_llama-3.1-8b_rtxpro6000.csv"
COLUMNS = ("prompt_tokens", "output_tokens", "client_s", "arrival_s", "scheduled_s", "first_token_s", "last_token_s")
LOGGER = Path("serving") / "vllm_llama-3.1-8b_rtxpro6000_seconds.csv"
UNSATURATED = 128
"""Requests from the first on that never waited for a place."""
TOLERANCES = {
    "kernels and rules alone": {"TTFT mean": 0.08, "TPOT mean": 0.03, "end to end mean": 0.05, "output rate": 0.05},
    "one constant": {
        "TTFT mean": 0.02, "TTFT median": 0.06, "unsaturated TTFT median": 0.05, "TPOT mean": 0.01, "end to end mean": 0.01,
        "output rate": 0.01,
    },
}  # fmt: skip
_GUESS = 1e-3
"""Seconds per step at which the second run of the fit is made."""


class Latencies(NamedTuple):
    """Of R requests, s; times to the first token count from when the engine took a request in, as the record has them."""

    ttft: FloatArray
    tpot: FloatArray
    e2e: FloatArray
    end: FloatArray
    """When the last token came, from the first request on."""

    def numbers(self, output: FloatArray) -> dict[str, float]:
        """The numbers of a row each; `output` [R] tokens."""
        return {
            "TTFT mean": float(self.ttft.mean()),
            "TTFT median": float(np.median(self.ttft)),
            "unsaturated TTFT median": float(np.median(self.ttft[:UNSATURATED])),
            "TPOT mean": float(np.nanmean(self.tpot)),
            "end to end mean": float(self.e2e.mean()),
            "output rate": float(output.sum() / self.end.max()),
        }


@cache
def record() -> dict[str, FloatArray] | None:
    """Column -> [R] of the run, in the order in which clients sent requests; None where the record is not here."""
    data = data_folder("serving")
    if data is None or not (data / FILE).is_file():
        return None
    columns = read_columns(data / FILE, COLUMNS).columns
    order = np.argsort(columns["client_s"], kind="stable")
    return {name: values[order] for name, values in columns.items()}


def measured(rows: dict[str, FloatArray]) -> Latencies:
    """What the run took."""
    queued, first, last = rows["arrival_s"], rows["first_token_s"], rows["last_token_s"]
    return Latencies(first - queued, _per_token(last - first, rows["output_tokens"]), last - queued, last - rows["client_s"][0])


def simulated(step: float) -> Result:
    """The requests of the record, sent when clients sent them, with `step` seconds of the host per step."""
    arrivals = {"kind": "trace", "path": str(_file(FILE).resolve()), "time": "client_s"}
    changes: dict[str, Any] = {f"workload.{name}": None for name in ("requests", "prompt", "output")}
    changes |= {"workload.arrivals": arrivals, "runtime.gpu.step": f"{1e6 * step:.6f} us"}
    return run_loaded(loaded(SCENARIO, **changes), RunOptions(bound=False))


def _file(name: Path) -> Path:
    data = data_folder("serving")
    assert data is not None
    return data / name


def by_second(rows: dict[str, FloatArray], result: Result) -> Seconds:
    """What the logger of the run wrote every second beside the simulated levels; its KV column is empty: stamps say it."""
    logged = read_columns(_file(LOGGER), ("t", "running", "waiting")).columns
    time = logged["t"]
    stamps = blocks_of_stamps(rows, time)
    return Seconds(time, {**{name: logged[name] for name in LEVELS[:2]}, LEVELS[2]: stamps}, levels_at(result, time))


def latencies(result: Result) -> Latencies:
    """What a simulated run took."""
    columns = result.columns["requests"]
    queued, first, last = (columns[name] for name in ("queued_s", "first_token_s", "finish_s"))
    return Latencies(first - queued, _per_token(last - first, columns["output_tokens"]), last - queued, last)


def _per_token(seconds: FloatArray, output: FloatArray) -> FloatArray:
    return np.where(output > 1, seconds / np.maximum(output - 1, 1), np.nan)


def step_time(rows: dict[str, FloatArray], bare: Latencies, guess: Latencies) -> float:
    """Seconds per step at which the first third of the requests take as long as measured, end to end and on average.

    By the line through runs without the constant (`bare`) and with `_GUESS`.
    """
    early = slice(0, len(rows["client_s"]) // 3)
    goal, low, high = (float(run.e2e[early].mean()) for run in (measured(rows), bare, guess))
    return _GUESS * (goal - low) / (high - low)


@cache
def _findings() -> Findings:
    rows = record()
    if rows is None:
        return Findings((), skipped=NO_DATA)
    bare = latencies(simulated(0.0))
    step = step_time(rows, bare, latencies(simulated(_GUESS)))
    result = simulated(step)
    runs, seconds = {"kernels and rules alone": bare, "one constant": latencies(result)}, by_second(rows, result)
    output = rows["output_tokens"]
    published = measured(rows).numbers(output)
    metric_rows = tuple(
        Row(f"{name}: {metric}, {'tok/s' if metric == 'output rate' else 's'}", published[metric], numbers[metric], tolerance)
        for name, run in runs.items()
        for metric, tolerance in TOLERANCES[name].items()
        for numbers in [run.numbers(output)]
    )
    text = (
        f"One constant: {1e3 * step:.2f} ms of the host per step, fitted on the mean end-to-end time of the first third of the "
        "requests. Kernels are fitted on profiles of single layers, nothing of the run itself."
    )
    levels = "; ".join(f"{level.replace('_', ' ')} {100 * seconds.off(level):.1f} %" for level in LEVELS)
    text_levels = f"Second by second, one constant, mean distance from the record as a share of its peak: {levels}."
    return Findings(metric_rows, arithmetic=(text, text_levels), exhibits=(exhibit(seconds),))


CASE = Case(
    id="vllm-llama8b-pro6000",
    kind="system",
    summary="300 requests with ShareGPT lengths, Poisson at 10/s, served by vLLM 0.19: Llama-3.1-8B on one RTX PRO 6000.",
    source="LLMServingSim 5daddb21a545, bench/examples/RTXPRO6000/Llama-3.1-8B/vllm/requests.jsonl (measured)",
    runner=_findings,
    fitted="time of the host per step, on the first third of the requests (rows 'one constant')",
)
