"""The figures of a page as files for print: each as PDF, SVG and PNG.

Knows what pages draw; adds nothing to it.
"""

from __future__ import annotations

from pathlib import Path

from moesim.errors import InputError, Mistake
from moesim.report.canvas import KINDS, printed, save
from moesim.report.page import whole_page
from moesim.report.page_run import collecting
from moesim.writing import folder_target

__all__ = ["save_figures"]


def save_figures(directory: str | Path, out: str | Path, *, width: float | str = "column") -> list[Path]:
    """Writes every figure of the page of `directory` into `out`, as wide as `width` (`column`, `page`, or inches).

    Drawn as the rcParams of matplotlib say where they are set. Raises InputError for a directory without a run, a comparison or
    a sweep, for one without any figure, and for a width that is none.
    """
    folder = Path(out)
    folder_target(folder)
    with printed(width), collecting() as pictures:
        whole_page(Path(directory))
    if not pictures:
        raise InputError(Mistake("holds nothing that can be drawn", file=str(directory)))
    return [save(picture, folder / f"{name}.{kind}") for name, picture in pictures.items() for kind in KINDS]
