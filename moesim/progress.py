"""Progress bars on standard error, on a terminal only; everywhere else silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "bar"]

Progress = Callable[[int, int], None]
"""`progress(done, total)`: called as work goes on."""


@contextmanager
def bar(name: str, unit: str) -> Iterator[Progress]:
    """A function `progress(done, total)` that draws a bar while the block runs; tokens are shown in thousands and millions."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, unit_scale=unit == "tok", file=sys.stderr, leave=False) as drawn:

        def progress(done: int, total: int) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield progress
