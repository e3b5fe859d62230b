"""Owns a second Python process under another hash seed, in which a policy is run again.

Knows how to send a policy and worlds there and how to get traces back; judges nothing.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from moesim.contract import Policy
from moesim.testing.bench import NotApplicable
from moesim.testing.compare import Trace, trace
from moesim.testing.watched import run_world
from moesim.testing.worlds import World

__all__ = ["OtherProcess"]

_HASH_SEED = "4242"
_PROGRAM = "from moesim.testing import elsewhere; elsewhere.serve()"


class OtherProcess:
    """A context manager; the process starts when it is first asked and ends with the context."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def traces(self, policy: Policy, worlds: Sequence[World]) -> dict[str, Trace]:
        """World -> trace of the policy's run there. NotApplicable if the policy can't be sent or is not known there."""
        try:
            packed = pickle.dumps((policy, list(worlds)))
        except Exception as error:
            raise NotApplicable(f"the policy can't be sent to another process: {error}") from None
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        pickle.dump((sys.path, packed), child.stdin)
        child.stdin.flush()
        answer = pickle.load(child.stdout)
        if isinstance(answer, str):
            raise NotApplicable(f"its class can't be imported in another process: {answer}")
        answers: dict[str, Trace] = answer
        return answers

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            # another seed than ours, whichever ours is
            seed = _HASH_SEED if os.environ.get("PYTHONHASHSEED") != _HASH_SEED else "4243"
            path = os.pathsep.join(entry for entry in sys.path if entry)
            environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
            pipe = subprocess.PIPE
            self._child = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdin=pipe, stdout=pipe, env=environment)
        return self._child


def serve() -> None:
    """What the other process does: it answers until nothing more is asked."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # a policy that prints must not garble the answers
    while True:
        try:
            path, packed = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_answer(path, packed), answers)
        answers.flush()


def _answer(path: list[str], packed: bytes) -> dict[str, Trace] | str:
    sys.path[:] = path
    try:
        loaded: Any = pickle.loads(packed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    policy, worlds = loaded
    return {world.name: trace(run_world(world, policy)) for world in worlds}
