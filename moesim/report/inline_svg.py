"""Pictures as inline SVG of a page: colours that follow its light or dark paper, and a word for every point.

Knows matplotlib's SVG; nothing of what is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moesim.neutral import printable
from moesim.report.canvas import render
from moesim.report.colours import GREY, OKABE_ITO
from moesim.report.html import Html, element, joined, unbroken

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure"]

_VARIABLES = {
    **{colour.lower(): f"var(--{name})" for name, colour in OKABE_ITO.items()},
    "#000000": "var(--ink)", "#ffffff": "var(--paper)", "#b0b0b0": "var(--grid)", GREY.lower(): "var(--grey)",
}  # fmt: skip
"""Colour of a picture -> the property of the page that holds it, one value on light paper and one on dark."""


def figure(drawn: Figure, title: str, says: str, *, name: str) -> Html:
    """A picture as inline SVG with a caption; `says` tells who cannot see it what it shows, `name` sets its ids apart."""
    text = printable(render(drawn).decode("utf-8"))
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    for gid, texts in getattr(drawn, "tips", {}).items():
        text = _named(text, gid, [texts] if isinstance(texts, str) else texts)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    text = re.sub(r'(?<=style=")[^"]*', lambda style: _on_any_paper(style.group()), text)
    # text and what has no colour of its own is black in SVG
    text = re.sub(r"<text style=\"(?![^\"]*fill:)", '<text style="fill: var(--ink); ', text)
    box = re.search(r'viewBox="[^"]*"', text)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box.group() if box else ""} '
        f'role="img" aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{joined([title])}</title>'
        f'<desc id="{name}-desc">{joined([says])}</desc>'
    )
    picture = Html(re.sub(r"<svg[^>]*>", lambda _match: opening, text, count=1).strip())
    scroll = element("div", picture, class_="wide", tabindex="0", role="region", aria_label=title)
    return element("figure", scroll, element("figcaption", element("strong", title), " ", unbroken(says)), id=name)


def _on_any_paper(style: str) -> str:
    """A style whose colours are properties of the page."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: _VARIABLES.get(colour.group(), colour.group()), style)


def _named(text: str, gid: str, words: Sequence[str]) -> str:
    """The picture with words for the artist called `gid`: for the whole of it, or one for each of its markers."""
    start = text.find(f'<g id="{gid}">')
    if start < 0:
        return text
    end = _end(text, start)
    inside, titles = text[start:end], iter(words)
    if len(words) == 1:
        at = inside.index(">") + 1
        inside = f"{inside[:at]}<title>{joined([words[0]])}</title>{inside[at:]}"
    else:

        def marker(use: re.Match[str]) -> str:
            word = next(titles, "")
            return f"<use{use.group(1)}><title>{joined([word])}</title></use>" if word else use.group()

        inside = re.sub(r"<use((?:[^>\"]|\"[^\"]*\")*?)/>", marker, inside)
    return text[:start] + inside + text[end:]


def _end(text: str, start: int) -> int:
    """Where the group that begins at `start` ends."""
    depth = 0
    for tag in re.finditer(r"<(/?)g\b", text[start:]):
        depth += -1 if tag.group(1) else 1
        if depth == 0:
            return text.index(">", start + tag.start()) + 1
    return len(text)
