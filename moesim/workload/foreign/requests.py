"""Recorded requests of other tools as a CSV with `arrival_s, prompt_tokens, output_tokens`.

Knows Azure's, Mooncake's and Dynamo's traces.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Hashable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from moesim.errors import excerpt
from moesim.workload.foreign.imported import Imported
from moesim.workload.foreign.lines import Lines
from moesim.workload.requests.arrival_trace import PREFIX_ROW, PREFIX_TOKENS

__all__ = ["azure", "dynamo", "mooncake", "requests_of"]

MOONCAKE_BLOCK = 512
"""Tokens of a block of Mooncake's traces. Source: R. Qin et al., Mooncake, FAST 2025, description of the open traces."""
_USE = "times and lengths are read by a workload of `kind: online` with `arrivals: {kind: trace, path: ...}`"
_EPOCH = datetime(2020, 1, 1)
_LATEST_MS = 1e15
"""Beyond it lies no time of a server: 31,700 years, in milliseconds."""
_TIME = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(?P<part>\d{1,9}))?(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?\Z", re.ASCII
)


def azure(path: Path) -> tuple[bytes, Imported]:
    """Azure LLM inference trace: TIMESTAMP, ContextTokens, GeneratedTokens.

    Times of 2023 have seven digits of a second, those of 2024 up to six and an offset from UTC. Source: P. Patel et al.,
    Splitwise, ISCA 2024; Azure/AzurePublicDataset.
    """
    lines, rows = Lines(path), []
    offsets: set[bool] = set()
    for number, row in lines.table(("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        text = row.get("TIMESTAMP", "").strip()
        try:
            time, has_offset = _seconds(text)
        except ValueError:
            shown = excerpt(text)
            lines.wrong(f"TIMESTAMP '{shown}' is not a time such as 2023-11-16 18:17:03.9799600", number, "TIMESTAMP")
            continue
        offsets.add(has_offset)
        if len(offsets) > 1:
            lines.wrong("some times have an offset from UTC and others have none", number)
        tokens = [lines.count(row.get(name, ""), name, number, 1) for name in ("ContextTokens", "GeneratedTokens")]
        rows.append((time, *tokens))
    return requests_of(lines, rows)


def _seconds(text: str) -> tuple[float, bool]:
    """Seconds since `_EPOCH`, to the microsecond, and whether the text says its offset from UTC. ValueError for no time."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(text)
    second = (datetime.fromisoformat(match["second"]) - _EPOCH) // timedelta(seconds=1)
    microseconds = int((match["part"] or "0")[:6].ljust(6, "0"))
    sign, digits = (match["offset"] or "Z")[0], (match["offset"] or "")[1:].replace(":", "").ljust(4, "0")
    offset = 0 if sign == "Z" else (60 * int(digits[:2]) + int(digits[2:])) * (-60 if sign == "-" else 60)
    return (1_000_000 * (second - offset) + microseconds) / 1_000_000, match["offset"] is not None


def mooncake(path: Path) -> tuple[bytes, Imported]:
    """Mooncake's open traces: JSON lines with `timestamp` (ms), `input_length`, `output_length` and `hash_ids` of blocks.

    The fourth column counts prompt tokens in blocks that came before, from the first block on: what a cache without limit
    would save; 0 where there are no `hash_ids`. The fifth is the row, from 0, whose prompt begins with these tokens. Source:
    R. Qin et al., Mooncake, FAST 2025; kvcache-ai/Mooncake.
    """
    return _blocks(path, MOONCAKE_BLOCK)


def dynamo(path: Path) -> tuple[bytes, Imported]:
    """Traces that NVIDIA Dynamo replays (`python -m dynamo.replay`): Mooncake's lines, with `created_time` and sessions, too.

    Only requests that have a time can be read: a turn that follows its session after a `delay` arrives when the turn before
    has ended. Source: ai-dynamo/dynamo, user guide of trace replay; its blocks are Mooncake's.
    """
    return _blocks(path, MOONCAKE_BLOCK, ("timestamp", "created_time"))


def _blocks(path: Path, size: int, times: tuple[str, ...] = ("timestamp",)) -> tuple[bytes, Imported]:
    """Requests whose prompts are known by the hashes of their blocks of `size` tokens."""
    lines = Lines(path)
    rows: list[tuple[Any, ...]] = []
    seen: dict[Hashable, int] = {}
    for number, request in lines.objects():
        stamp = next((request[name] for name in times if name in request), None)
        if stamp is None and ("delay" in request or "delay_ms" in request):
            lines.wrong(
                "the turn follows its session after a delay and has no time of its own; give each a 'timestamp'", number
            )
            continue
        time = _milliseconds(lines, stamp, number)
        prompt, output = (lines.count(request.get(name, ""), name, number, 1) for name in ("input_length", "output_length"))
        blocks = request.get("hash_ids") or []
        if not isinstance(blocks, list) or not all(isinstance(block, (int, str)) for block in blocks):
            lines.wrong("'hash_ids' is not a list of numbers or texts", number)
            continue
        known = next((place for place, block in enumerate(blocks) if block not in seen), len(blocks))
        alike = seen[blocks[known - 1]] if known else -1
        for block in blocks[known:]:
            seen.setdefault(block, len(rows))
        rows.append((time / 1000, prompt, output, min(known * size, prompt), alike))
    place = {row: number for number, row in enumerate(sorted(range(len(rows)), key=lambda row: float(rows[row][0])))}
    rows = [(*row[:-1], place.get(row[-1], -1)) for row in rows]
    return requests_of(lines, rows, PREFIX_TOKENS, PREFIX_ROW)


def _milliseconds(lines: Lines, value: Any, number: int) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.fabs(value) <= _LATEST_MS:
        return value
    shown = (
        "missing" if value is None else excerpt(str(value)) if isinstance(value, (int, float, str)) else type(value).__name__
    )
    lines.wrong(f"'timestamp' is {shown}; milliseconds are needed, at most {_LATEST_MS:g}", number, "timestamp")
    return 0.0


def requests_of(lines: Lines, rows: list[tuple[Any, ...]], *more: str, notes: tuple[str, ...] = ()) -> tuple[bytes, Imported]:
    """The table of requests in the order of their arrival, which counts from the first of them."""
    lines.checked(len(rows), "requests")
    rows.sort(key=lambda row: float(row[0]))  # stable: equal times stay in the order of the file
    begin = rows[0][0]
    rows = [(round(row[0] - begin, 6), *row[1:]) for row in rows]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("arrival_s", "prompt_tokens", "output_tokens", *more)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(), Imported(len(rows), "requests", (_USE, *notes))
