"""A command in a process of its own that is forked, not started: for tests in which the process is not the point.

It has all modules of the tests imported already and takes a hundredth of the time. Whatever depends on how an interpreter
starts (encodings, what is imported when, pools of processes) needs `python -m moesim` itself. Linux only.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from subprocess import CompletedProcess

from moesim import cli


def started(*words: str, cwd: Path, **environment: str) -> int:
    """The id of a process that runs `moesim words` in `cwd`, whose output goes nowhere; the caller waits for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        _command(list(words), cwd, environment, nowhere, nowhere)
    return child


def moesim(*words: str, cwd: Path, **environment: str) -> CompletedProcess[str]:
    """Exit status, standard output and standard error of `moesim words` run in `cwd`."""
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as errors:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child calls nothing that they may hold
            child = os.fork()
        if child == 0:
            _command(list(words), cwd, environment, out.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "surrogateescape"))
    return CompletedProcess(list(words), os.waitstatus_to_exitcode(status), *texts)


def _command(words: list[str], cwd: Path, environment: dict[str, str], out: int, errors: int) -> None:
    """In the child, which ends here."""
    status = 70
    try:
        os.chdir(cwd)
        os.environ.update(environment)
        warnings.resetwarnings()
        logging.root.handlers.clear()
        sys.stdout, sys.stderr = (os.fdopen(os.dup(file), "w", encoding="utf-8") for file in (out, errors))
        status = cli.main(words)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as the interpreter reports it
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
