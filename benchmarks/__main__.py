"""Times moesim: `python -m benchmarks [PART ...] [--quick] [--json] [--history FILE]`.

`visits`: layer visits beside naive SimPy in the same process. `serving`: requests that arrive over time, likewise. `jobs`:
whole commands as a user starts them. `growth`: slopes with layers, experts, requests and tokens. CPU seconds, medians:
neighbours on the machine disturb both sides alike. Prints tables, or with `--json` one document, which `--history` adds to a
file as a line.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simpy

from benchmarks import peers, serving
from benchmarks.cases import CONTENDED, FREE, POLICIES, call_costs, make_case, make_ready, time_moesim, time_naive
from benchmarks.growth import AXES, GROWING, slope
from benchmarks.jobs import JOBS, QUICK, timed
from benchmarks.tables import text_of
from moesim.engine.machine import EngineKind
from moesim.errors import InputError
from moesim.plugins import BUILT_IN

ENGINES: tuple[EngineKind, ...] = ("kernel", "reference")
_LONG = 128
"""Passes of the runs by which the kernel is timed, at least."""
TOLERANCE = 1e-9
"""Largest relative difference between the makespans of moesim and naive SimPy; none is seen, both count whole ps."""


def main() -> None:
    """Prints what was measured; exit status 1 if the two models disagree about the simulated time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: visits)")
    parser.add_argument("--quick", action="store_true", help="few jobs, sizes, passes and repetitions: a minute each part")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--only", action="append", default=[], metavar="JOB", help=f"of jobs: {', '.join(JOBS)}")
    parser.add_argument("--history", type=Path, metavar="FILE", help="add the document to FILE, as one line")
    options = parser.parse_args()
    unknown = [name for name in (*options.parts, *options.only) if name not in (*PARTS, *JOBS)]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "simpy": simpy.__version__,
        "machine": platform.machine(),
        **{name: PARTS[name](options) for name in options.parts or ["visits"]},
    }
    print(json.dumps(document, indent=2) if options.json else text_of(document))
    if options.history is not None:
        with options.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
    sys.exit(any((row["makespan_difference"] or 0) > TOLERANCE for row in document.get("visits", {}).get("cases", ())))


def _visits(options: argparse.Namespace) -> dict[str, Any]:
    quick: bool = options.quick
    batches, passes, repeats = ((64,), 8, 3) if quick else ((64, 512), 32, 5)
    rows = [
        _measure(policy, hardware, batch, passes, repeats)
        for hardware in (FREE, CONTENDED)
        for policy in POLICIES
        for batch in batches
    ]
    return {
        "what": "decode of Qwen3-30B-A3B; naive: one SimPy process per active expert, which knows no shared bandwidth",
        "cases": rows,
        "least_speedup": min(row["speedup"] for row in rows),
        "calls": _calls(passes, (*POLICIES, "lru") if quick else BUILT_IN["policies"]),
        "import_s": _import_seconds(),
    }


def _jobs(options: argparse.Namespace) -> dict[str, Any]:
    rows = {}
    for name in options.only or (QUICK if options.quick else JOBS):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = timed(
                JOBS[name], Path(folder), 1 if options.quick else 3, lambda text, name=name: _say(f"{name}: {text}")
            )
    return rows


def _growth(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for policy, parameters in GROWING.items():
        for axis in AXES:
            _say(f"{policy} over {axis}")
            rows.setdefault(policy, {})[axis] = slope(parameters, axis, 1 if options.quick else 3)
    return rows


def _serving(options: argparse.Namespace) -> dict[str, Any]:
    requests, replicas = (50, 2) if options.quick else (1000, 10)
    serving.measure(2)  # loads what is compiled
    _say("beside naive SimPy")
    document = {"naive": serving.beside_naive(3 if options.quick else 20)}
    _say("W1 and W2")
    document["w1"] = serving.measure(requests)
    document["w2"] = serving.measure(requests, replicas=replicas)
    for share, slots in serving.SHARES.items():
        _say(f"{share:.0%} of the experts resident")
        document[f"lru_{share:.0%}"] = serving.measure(requests, slots=slots)
    _say("peers that are installed")
    document["peers"] = peers.measure(requests)
    return document


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "visits": _visits,
    "serving": _serving,
    "jobs": _jobs,
    "growth": _growth,
}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(policy: str, hardware: str, batch: int, passes: int, repeats: int) -> dict[str, Any]:
    """One case, all three simulators in turn, `repeats` times: moesim's run is long, for it places the model once."""
    case, long = (make_case(POLICIES[policy], batch, number, hardware=hardware) for number in (passes, max(passes, _LONG)))
    ready = make_ready(case)
    speeds = [time_moesim(case, engine).decode for engine in ENGINES]
    rates: dict[str, list[float]] = {"naive": [], **{engine: [] for engine in ENGINES}}
    for _ in range(repeats):
        naive = time_naive(ready)
        rates["naive"].append(naive.cpu / naive.visits)
        for engine, timed_case in zip(ENGINES, (long, case), strict=True):
            run = time_moesim(timed_case, engine)
            rates[engine].append(run.cpu / run.visits)
            if engine == "kernel":
                events = run.events / run.visits
    seconds = {name: median(values) for name, values in rates.items()}
    off = max(abs(speed - naive.decode) / naive.decode for speed in speeds)
    return {
        "policy": policy,
        "hardware": hardware,
        "batch": batch,
        "experts_per_visit": round(ready.executions / len(ready.visits), 1),
        "layer_visits_per_s": {name: round(1.0 / second) for name, second in seconds.items()},
        "speedup": round(seconds["naive"] / seconds["kernel"], 1),
        "speedup_reference": round(seconds["naive"] / seconds["reference"], 2),
        "events_per_layer_visit": {"kernel": round(events, 3), "naive": round(naive.events / naive.visits, 1)},
        "decode_ps": speeds[0],
        "makespan_difference": off if hardware == FREE else None,
    }


def _calls(passes: int, policies: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Microseconds of the two slots that run while the clock does, as `call_costs`; without policies that cannot run here."""
    seconds_of = {}
    for policy in policies:
        try:
            costs = call_costs(make_case(POLICIES.get(policy, {"kind": policy}), 64, min(passes, 4)))
        except InputError:
            continue
        seconds_of[policy] = {
            f"{name}_us": None if seconds is None else round(seconds * 1e6, 1) for name, seconds in costs.items()
        }
    return seconds_of


def _import_seconds() -> dict[str, float]:
    """Seconds to import moesim and what a run needs, each in a fresh interpreter, beside numpy alone."""
    program = "import time; begin = time.process_time(); import {}; print(time.process_time() - begin)"
    return {
        name: round(median(float(subprocess.check_output([sys.executable, "-c", program.format(name)])) for _ in range(3)), 3)
        for name in ("moesim", "moesim.runs.run", "numpy")
    }


if __name__ == "__main__":
    main()
