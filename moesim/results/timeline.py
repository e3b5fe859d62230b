"""The timeline of a run as a Chrome trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

Knows slices only: tracks, names, integer picoseconds, bytes. Beside the lanes it writes counters: what every tier holds, the
hit rate of each pass, and the bytes that every link has moved, by cause.

Source: Trace Event Format (Google document "Trace Event Format", sections "Complete Events", "Counter Events" and
"Metadata Events"). Valid: `ts` and `dur` are microseconds; a viewer shows whole nanoseconds.
"""

from __future__ import annotations

import gzip
import heapq
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.errors import InputError
from moesim.results.recorder import COUNTER, Slice
from moesim.writing import write

if TYPE_CHECKING:
    from moesim.results.result import Result

__all__ = ["rank", "subtracks", "trace", "write_trace"]

_MICROSECOND = 10**6


def rank(track: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Sort key of a track: passes, GPU, CPU, near-data units, other devices, then links; numbers in names by value."""
    heads = ("pass", "step", "layer", "gpu", "cpu", "ndp")
    place = next((index for index, head in enumerate(heads) if track.startswith(head)), len(heads))
    if ":" in track:
        place = len(heads) + 1
    pieces = re.split(r"(\d+)", track)
    return place, [(1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces]


def subtracks(slices: Iterable[Slice]) -> dict[str, list[Slice]]:
    """Track -> its slices in order of time, no two at once: what would overlap goes to `track #2`, `track #3`, ...

    Each slice takes the first of its track's rows that is free, so the first row is the fullest.
    """
    by_track: dict[str, list[Slice]] = {}
    for item in slices:
        by_track.setdefault(item.track, []).append(item)
    rows: dict[str, list[Slice]] = {}
    for track in sorted(by_track, key=rank):
        for number, row in enumerate(_rows(by_track[track]), 1):
            rows[track if number == 1 else f"{track} #{number}"] = row
    return rows


def _rows(slices: list[Slice]) -> list[list[Slice]]:
    rows: list[list[Slice]] = []
    free: list[int] = []
    ends: list[tuple[int, int]] = []
    for item in sorted(slices, key=lambda piece: (piece.start, piece.end)):
        while ends and ends[0][0] <= item.start:
            heapq.heappush(free, heapq.heappop(ends)[1])
        if free:
            index = heapq.heappop(free)
        else:
            index = len(rows)
            rows.append([])
        rows[index].append(item)
        heapq.heappush(ends, (item.end, index))
    return rows


def trace(slices: Sequence[Slice], name: str) -> bytes:
    """The gzipped trace of `slices` as one process called `name`; equal slices give equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as file:
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        file.write(",\n".join(_events(slices, name)).encode())
        file.write(b"\n]}\n")
    return buffer.getvalue()


def write_trace(result: Result, path: str | Path) -> Path:
    """Writes the timeline of `result` to `path` (a `.json.gz`); InputError where the run kept no slices."""
    if not result.slices:
        raise InputError("the run kept no timeline; run it with a trace to see who worked when")
    return write(path, trace(result.slices, f"moesim {result.summary['policy']}"))


def _events(slices: Sequence[Slice], name: str) -> Iterator[str]:
    """Events as JSON text. They are put together by hand: through dicts and `json.dumps` it takes several times as long."""
    yield _metadata("process_name", 0, {"name": name})
    rows = subtracks(item for item in slices if not item.track.startswith(COUNTER))
    for thread, (track, row) in enumerate(rows.items(), 1):
        yield _metadata("thread_name", thread, {"name": track})
        yield _metadata("thread_sort_index", thread, {"sort_index": thread})
        end = f'"pid":1,"tid":{thread}'
        for item in row:
            yield (
                f'{{"ph":"X","name":{json.dumps(item.name)},"ts":{_microseconds(item.start)},'
                f'"dur":{_microseconds(item.end - item.start)},{end}{_arguments(item)}}}'
            )
    for track in sorted({item.track for item in slices if item.track.startswith(COUNTER)}):
        yield from _level(track.removeprefix(COUNTER), [item for item in slices if item.track == track])
    for track in sorted({item.track for item in slices if ":" in item.track and not item.track.startswith(COUNTER)}, key=rank):
        yield from _moved(track, [item for item in slices if item.track == track])


def _metadata(kind: str, thread: int, arguments: dict[str, str | int]) -> str:
    return f'{{"ph":"M","name":"{kind}","pid":1,"tid":{thread},"args":{json.dumps(arguments)}}}'


def _microseconds(picoseconds: int) -> str:
    """Exact decimal text: a float would lose picoseconds after some hours of simulated time."""
    whole, rest = divmod(picoseconds, _MICROSECOND)
    return f"{whole}.{rest:06d}" if rest else str(whole)


def _arguments(item: Slice) -> str:
    parts = []
    if item.amount:
        parts.append(f'"bytes":{item.amount!r}')
    if item.cause:
        parts.append(f'"cause":{json.dumps(item.cause)}')
    return f',"args":{{{",".join(parts)}}}' if parts else ""


def _level(name: str, slices: list[Slice]) -> Iterator[str]:
    """Steps of an amount: it holds from the start of a slice to the start of the next."""
    key = "bytes" if name.startswith("bytes") else "share"
    for item in sorted(slices, key=lambda item: item.start):
        yield _counter(name, item.start, {key: item.amount})


def _moved(track: str, slices: list[Slice]) -> Iterator[str]:
    """Bytes that a link has moved so far, by cause: they count when their transfer ends, and start from nothing."""
    moves = sorted((item for item in slices if item.amount and item.cause), key=lambda item: item.end)
    sums = dict.fromkeys(sorted({item.cause for item in moves}), 0.0)
    if moves:
        yield _counter(f"bytes over {track}", min(item.start for item in moves), sums)
    for item in moves:
        sums[item.cause] += item.amount
        yield _counter(f"bytes over {track}", item.end, sums)


def _counter(name: str, time: int, values: Mapping[str, float]) -> str:
    amounts = ",".join(f"{json.dumps(key)}:{float(value)!r}" for key, value in values.items())
    return f'{{"ph":"C","name":{json.dumps(name)},"ts":{_microseconds(time)},"pid":1,"args":{{{amounts}}}}}'
