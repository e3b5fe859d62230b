"""Words that screens, pages and figures share: bottlenecks, parts of a bill, lanes.

Knows the fields of a summary; old results, which lack some, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["lane_word", "named_lane", "part_words"]


def lane_word(holder: Mapping[str, Any]) -> str:
    """A bottleneck (`lane`, `words`, `share`) in words: `PCIe upload`; its lane where there are none."""
    return str(holder.get("words") or holder["lane"])


def named_lane(holder: Mapping[str, Any]) -> str:
    """`PCIe upload (pcie:forward)`."""
    word, lane = lane_word(holder), str(holder["lane"])
    return lane if word == lane else f"{word} ({lane})"


def part_words(line: Mapping[str, Any]) -> str:
    """A line of a bill in words: `rtx-4090`, `ddr5-dual-channel (128 GB)`."""
    name = str(line.get("name") or str(line["part"]).partition(".")[2])
    amount = str(line["amount"]).partition(" at ")[0]
    return f"{name} ({amount})" if amount else name
