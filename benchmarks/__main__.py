"""Times moesim beside naive SimPy in one process and prints one JSON document: `python -m benchmarks [--quick]`.

CPU seconds of this process, medians over interleaved repetitions: neighbours on the machine disturb both sides alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from statistics import median
from typing import Any

import numpy as np
import simpy

from benchmarks.cases import POLICIES, call_costs, make_case, make_ready, time_moesim, time_naive
from moesim.errors import InputError
from moesim.plugins import BUILT_IN

TOLERANCE = 1e-9
"""Largest relative difference between the makespans of moesim and naive SimPy; none is seen, both count whole ps."""


def main() -> None:
    """Prints the document; exit status 1 if the two models disagree about the simulated time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one batch size, few passes and repetitions (about 20 s)")
    quick: bool = parser.parse_args().quick
    batches, passes, repeats = ((64,), 8, 3) if quick else ((64, 512), 32, 5)
    rows = [_measure(policy, batch, passes, repeats) for policy in POLICIES for batch in batches]
    document = {
        "what": "decode of Qwen3-30B-A3B on rtx6000ada-xeon8452y; naive: one SimPy process per active expert",
        "clock": "CPU seconds of one process, median of interleaved repetitions, decode passes only",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "simpy": simpy.__version__,
        "machine": platform.machine(),
        "cases": rows,
        "least_speedup": min(row["speedup"] for row in rows),
        "calls": _calls(passes, (*POLICIES, "lru") if quick else BUILT_IN["policies"]),
        "import_s": _import_seconds(),
    }
    print(json.dumps(document, indent=2))
    sys.exit(any(row["makespan_difference"] > TOLERANCE for row in rows))


def _measure(policy: str, batch: int, passes: int, repeats: int) -> dict[str, Any]:
    """One case, all three simulators in turn, `repeats` times."""
    case = make_case(POLICIES[policy], batch, passes)
    ready = make_ready(case)
    visits = len(ready.visits)
    naive, kernel, reference = [], [], []
    for _ in range(repeats):
        naive.append(time_naive(ready))
        kernel.append(time_moesim(case, "kernel"))
        reference.append(time_moesim(case, "reference"))
    cpu = {
        name: median(run.cpu for run in runs) for name, runs in (("naive", naive), ("kernel", kernel), ("reference", reference))
    }
    simulated = naive[0].decode
    others = [run.decode for run in (*kernel, *reference)]
    return {
        "policy": policy,
        "batch": batch,
        "layer_visits": visits,
        "expert_executions": ready.executions,
        "layer_visits_per_s": {name: round(visits / seconds) for name, seconds in cpu.items()},
        "expert_executions_per_s": {name: round(ready.executions / seconds) for name, seconds in cpu.items()},
        "speedup": round(cpu["naive"] / cpu["kernel"], 1),
        "speedup_reference": round(cpu["naive"] / cpu["reference"], 2),
        "events_per_layer_visit": {
            "kernel": round(kernel[0].events / kernel[0].visits, 3),
            "naive": round(naive[0].events / naive[0].visits, 1),
        },
        "decode_ps": simulated,
        "makespan_difference": max(abs(other - simulated) / simulated for other in others),
    }


def _calls(passes: int, wanted: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Microseconds per call of the two slots that run while the clock does; a policy that cannot run here is left out."""
    found = {}
    for policy in wanted:
        try:
            costs = call_costs(make_case(POLICIES.get(policy, {"kind": policy}), 64, min(passes, 4)))
        except InputError:
            continue
        found[policy] = {f"{name}_us": None if seconds is None else round(seconds * 1e6, 1) for name, seconds in costs.items()}
    return found


def _import_seconds() -> dict[str, float]:
    """Seconds to import moesim and what a run needs, each in a fresh interpreter, beside numpy alone."""
    program = "import time; begin = time.process_time(); import {}; print(time.process_time() - begin)"
    return {
        name: round(median(float(subprocess.check_output([sys.executable, "-c", program.format(name)])) for _ in range(3)), 3)
        for name in ("moesim", "moesim.scenario.run", "numpy")
    }


if __name__ == "__main__":
    main()
