"""Owns the draw of a whole job by a law: from what an earlier run has kept, compiled on all cores, or with numpy.

Knows laws by their slot; nothing of models, profiles or files of users. All three ways give the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim import jit
from moesim.progress import Progress
from moesim.streams import Streams
from moesim.workload.draws import kept, kernel
from moesim.workload.draws.blocks import BLOCK, Ledger
from moesim.workload.draws.laws import Law, StickyLaw
from moesim.workload.draws.on_demand import DecodeDraws, PrefillDraws, PromptDraws, RequestDraws
from moesim.workload.table import Job, id_type

__all__ = ["Drawn", "draw_job", "draw_prompts", "draw_table", "draw_with", "joined", "walk"]

_MOST_PROMPTS = 1 << 28
"""Bytes of expert ids of prompts from which on they are drawn when they are asked for."""
_MOST_TABLE = 1 << 29
"""Bytes of a table from which on requests are drawn when they are asked for, and nothing is kept for later runs."""
_KEEP = 200_000
"""Draws from which on it is sooner read than drawn again."""
_EACH, _STEP, _COMPILING = 80e-9, 4e-4, 2.0
"""Seconds that numpy takes for a draw and, beside its draws, for a step of a block, and that compiling takes."""


class Drawn(NamedTuple):
    """What a law has drawn for a job."""

    prefill: NDArray[np.uint32]
    """[R, L, E] tokens of each prompt by expert."""
    decode: NDArray[np.unsignedinteger[Any]]
    """[R, G, L, k] ids; rows from output - 1 on are zero."""


def draw_job(job: Job, law: Law, streams: Streams, stream: str, progress: Progress | None = None) -> Drawn:
    """What `law` draws for `job`; `stream` names the generators, whose part b is that of requests 64 b to 64 b + 63."""
    draws = int((job.prompt + job.output - 1).sum()) * law.layers * law.top_k
    place = kept.place(law.parts(), (streams.seed, streams.replicate, stream), job)
    if place is not None and draws < _KEEP:
        return _remembered(place, lambda: _drawn(job, law, streams, stream, progress))
    arrays = None if place is None else kept.read(place)
    return Drawn(*arrays) if arrays is not None else _drawn(job, law, streams, stream, progress, place)


def _remembered(place: Path, draw: Callable[[], Drawn]) -> Drawn:
    """What `draw` gives, not to be written to: what this process drew last for the same `place`, if that is not long ago."""
    drawn = _latest.pop(place, None) or draw()
    for array in drawn:
        array.flags.writeable = False
    if sum(array.nbytes for array in drawn) <= _LARGEST:
        _latest[place] = drawn
    if len(_latest) > _REMEMBERED:
        del _latest[next(iter(_latest))]
    return drawn


_LARGEST, _REMEMBERED = 2 * 2**20, 16
"""Most bytes of a short draw that is remembered, and most such draws: comparisons and tests draw the same again and again."""
_latest: dict[Path, Drawn] = {}


def _drawn(job: Job, law: Law, streams: Streams, stream: str, progress: Progress | None, path: Path | None = None) -> Drawn:
    """`draw_job` without looking for what has been drawn before; kept at `path` where that is possible."""
    draws = int((job.prompt + job.output - 1).sum()) * law.layers * law.top_k
    functions = jit.native(kernel) if jit.repaid(kernel, draws * _EACH + _steps(job, law) * _STEP, _COMPILING) else None

    def blocks() -> Iterator[Drawn]:
        if functions is None:
            return walk(job, law, streams, stream, progress)
        return draw_with(functions, job, law, streams, stream, progress)

    if path is not None and kept.write(path, [(array.dtype, array.shape) for array in _empty(job, law)], blocks):
        arrays = kept.read(path)
        if arrays is not None:
            return Drawn(*arrays)
    return joined(job, law, blocks())


def joined(job: Job, law: Law, blocks: Iterable[Drawn]) -> Drawn:
    """The draws of a whole job, which come block by block."""
    whole, first = _empty(job, law), 0
    for block in blocks:
        last = first + len(block.prefill)
        whole.prefill[first:last], whole.decode[first:last] = block
        first = last
    return whole


def _steps(job: Job, law: Law) -> int:
    """Steps that numpy takes one after another: tokens of the longest request of each block, where a law draws them in turn."""
    total = job.prompt + job.output - 1
    return int(np.maximum.reduceat(total, np.arange(0, job.requests, BLOCK)).sum()) if isinstance(law, StickyLaw) else 0


def draw_table(job: Job, law: Law, streams: Streams, stream: str, progress: Progress | None = None) -> tuple[Any, Any, Any]:
    """The fields `prefill`, `decode` and `prompts` of the routing table of `job`: arrays, or what draws them on demand.

    A table has room for as many decode passes in each request as the longest makes; a long trace would take tens of GB.
    """
    nbytes = law.layers * (law.experts * np.uint32().nbytes + job.passes * law.top_k * id_type(law.experts)().nbytes)
    if job.requests * nbytes > _MOST_TABLE:
        draws = RequestDraws(job, law, streams, stream)
        return PrefillDraws(draws), DecodeDraws(draws), partial(PromptDraws, draws)
    return *draw_job(job, law, streams, stream, progress), partial(draw_prompts, job, law, streams, stream)


def draw_prompts(job: Job, law: Law, streams: Streams, stream: str) -> Any:
    """[R, P, L, k] the experts of every prompt token that `draw_job` counts; rows past a prompt are zero.

    A token's experts depend on its place in the sequence and not on where the prompt ends: so these are the first tokens of
    the same sequences, drawn as if all were decoded. Where they are too many to hold, they are drawn when they are asked for.
    """
    if job.requests * int(job.prompt.max()) * law.layers * law.top_k * id_type(law.experts)().nbytes > _MOST_PROMPTS:
        return PromptDraws(RequestDraws(job, law, streams, stream))
    decoded = replace(job, prompt=np.zeros_like(job.prompt), output=job.prompt + 1)
    return draw_job(decoded, law, streams, stream).decode


def walk(job: Job, law: Law, streams: Streams, stream: str, progress: Progress | None = None) -> Iterator[Drawn]:
    """`draw_job` block by block, with numpy."""
    total = job.prompt + job.output - 1
    done, everything = 0, int(total.sum())
    for block, first in enumerate(range(0, job.requests, BLOCK)):
        part = slice(first, min(first + BLOCK, job.requests))
        order = np.argsort(-total[part], kind="stable")
        ledger = Ledger(job.prompt[part][order], job.output[part][order], law.layers, law.experts, law.top_k, job.passes)
        if progress is not None:
            ledger.tick = _tick(progress, done, int(total[part].sum()), everything)
        drawn = _empty(job, law, len(order))
        drawn.prefill[order], drawn.decode[order] = law.walk(streams.spawn(stream, block), order, ledger, first)
        done += int(total[part].sum())
        if progress is not None:
            progress(done, everything)
        yield drawn


def draw_with(
    functions: Any, job: Job, law: Law, streams: Streams, stream: str, progress: Progress | None = None
) -> Iterator[Drawn]:
    """`draw_job` block by block, by the `functions` of `kernel`, its requests in as many threads as there are cores."""
    total = job.prompt + job.output - 1
    done, everything = 0, int(total.sum())
    with ThreadPoolExecutor(jit.threads()) as pool:
        for block, first in enumerate(range(0, job.requests, BLOCK)):
            numbers = range(first, min(first + BLOCK, job.requests))
            draw, drawn = law.compiled(functions, streams.spawn(stream, block), first), _empty(job, law, len(numbers))

            def request(number: int, draw: Callable[..., None] = draw, drawn: Drawn = drawn, first: int = first) -> int:
                place, passes = number - first, int(job.output[number]) - 1
                draw(place, int(job.prompt[number]), drawn.prefill[place], drawn.decode[place, :passes])
                return number

            for number in pool.map(request, numbers):
                done += int(total[number])
                if progress is not None:
                    progress(done, everything)
            yield drawn


def _empty(job: Job, law: Law, requests: int | None = None) -> Drawn:
    """Room for what is drawn for so many requests, or for all."""
    number = job.requests if requests is None else requests
    prefill = np.zeros((number, law.layers, law.experts), dtype=np.uint32)
    return Drawn(prefill, np.zeros((number, job.passes, law.layers, law.top_k), dtype=id_type(law.experts)))


def _tick(progress: Progress, done: int, block: int, everything: int) -> Progress:
    return lambda step, steps: progress(done + block * step // steps, everything)
