"""Owns the process of a command: what it says, where that goes if there is no reader, how the command ends (its exit status,
whatever happens), and when Python begins to look for garbage.

Knows streams; not commands.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from moesim import interrupts
from moesim.errors import InputError, Mistake, MoesimError
from moesim.neutral import line, printable

__all__ = ["Formatter", "Parser", "complain", "finished", "plain_warnings", "say", "say_json", "spare_start_up"]

INPUT, STOPPED, UNREAD = 2, 130, 141
"""Exit statuses: wrong input; interrupted; the reader has gone (128 + SIGPIPE, as a shell reports of other programs)."""
_OUT = "standard output"
_START_UP = 200_000
"""More objects than loading modules and a scenario makes. Nearly all of them stay: looking through them every 700 objects, as
Python does, takes a tenth of a short run."""


class _UnreadError(Exception):
    """The reader of standard output has stopped."""


class Formatter(logging.Formatter):
    """Log lines without control codes, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one harmless line."""
        return line(super().format(record))


class Parser(argparse.ArgumentParser):
    """A parser whose help goes where all output goes: argparse itself swallows what a full disk or a closed pipe says."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is sys.stdout:
            say(message.removesuffix("\n"))
        else:
            super()._print_message(printable(message), file)


def say(text: str) -> None:
    """Puts text on standard output, at once.

    InputError where that is closed, full or cannot be written to; also, once all is said, where its encoding lacks
    characters, which then stand there as `\\uXXXX`.
    """
    stream = sys.stdout
    if stream is None:
        raise InputError(Mistake("is closed", file=_OUT))
    shown, missing = _encodable(printable(text), stream)
    try:
        stream.write(f"{shown}\n")
        stream.flush()
    except BrokenPipeError:
        raise _UnreadError from None
    except OSError as error:
        _abandon(stream)
        raise InputError(Mistake(f"cannot be written: {error.strerror or error}", file=_OUT)) from None
    if missing:
        message = f"is {stream.encoding} and lacks '{missing}' and maybe more, shown as \\uXXXX; set PYTHONIOENCODING=utf-8"
        raise InputError(Mistake(message, file=_OUT))


def say_json(document: Any) -> None:
    """Puts one JSON document on standard output: in ASCII, which loses nothing, where its encoding is not that of JSON."""
    plain = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") != "utf8"
    say(json.dumps(document, indent=2, ensure_ascii=plain))


def complain(text: str) -> None:
    """Puts one line on standard error, where there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{line(text)}\n")
            sys.stderr.flush()


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """While the block runs, a warning is one line on standard error, once, without the line of our code that raised it."""
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in printed:
            printed.add(text)
            complain(f"note: {text}")

    with warnings.catch_warnings():
        # loky starts a process anew that has grown; the run goes on as if nothing had happened
        warnings.filterwarnings("ignore", message="A worker was restarted while some jobs")
        warnings.showwarning = show
        yield


def finished(command: Callable[[], int]) -> int:
    """Runs a command to its exit status. Whatever ends it early is reported in one line for each mistake.

    SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it holds is put away.
    """
    try:
        with interrupts.raised():
            return command()
    except InputError as error:
        for mistake in error.mistakes:
            complain(str(mistake))
    except MoesimError as error:
        complain(f"{type(error).__name__}: {error}")
    except OSError as error:
        complain(f"{error.filename}: cannot be written: {error.strerror}" if error.filename else str(error))
    except _UnreadError:
        _abandon(sys.stdout)
        return UNREAD
    except KeyboardInterrupt as stop:
        complain(f"interrupted; {stop.args[0] if stop.args else 'nothing was written'}")
        return STOPPED
    return INPUT


def _encodable(text: str, stream: Any) -> tuple[str, str]:
    """The text as the stream can take it, and the first character that it lacks."""
    encoding, errors = getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", None) or "strict"
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError as error:
        return text.encode(encoding, "backslashreplace").decode(encoding), ascii(text[error.start])[1:-1]
    return text, ""


def _abandon(stream: Any) -> None:
    """Sends what is left in the stream's buffer nowhere: Python would try once more when it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def spare_start_up() -> None:
    """Puts the first search for garbage off until start-up is over; from then on Python searches as usual, and not in what
    start-up has made. At the end of the process, which frees everything, it does not search at all."""
    usual = gc.get_threshold()

    def searched(phase: str, _generation: dict[str, Any]) -> None:
        if phase == "stop":
            gc.callbacks.remove(searched)
            gc.set_threshold(*usual)
            gc.freeze()

    gc.callbacks.append(searched)
    gc.set_threshold(_START_UP)
    atexit.register(gc.freeze)
