"""A plug-in of pytest that runs the tests it has collected once for each mutant, each time in a process forked for it.

The first child records which tests run which lines. Every further one puts a mutant in place of what has been imported, runs
the tests that can see it and ends at the first that fails. What a module does as it is loaded is mutated on disk instead,
and a new process imports it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutation.seen import Seen, statement

WORK = "MOESIM_MUTANTS"
"""Environment variable with a JSON file: `seconds` for each of `mutants` (`path`, `line`, `column`, `after`: all its text)."""
PLAIN = ["-q", "-x", "-p", "no:cacheprovider", "-p", "tests.branches.plain"]


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Writes a line for each mutant into the file of outcomes beside the work."""
    place = Path(os.environ[WORK])
    work = json.loads(place.read_text("utf-8"))
    for mutant in work["mutants"]:
        importlib.import_module(".".join(Path(mutant["path"]).with_suffix("").parts))
    record = place.with_name("seen.data")
    if not _true_in_a_child(lambda: _record(session, record), work["seconds"]):
        raise session.Failed(f"these tests fail without a mutant: {record.with_suffix('.failed').read_text('utf-8')}")
    seen = Seen(record)
    with place.with_suffix(".outcomes").open("w", encoding="utf-8") as outcomes:
        for mutant in work["mutants"]:
            outcomes.write(json.dumps(_outcome(session, mutant, seen, work["seconds"])) + "\n")
            outcomes.flush()
    return True


def _outcome(session: pytest.Session, mutant: dict[str, Any], seen: Seen, seconds: int) -> dict[str, Any]:
    """Whether a mutant is killed, by how many tests it can be seen, and the seconds that they took."""
    path, text = Path(mutant["path"]), mutant["after"]
    span = statement(path.read_text("utf-8"), mutant["line"], mutant["column"])
    seeing = seen.tests(path, span) or (seen.seconds.keys() if span is None else set())  # names alone, that others import
    items = _ordered([item for item in session.items if item.nodeid in seeing], seen.seconds)
    begin = time.monotonic()
    if not items:
        passed = True
    elif span is None:
        passed = _pass_anew(path, text, {item.nodeid: seen.seconds[item.nodeid] for item in items}, seconds)
    else:
        passed = _true_in_a_child(lambda: _pass(session, items, seen.seconds, path, text), seconds)
    return {"killed": not passed, "tests": len(items), "seconds": round(time.monotonic() - begin, 1)}


def _ordered(items: list[pytest.Item], seconds: dict[str, float]) -> list[pytest.Item]:
    """File by file, for tests of a file share what they set up; the quickest file first."""
    files: dict[Path, float] = defaultdict(float)
    for item in items:
        files[item.path] += seconds[item.nodeid]
    return sorted(items, key=lambda item: (files[item.path], item.path))


def _true_in_a_child(work: Callable[[], bool], seconds: int) -> bool:
    """Whether `work` is true in a forked process, which ends after `seconds`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child calls nothing that they may hold
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(seconds)
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _record(session: pytest.Session, record: Path) -> bool:
    """Runs all tests and writes which lines and how many CPU seconds each of them takes; whether they pass."""
    from coverage import Coverage  # an extra

    coverage = Coverage(data_file=str(record), config_file=False, source_pkgs=["moesim"])
    coverage.set_option("run:disable_warnings", ["module-not-measured"])  # where no line of moesim/__init__.py runs
    coverage.start()
    taken: dict[str, float] = {}
    failed: list[str] = []
    for item, successor in zip(session.items, [*session.items[1:], None], strict=True):
        coverage.switch_context(item.nodeid)
        begin = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=successor)
        taken[item.nodeid] = time.process_time() - begin
        failed += [item.nodeid] * (session.testsfailed > len(failed))
    record.with_suffix(".failed").write_text(", ".join(failed) or "the process has ended", "utf-8")
    coverage.stop()
    coverage.save()
    record.with_suffix(".json").write_text(json.dumps(taken), "utf-8")
    return not failed


def _pass(session: pytest.Session, items: list[pytest.Item], taken: dict[str, float], path: Path, text: str) -> bool:
    """Whether the tests pass while a module has another text; the first that fails is the last that runs.

    One that takes much more than the CPU seconds that it has `taken` without a mutant ends the process.
    """
    replace(path, text)
    for item, successor in zip(items, [*items[1:], None], strict=True):
        most = int(time.process_time() + _most(taken[item.nodeid]))
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=successor)
        if session.testsfailed:
            return False
    return True


def _pass_anew(path: Path, text: str, taken: dict[str, float], seconds: int) -> bool:
    """The same in a new process, which imports the module from the disk."""
    before, most = path.read_text("utf-8"), int(_most(sum(taken.values()))) + _LOADING
    compiled = Path(cache_from_source(str(path)))
    command = [sys.executable, "-m", "pytest", *PLAIN, *taken]
    try:
        path.write_text(text, "utf-8")
        compiled.unlink(missing_ok=True)  # of the same second, perhaps, and as long
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        limit, quiet = partial(resource.setrlimit, resource.RLIMIT_CPU, (most, most)), subprocess.DEVNULL
        done = subprocess.run(
            command, env=environment, stdout=quiet, stderr=quiet, preexec_fn=limit, timeout=seconds, check=False
        )
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(before, "utf-8")
        compiled.unlink(missing_ok=True)


_LOADING = 30
"""CPU seconds at most in which a process loads the tests."""


def _most(seconds: float) -> float:
    """CPU seconds that tests may take, which took `seconds` without a mutant; what they set up may count for another one."""
    return 3 * seconds + 6


def replace(path: Path, text: str) -> None:
    """Gives the functions that come from a file the code that they have in another text of it."""
    name = str(path.resolve())
    codes: dict[tuple[str, int], CodeType] = {}
    waiting = [compile(text, name, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        codes[code.co_qualname, code.co_firstlineno] = code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    gc.unfreeze()  # what starts up may have hidden all that it has loaded
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == name:
            code = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
            if code and len(code.co_freevars) == len(function.__code__.co_freevars):
                function.__code__ = code
