"""Which tiers are CXL memory, how fast each device reads, and the refusal of a machine that has none.

Knows the machine; knows no policy and no visit.
"""

from __future__ import annotations

from typing import Literal

from moesim.contract import Problem
from moesim.errors import InputError, Mistake
from moesim.hardware.memory import Interleaved
from moesim.policies.kit.placement import host_order, read_rate

__all__ = ["CxlUse", "cxl_rates", "cxl_tiers", "require_cxl"]

CxlUse = Literal["required", "none"]
"""Whether a policy made for CXL memory refuses a machine without any, or runs there with what tiers there are."""


def cxl_tiers(problem: Problem) -> list[str]:
    """Host tiers that are CXL memory, interleaved sets of such tiers included; best home for an expert first."""
    tiers = problem.system.tiers

    def far(name: str) -> bool:
        tier = tiers[name]
        return all(tiers[part].kind == "cxl" for part in tier.of) if isinstance(tier, Interleaved) else tier.kind == "cxl"

    return [name for name in host_order(problem) if far(name)]


def cxl_rates(problem: Problem) -> list[tuple[int, float]]:
    """(tier index, B/s of reads) of every CXL tier."""
    return [(problem.tiers.index(name), read_rate(problem, name)) for name in cxl_tiers(problem)]


def require_cxl(problem: Problem, use: CxlUse) -> None:
    """InputError on a machine without CXL memory, unless `use` is `none`."""
    if use == "required" and not cxl_tiers(problem):
        name = problem.system.name or "this machine"
        text = f"this policy places experts in CXL memory and {name} has none; add a tier of kind cxl, or write 'cxl: none'"
        raise InputError(Mistake(text, path="policy.cxl"))
