"""Progress bars on standard error, on a terminal only; everywhere else silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Progress", "bar"]

Progress = Callable[[int, int], None]
"""`progress(done, total)`: called as work goes on."""
_SHAPE = "{desc}: {percentage:3.0f} % {bar} {n:,.0f} of {total:,.0f} {unit} [{elapsed}, {remaining} left]"
"""Without a rate: tokens per second of the simulator would look like those of what it simulates."""


@contextmanager
def bar(name: str, unit: str) -> Iterator[Progress]:
    """A function `progress(done, total)` that draws a bar while the block runs, from the first time that it is called.

    `unit` is what is counted, in the plural: `points`, `tokens`.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    drawn: list[Any] = []

    def progress(done: int, total: int) -> None:
        from tqdm import tqdm

        if not drawn:
            shape = {"bar_format": _SHAPE, "unit": unit}
            drawn.append(tqdm(desc=name, total=total, initial=done, file=sys.stderr, leave=False, **shape))  # type: ignore[call-overload]
        drawn[0].total = total
        drawn[0].update(done - drawn[0].n)

    try:
        yield progress
    finally:
        for shown in drawn:
            shown.close()
