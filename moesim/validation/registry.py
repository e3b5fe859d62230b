"""Finds published cases by id: built-ins in a literal table, imported when asked for.

Knows names only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from moesim.errors import InputError, Mistake, did_you_mean
from moesim.validation.case import Case

__all__ = ["CASES", "entries", "find", "ids"]

CASES: dict[str, str] = {
    "cxl-expert-table": "moesim.validation.cxl_expert:TABLE",
    "cxl-expert-threshold": "moesim.validation.cxl_expert_claims:THRESHOLD",
    "cxl-expert-quantisation": "moesim.validation.cxl_expert_claims:QUANTISATION",
}
"""Id -> `module:attribute` of a `Case`."""


def ids() -> list[str]:
    """Every case there is."""
    return list(CASES)


def entries() -> list[dict[str, str]]:
    """`{"name", "summary", "source"}` of every case."""
    return [{"name": case.id, "summary": case.summary, "source": case.source} for case in find()]


def find(wanted: Iterable[str] = ()) -> list[Case]:
    """The cases of these ids, each once, in the order given; all without any. InputError with every unknown id."""
    names = list(dict.fromkeys(wanted)) or ids()
    unknown = [name for name in names if name not in CASES]
    if unknown:
        known = ", ".join(CASES)
        raise InputError(*(Mistake(f"unknown case '{name}'; known: {known}.{did_you_mean(name, CASES)}") for name in unknown))
    return [_load(name) for name in names]


def _load(name: str) -> Case:
    module, _, attribute = CASES[name].partition(":")
    case: Case = getattr(importlib.import_module(module), attribute)
    return case
