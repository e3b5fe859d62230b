"""Colours: a palette for colour-blind readers, too, and the rule by which lanes and policies have theirs.

Knows names; nothing of figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

__all__ = ["GREY", "LINES", "MARKERS", "OKABE_ITO", "PALETTE", "colours_of", "lane_colours"]

OKABE_ITO = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442", "blue": "#0072B2",
    "vermilion": "#D55E00", "purple": "#CC79A7",
}  # fmt: skip
"""Eight colours that people with any colour vision tell apart. Source: M. Okabe and K. Ito, Color Universal Design, 2008."""
PALETTE = tuple(OKABE_ITO[name] for name in ("blue", "orange", "green", "vermilion", "purple", "sky", "black", "yellow"))
"""The order in which series take colours: the easiest to distinguish first."""
LINES = PALETTE[:-1]
"""The colours of lines: a yellow one is lost on white paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#8A8A8A"


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Name -> colour, whatever the order of the names: a policy keeps its colour from figure to figure.

    Each name asks for the colour of its own; where several ask for one, the first by alphabet has it and the others take the
    next that is free. Of more names than colours the last ones share.
    """
    return _given({name: crc32(name.encode()) % len(LINES) for name in names}, LINES)


_LANES = (("gpu", "blue"), ("cpu", "orange"), ("ndp", "green"), ("pcie:forward", "vermilion"), ("pcie:reverse", "purple"),
          ("cxl", "sky"), ("nvme", "yellow"), ("ddr", "green"), ("hbm", "black"))  # fmt: skip


def lane_colours(lanes: Sequence[str]) -> dict[str, str]:
    """Lane -> colour, by what it is (GPU, CPU, upload, CXL, ...), alike in all figures."""
    wishes = {}
    for lane in lanes:
        colour = next((colour for head, colour in _LANES if lane.startswith(head)), None)
        wishes[lane] = crc32(lane.encode()) % len(PALETTE) if colour is None else PALETTE.index(OKABE_ITO[colour])
    return _given(wishes, PALETTE)


def _given(wishes: Mapping[str, int], palette: Sequence[str]) -> dict[str, str]:
    free, places = set(range(len(palette))), {}
    for name in sorted(wishes):
        if wishes[name] in free:
            places[name] = wishes[name]
            free.discard(wishes[name])
    for name in sorted(wishes):
        if name not in places:
            places[name] = min(free, key=lambda place: (place - wishes[name]) % len(palette)) if free else wishes[name]
            free.discard(places[name])
    return {name: palette[places[name]] for name in wishes}
