"""Where jobs are run: in this process, on all cores (loky), or on a cluster (Dask). One loop serves all three.

Knows executors of `concurrent.futures`; nothing of what a job is.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from moesim import interrupts
from moesim.errors import InputError, Mistake, MoesimError
from moesim.runs.fingerprint import physics
from moesim.runs.worker import Answer, run_packed

__all__ = ["Job", "cores", "outcomes"]

_AHEAD = 4
"""Jobs handed out per worker: enough that none waits for the next."""
_WAITING = 256
"""Jobs handed out to a cluster, whose size may change while it runs."""
_SUSPECT = 2
"""Deaths of workers, with the same job at hand, after which that job is run alone."""
_ANSWER = 5
"""Seconds in which a scheduler has to answer."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Failed = Callable[[BaseException], Any]


class Job(Protocol):
    """What can be run elsewhere: a frozen, picklable piece of work."""

    @property
    def name(self) -> str:
        """Tells it from others."""

    @property
    def base(self) -> Path:
        """Folder whose modules it may need."""

    @property
    def kinds(self) -> Sequence[type[Any]]:
        """Classes in it that may be defined in a session or beside a scenario."""

    def run(self) -> Any:
        """Does it; the answer can be pickled."""


J = TypeVar("J", bound=Job)


def cores() -> int:
    """Cores that this process may use, as cgroups and affinities allow."""
    from loky import cpu_count

    return int(cpu_count())


def outcomes(
    work: Sequence[J], *, jobs: int | None = None, dask: str | None = None, failed: Failed | None = None
) -> Generator[tuple[J, Any], None, None]:
    """Each job with its answer, as they get done. `jobs` processes of this machine (default: its cores), or the Dask cluster.

    A worker that dies takes no job with it: another one does it again. Where workers keep dying, and where an answer cannot
    be had for another reason that lies with one job, the answer is what `failed` makes of the error; without, it is raised.
    """
    processes = min(jobs if jobs is not None else cores(), len(work)) if dask is None else 0
    if dask is None and processes <= 1:
        for job in work:
            yield job, job.run()
        return
    waiting = deque(work)
    deaths: Counter[str] = Counter()
    while waiting:
        lost: list[J] = []
        with _cluster(dask) if dask is not None else _processes(processes) as executor:
            yield from _drained(executor, waiting, lost, _WAITING if dask is not None else _AHEAD * processes, failed)
        deaths.update(job.name for job in lost)
        for job in [job for job in lost if deaths[job.name] >= _SUSPECT]:
            lost.remove(job)
            yield job, _alone(job, failed)
        waiting.extendleft(reversed(lost))


def _drained(executor: Executor, waiting: deque[J], lost: list[J], most: int, failed: Failed | None) -> Iterator[tuple[J, Any]]:
    """Hands out jobs and gives answers back until all are done or the executor breaks; what it was at then is `lost`."""
    running: dict[Future[Any], J] = {}
    broken = False
    while (waiting and not broken) or running:
        while waiting and len(running) < most and not broken:
            job = waiting.popleft()
            try:
                running[_submitted(executor, job)] = job
            except BrokenExecutor:  # since the last answer
                waiting.appendleft(job)
                broken = True
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            job = running.pop(future)
            error = future.exception()
            if error is None:
                yield job, _heard(future.result())
            elif isinstance(error, BrokenExecutor):
                broken = True
                lost.append(job)
            elif isinstance(error, ImportError):
                raise MoesimError(f"a worker cannot import what it needs: {error}") from None
            elif isinstance(error, MoesimError) or failed is None:
                raise error
            else:  # the cluster has given it up
                yield job, failed(error)


def _submitted(executor: Executor, job: Job) -> Future[Any]:
    """Hands out a job. Processes that this starts do not hear Ctrl-C, which a terminal sends to all: their sweep ends them."""
    words = (_packed(job), str(job.base.resolve()), physics())
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return executor.submit(run_packed, *words)
    with interrupts.held():  # another thread may hear it for this one
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return executor.submit(run_packed, *words)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heard(answer: Answer) -> Any:
    """The answer; what the job warns of is passed on."""
    for text in answer.warnings:
        warnings.warn(text, stacklevel=1)
    return answer.answer


def _alone(job: Job, failed: Failed | None) -> Any:
    """The answer of a job in whose company workers died, from a worker of its own: dead once more, it has failed."""
    with _processes(1) as executor:
        try:
            return _heard(_submitted(executor, job).result())
        except BrokenExecutor as error:
            if failed is None:
                raise MoesimError(f"the worker of {job.name} died; the system may have run out of memory") from None
            return failed(error)


def _packed(job: Job) -> bytes:
    """The job as bytes; classes of modules that are not installed travel by value."""
    import cloudpickle

    known = cloudpickle.list_registry_pickle_by_value()
    foreign = {kind.__module__ for kind in job.kinds if not _installed(kind.__module__)} - known
    modules = [sys.modules[name] for name in sorted(foreign)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:  # a class of a session may hold anything
        raise MoesimError(f"{job.name} cannot be sent to another process ({error}); run with --jobs 1") from None
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _installed(name: str) -> bool:
    """Whether another process finds a module as this one does; sessions and files beside a scenario are not to be found."""
    if name.split(".")[0] in ("moesim", "builtins", "__main__"):  # cloudpickle sends what is in __main__ by value
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    return file is None or any(Path(file).is_relative_to(folder) for folder in folders)


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """Processes of this machine, with one thread of linear algebra each; they end with this one, however it ends."""
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(
        max_workers=jobs, env=dict.fromkeys(_THREADS, "1"), initializer=_outlive_nobody, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _outlive_nobody(parent: int) -> None:
    """Ends this worker as soon as its sweep is gone: after a `kill -9` no other signal reaches it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler that is already running."""
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise InputError(Mistake("needs Dask; install it with: pip install 'moesim[dask]'", file="--dask")) from None
    try:
        client = distributed.Client(address, timeout=_ANSWER, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        message = f"no Dask scheduler answers at {address} ({error or type(error).__name__})"
        raise InputError(Mistake(message, file="--dask")) from None
    with client:
        yield client.get_executor(pure=False)
