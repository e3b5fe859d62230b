"""One self-contained HTML page for a directory that a run, a comparison or a sweep left: what came out, why, and from what.

Finds out which of them it is and puts the page together; the parts are written by the modules beside this one. The page loads
nothing: style, script and figures stand in it, and its content policy forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from moesim.errors import InputError, Mistake, MoesimError, excerpt
from moesim.report.canvas import house_style
from moesim.report.html import Page, element, joined, unbroken
from moesim.version import __version__
from moesim.writing import file_target, write

__all__ = ["write_page"]


def write_page(directory: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page for `directory` to `out` (by default `report.html` in it), all of it or nothing; returns its path.

    Raises InputError for a directory that no run, comparison or sweep has left.
    """
    place = Path(directory)
    target = place / "report.html" if out is None else Path(out)
    if out is not None or place.is_dir():
        file_target(target)
    with house_style():
        return write(target, html(whole_page(place)))


def whole_page(place: Path) -> Page:
    """The page of `place`; InputError where a file in it holds something else than this version writes there."""
    try:
        return _page(place)
    except (MoesimError, OSError):
        raise
    except Exception as error:  # files may hold anything: a key that is missing, text for a number
        message = f"holds something else than moesim {__version__} writes ({type(error).__name__}: {excerpt(str(error))})"
        raise InputError(
            Mistake(f"{message}; run it again, or report this if it was written by this version", file=str(place))
        ) from error


def _page(place: Path) -> Page:
    """The page of whatever `place` holds."""
    if (place / "experiment.json").is_file():
        from moesim.report.page_sweep import sweep_page

        return sweep_page(place)
    if (place / "comparison.json").is_file():
        from moesim.report.page_comparison import comparison_page

        return comparison_page(place)
    if (place / "result.json").is_file():
        from moesim.report.page_run import run_page

        return run_page(place)
    if not place.exists():
        raise InputError(Mistake("no such directory; name what a run, a comparison or a sweep has written", file=str(place)))
    message = "holds no result.json, comparison.json or experiment.json; name what a run, a comparison or a sweep has written"
    raise InputError(Mistake(message, file=str(place)))


def html(page: Page) -> str:
    """The whole document."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = [part for part in page.parts if part.content]
    links = element("nav", *(element("a", part.heading, href=f"#{part.name}") for part in parts), aria_label="sections")
    sections = [element("section", element("h2", part.heading), part.content, id=part.name) for part in parts]
    answer = [
        element("p", unbroken(sentence), class_="answer" if number == 0 else "") for number, sentence in enumerate(page.answer)
    ]
    foot = element("p", f"Written by moesim {__version__}. This page needs no network.", class_="soft")
    body = element("main", element("h1", page.title), *answer, page.lead, links, *sections, foot)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{joined([page.title])}</title>\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )
