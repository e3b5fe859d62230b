"""The long run: draws many examples for every relation, on several processes, and keeps the smallest one that fails.

`python -m tests.properties --count 10000 --jobs 2`; exit status 1 where a relation failed. What failed lies as JSON in
`tests/properties/counterexamples`, from where every run of the tests takes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, seed, settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # helpers of the tests, as pytest finds them
from tests.properties.relations import RELATIONS  # noqa: E402

COUNTEREXAMPLES = HERE / "counterexamples"


class Job(NamedTuple):
    """Examples to draw for one relation."""

    relation: str
    count: int
    seed: int
    folder: Path = COUNTEREXAMPLES


class Ended(NamedTuple):
    """What became of a job."""

    relation: str
    tried: int
    """Examples drawn, shrinking included."""
    held: int
    """Those that were not refused and for which the relation holds."""
    seconds: float
    """CPU."""
    failure: str | None


def counterexamples(folder: Path = COUNTEREXAMPLES) -> list[tuple[str, Any]]:
    """(relation, example) of everything that once failed."""
    files = sorted(folder.glob("*.json")) if folder.exists() else []
    return [(path.name.partition("-")[0], json.loads(path.read_text("utf-8"))) for path in files]


def search(job: Job) -> Ended:
    """Draws examples until one fails; its smallest form is written into the folder of the job."""
    relation, counted, last = RELATIONS[job.relation], [0, 0], [None]

    @seed(job.seed)
    @settings(max_examples=job.count, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(relation.examples)
    def holds(example: Any) -> None:
        counted[0] += 1
        last[0] = example
        relation.check(example)
        counted[1] += 1

    begin, failure = time.process_time(), None
    try:
        holds()
    except Exception as error:  # whatever the simulator raises is a finding
        failure = f"{type(error).__name__}: {str(error)[:400]}"
        job.folder.mkdir(parents=True, exist_ok=True)
        path = job.folder / f"{job.relation}-{job.seed}.json"
        path.write_text(json.dumps(last[0], indent=1) + "\n", "utf-8")  # shrinking ends with the smallest example
    return Ended(job.relation, *counted, time.process_time() - begin, failure)


def jobs_of(count: int, first: int, portion: int = 100) -> list[Job]:
    """`count` examples over all relations, in portions with seeds of their own."""
    per_relation = -(-count // len(RELATIONS))
    portions = [min(portion, per_relation - start) for start in range(0, per_relation, portion)]
    return [Job(name, size, first + number) for number, size in enumerate(portions) for name in RELATIONS]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.properties", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="examples in all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the first portion; other seeds draw other examples")
    arguments = parser.parse_args()
    jobs, ended = jobs_of(arguments.count, arguments.seed), []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(search, jobs):
            ended.append(row)
            verdict = f", {row.relation} failed: {row.failure}" if row.failure else ""
            print(f"{len(ended)} of {len(jobs)} portions{verdict}", file=sys.stderr, flush=True)
    for name in RELATIONS:
        own = [row for row in ended if row.relation == name]
        failures = [row.failure for row in own if row.failure is not None]
        tried, held, cpu = (sum(column) for column in zip(*[row[1:4] for row in own], strict=True))
        print(f"{name:48} {tried:6} drawn {held:6} held {cpu:7.1f} s of CPU {len(failures):3} failed")
        for failure in failures:
            print(f"    {failure}")
    return int(any(row.failure for row in ended))


if __name__ == "__main__":
    sys.exit(main())
