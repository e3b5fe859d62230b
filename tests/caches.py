"""A cache folder of a test's own: empty but for the machine code that all tests share, which takes long to compile."""

from __future__ import annotations

from pathlib import Path

from moesim import cache

_COMPILED = cache.folder() / cache.CODE


def own(folder: Path) -> Path:
    """`folder`, made as such a cache."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cache.CODE).symlink_to(_COMPILED)
    return folder
