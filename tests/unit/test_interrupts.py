"""Ctrl-C while modules load, while a process starts, and on its way through libraries: a command ends with one plain line."""

from __future__ import annotations

import _thread
import importlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesim import interrupts
from tests.unit.test_terminal import SMALL, environment

WAIT = 120.0
"""Seconds after which an interrupt that does not come counts as lost: far more than it takes."""
posix = pytest.mark.skipif(sys.platform != "linux", reason="POSIX signals")


@pytest.fixture(autouse=True)
def _usual_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a terminal starts a command, whatever the tests themselves were started with; and only ends are awaited."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(interrupts, "_PATIENCE", WAIT)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _until_interrupted() -> None:
    last = time.monotonic() + WAIT
    while time.monotonic() < last:
        time.sleep(0.001)
    raise AssertionError("the interrupt never came")


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_a_module_is_loaded(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupted_while_loading.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(number)})\ntime.sleep(0.05)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "interrupted_while_loading", raising=False)
    loaded = []

    @interrupts.raised()
    def command() -> None:
        loaded.append(importlib.import_module("interrupted_while_loading").WHOLE)
        _until_interrupted()

    with pytest.raises(KeyboardInterrupt):
        command()
    assert loaded == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupt_waits_for_a_block_that_cannot_bear_it() -> None:
    done = []

    @interrupts.raised()
    def command() -> None:
        with interrupts.held():
            _thread.interrupt_main(signal.SIGINT)
            time.sleep(0.05)
            done.append("block")
        _until_interrupted()

    with pytest.raises(KeyboardInterrupt):
        command()
    assert done == ["block"]


def test_a_module_that_never_ends_loading_is_interrupted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_PATIENCE", 0.0)

    @interrupts.raised()
    @interrupts.held()
    def command() -> None:
        _thread.interrupt_main(signal.SIGINT)
        _until_interrupted()

    with pytest.raises(KeyboardInterrupt):
        command()


def test_an_interrupt_that_a_library_calls_another_error_stays_an_interrupt() -> None:
    def library() -> None:
        try:
            _thread.interrupt_main(signal.SIGINT)
            _until_interrupted()
        except KeyboardInterrupt:
            raise ValueError("cannot be built") from None

    with pytest.raises(KeyboardInterrupt), interrupts.raised():
        library()
    with pytest.raises(ValueError, match="of its own"), interrupts.raised():
        raise ValueError("of its own")


def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.raised():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


STARTED = """
import runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["moesim", *{words!r}]
runpy.run_module("moesim", run_name="__main__")
"""
FORKED = """
import _thread, runpy, signal, sys
import loky.backend.fork_exec as backend
import loky.backend.popen_loky_posix as processes

def interrupted(*arguments, **named):
    child = start(*arguments, **named)
    _thread.interrupt_main(signal.SIGINT)
    return child

start = backend.fork_exec
backend.fork_exec = processes.fork_exec = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["moesim", *{words!r}]
runpy.run_module("moesim", run_name="__main__")
"""
SWEEP = """\
name: short
scenario: {extends: quickstart, workload: {requests: 1, prompt: 8, output: 2}}
replications: 4
bound: false
"""
COMMANDS = (["run", "quickstart"], ["compare", "quickstart", "--policies", "lru,on_demand", *SMALL], ["sweep", "short.yaml"])


def _ended(program: str, place: Path) -> tuple[int, str, str]:
    (place / "short.yaml").write_text(SWEEP)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env=environment(), capture_output=True, text=True, check=False, timeout=WAIT
    )
    return done.returncode, done.stdout, done.stderr


@posix
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("module", ["moesim.cli", "numpy.linalg", "pydantic._internal._model_construction"])
def test_a_command_that_is_interrupted_while_modules_load_says_so_in_one_line(
    module: str, words: list[str], tmp_path: Path
) -> None:
    ending = _ended(STARTED.format(module=module, words=[*words, "--out", "out"]), tmp_path)
    assert ending == (130, "", "interrupted; nothing was written\n")
    assert not (tmp_path / "out").exists()


@posix
@pytest.mark.parametrize("words", COMMANDS[1:], ids=lambda words: words[0])
def test_a_command_that_is_interrupted_while_a_worker_starts_says_so_in_one_line(words: list[str], tmp_path: Path) -> None:
    status, out, errors = _ended(FORKED.format(words=[*words, "--out", "out", "--jobs", "2"]), tmp_path)
    assert (status, out) == (130, "")
    lines = [line for line in errors.splitlines() if not line.startswith("compiling ")]
    assert [line.partition(";")[0] for line in lines] == ["interrupted"]
