"""What a process does with a job that was sent to it, and what it keeps between two of them.

Runs in the sweep's own process, in a worker process, or on another machine; must not know which.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from moesim.errors import MoesimError
from moesim.runs.fingerprint import physics
from moesim.scenario.scenario import LoadedScenario

__all__ = ["Answer", "built", "run_packed"]

_KEPT = 2
_built: OrderedDict[str, Any] = OrderedDict()
"""Requests and routing of the last builds: the next run often has the same."""
_lock = threading.Lock()


def built(loaded_scenario: LoadedScenario, key: str) -> LoadedScenario:
    """The scenario with its requests and routing, which all runs of one `key` in this process share."""
    if loaded_scenario.job_and_table is None:
        object.__setattr__(loaded_scenario, "job_and_table", _built.get(key))
    job = loaded_scenario.build()
    with _lock:  # a Dask worker does several jobs at once, in threads
        _built[key] = job
        _built.move_to_end(key)
        while len(_built) > _KEPT:
            _built.popitem(last=False)
    return loaded_scenario


class Answer(NamedTuple):
    """What a job that travelled answers, and what it warns of, which its own process cannot print."""

    answer: Any
    warnings: tuple[str, ...] = ()


def run_packed(packed: bytes, folder: str, code: str) -> Answer:
    """Runs a job that travelled; modules in the scenario's `folder` can be imported where there is such a folder.

    Raises MoesimError where the moesim of this worker is another one than the sender's.
    """
    if code != physics():
        raise MoesimError("this worker runs another version of moesim than the sweep; install the same one everywhere")
    import cloudpickle

    if folder not in sys.path and Path(folder).is_dir():
        sys.path.append(folder)
    job = cloudpickle.loads(packed)
    if threading.current_thread() is not threading.main_thread():  # several jobs of a Dask worker share its warnings
        return Answer(job.run())
    with warnings.catch_warnings(record=True) as caught:
        answer = job.run()
    return Answer(answer, tuple(dict.fromkeys(str(warning.message) for warning in caught)))
