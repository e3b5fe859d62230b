"""A command in a process of its own that is forked, not started: for tests in which the process is not the point.

It has all modules of the tests imported already and takes a hundredth of the time. Whatever depends on how an interpreter
starts (encodings, what is imported when, pools of processes) needs `python -m moesim` itself. Linux only.
"""

from __future__ import annotations

import codecs
import importlib
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess

import moesim as moesim_package
from moesim import cli


def started(*words: str, cwd: Path, log: Path | None = None, session: bool = False, **environment: str) -> int:
    """The id of a process that runs `moesim words` in `cwd`; the caller waits for it.

    Its output goes to `log`, or nowhere. In a `session` of its own it leads a group that can be signalled as a terminal does.
    """
    child = _fork()
    if child == 0:
        target = os.open(log or os.devnull, os.O_RDWR | os.O_CREAT)
        if session:
            os.setsid()
        _command(list(words), cwd, environment, target, target)
    return child


def moesim(*words: str, cwd: Path, stdout: int | None = None, **environment: str) -> CompletedProcess[str]:
    """Exit status, standard output and standard error of `moesim words` run in `cwd`; `stdout`: where the former goes instead.

    PYTHONIOENCODING is followed as an interpreter does that starts.
    """
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as errors:
        child = _fork()
        if child == 0:
            _command(list(words), cwd, environment, out.fileno() if stdout is None else stdout, errors.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode(environment.get("PYTHONIOENCODING", "utf-8"), "surrogateescape"))
    return CompletedProcess(list(words), os.waitstatus_to_exitcode(status), *texts)


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """In place of a pool whose processes start anew: for tests in which several are asked and their start is not the point."""
    _ready()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
            yield pool


def ended(child: int) -> bool:
    """Whether a process has ended, for whose status the caller still has to wait."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def status(child: int) -> int:
    """The exit status of a process once it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@cache
def _ready() -> None:
    """Imports here, once, what each child would import for itself, and loads machine code and the parts of a scenario."""
    for name in ("moesim.experiment.sweep", "moesim.report.page", "matplotlib.backends.backend_svg", "matplotlib.figure"):
        importlib.import_module(name)
    moesim_package.run("quickstart", **{"workload.requests": 1, "workload.prompt": 2, "workload.output": 1})


def _fork() -> int:
    _ready()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child calls nothing that they may hold
        return os.fork()


def _usual_warnings() -> None:
    """Shows the warnings that an interpreter shows that starts: not, for one, that a signal came between `open` and `with`."""
    warnings.resetwarnings()
    for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)


def _command(words: list[str], cwd: Path, environment: dict[str, str], out: int, errors: int) -> None:
    """In the child, which ends here."""
    end = 70
    try:
        os.chdir(cwd)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run deaf to Ctrl-C, in a shell's background
        _usual_warnings()
        logging.root.handlers.clear()
        encoding = codecs.lookup(environment.get("PYTHONIOENCODING", "utf-8")).name
        sys.stdout, sys.stderr = (os.fdopen(os.dup(file), "w", encoding=encoding) for file in (out, errors))
        end = cli.main(words)
    except SystemExit as error:
        end = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as the interpreter reports it
        sys.excepthook(*sys.exc_info())
        end = 1
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            end = 120  # as the interpreter ends where the last words cannot be written
        os._exit(end)
