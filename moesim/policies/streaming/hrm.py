"""The hierarchical roofline model: how fast work runs where its data lie, and when it pays to move them over a link first.

Plain arithmetic in SI units; knows no machine and no policy. I is FLOP per byte of the data that lie at a level.
Source: MoE-Lightning, ASPLOS 2025, arXiv:2411.11217, section on HRM.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Level", "attainable", "leave_below", "link_free_above"]


class Level(NamedTuple):
    """A processor with a memory of its own."""

    rate: float
    """P, FLOP/s."""
    bandwidth: float
    """B, B/s."""

    def at(self, intensity: float) -> float:
        """FLOP/s of work that does `intensity` FLOP per byte of this memory: min(P, B I)."""
        return min(self.rate, self.bandwidth * intensity)


def attainable(level: Level, intensity: float, link: float, moved: float) -> float:
    """FLOP/s at `level` of work whose data come over `link` (B/s) from another: min(P_i, B_i I_i, B_ji I_j).

    `intensity` I_i per byte read at the level, `moved` I_j per byte that crosses the link.
    """
    return min(level.at(intensity), link * moved)


def leave_below(level: Level, link: float) -> float:
    """I_j up to which work is best left at `level` j: where min(P_j, B_j I_j) = B_ji I_j, that is P_j / B_ji.

    0 where the link is faster than the level's own memory: then nothing is worth leaving.
    """
    return level.rate / link if level.bandwidth > link else 0.0


def link_free_above(level: Level, intensity: float, link: float) -> float:
    """I_j from which the link to `level` i no longer limits: min(P_i, B_i I_i) / B_ji, with `intensity` I_i."""
    return level.at(intensity) / link
