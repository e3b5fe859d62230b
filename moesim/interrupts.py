"""Owns how Ctrl-C, SIGTERM and SIGHUP reach a command: as KeyboardInterrupt, but never in the middle of what cannot bear it.

Modules cannot: half loaded, some swallow it, and numpy calls it an ImportError. Nor can a process that is being started, which
is then left without its orders. The interrupt waits until they are done; so it does until a command says how it ends.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["held", "listen", "raised"]

_SOON = 0.01
"""Seconds after which it is tried again."""
_PATIENCE = 2.0
"""Seconds after which it is raised all the same: a module of a user may load for ever."""
_IMPORT = "<frozen importlib._bootstrap>"


class _Awaited:
    """What an interrupt has to wait for, of which a process has one."""

    raised = False
    """Whether a command says how it ends."""
    held = 0
    """Blocks at work that cannot bear it."""
    since: float | None = None
    """When the interrupt came that waits."""
    came = False
    """Whether it was raised since a command began."""


def listen() -> dict[int, Any]:
    """From now on the process is interrupted as the module says; signals that it ignores or handles otherwise stay as they are.

    Returns what handled those that changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):  # Windows lacks it
        usual[signal.SIGHUP] = signal.SIG_DFL
    return {number: signal.signal(number, _stop) for number, handler in usual.items() if signal.getsignal(number) is handler}


@contextmanager
def raised() -> Iterator[None]:
    """While the block runs, which says how the command ends, interrupts are raised, and leave it as KeyboardInterrupt.

    Some libraries make another error of it on the way (pydantic a SchemaError).
    """
    handlers, before, _Awaited.raised = listen(), _Awaited.raised, True
    _Awaited.came = _Awaited.came and before
    try:
        yield
    except Exception:
        if _Awaited.came:
            raise KeyboardInterrupt from None
        raise
    finally:
        _Awaited.raised = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """While the block runs, which has to be short, interrupts wait."""
    _Awaited.held += 1
    try:
        yield
    finally:
        _Awaited.held -= 1


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    since = _Awaited.since = now if _Awaited.since is None else _Awaited.since
    if now - since < _PATIENCE and (_Awaited.held or not _Awaited.raised or _loading(frame)):
        _thread.start_new_thread(_again, (number,))
        return
    _Awaited.since, _Awaited.came = None, True
    raise KeyboardInterrupt


def _again(number: int) -> None:
    time.sleep(_SOON)
    _thread.interrupt_main(signal.Signals(number))


def _loading(frame: FrameType | None) -> bool:
    """Whether a module is being loaded where the signal was heard."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
