"""Owns files as a scenario takes them: read once as long as they do not change, annotations taken off their values.

Knows nothing of what the files describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from moesim.errors import Mistake
from moesim.scenario import annotated, catalogue, strict_yaml
from moesim.scenario.tree import Node

__all__ = ["Document", "document"]


class Document:
    """One file as written, which messages call `shown`: its `node` without annotations, and the `mistakes` in these."""

    def __init__(self, path: Path, shown: str) -> None:
        mistakes: list[Mistake] = []
        self.shown = shown
        self.node = annotated.strip(strict_yaml.read(path, shown).root, mistakes)
        self.mistakes: Sequence[Mistake] = tuple(mistakes)

    @cached_property
    def pushed_down(self) -> Node:
        """The node with the sources of its mappings at their values."""
        return annotated.push_down(self.node)


def document(path: Path, whole: Path) -> Document:
    """The file at `path`, whose absolute path is `whole`; a sweep loads the same profiles many times. InputError as `read`."""
    shown = catalogue.shown(path, whole)
    try:
        stat = path.stat()
    except OSError:
        return Document(path, shown)
    return _unchanged(whole, shown, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _unchanged(path: Path, shown: str, _time: int, _size: int) -> Document:
    """The file as long as it was last changed at that time and is so long."""
    return Document(path, shown)
