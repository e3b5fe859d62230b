"""Tells what a file is by the keys at its top, and says what to do with one that is of another kind than needed.

Knows the keys that only one kind of file has; reads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from moesim import plugins
from moesim.errors import InputError, Mistake
from moesim.scenario.parts import MEMORY_KINDS
from moesim.scenario.schema import PARTS

__all__ = ["kind_of", "mismatch", "refuse_other"]

_WORDS = {
    "scenario": "a scenario",
    "experiment": "an experiment",
    "machine": "the profile of a machine",
    "part": "the profile of a part of a machine",
    "runtime": "the profile of a serving program",
    "model": "a model's configuration",
    "result": "the result of a run",
    "sweep": "the experiment.json of a sweep",
    "comparison": "the answer of a comparison",
}
"""Kind of file -> how messages call it."""

_USE = {
    "scenario": "'moesim run {file}' runs it, and an experiment names it by 'scenario:'",
    "experiment": "'moesim sweep {file}' runs it",
    "machine": "a scenario names it by 'hardware: {file}'",
    "part": "it goes into a machine: hardware: {{profile: MACHINE, {group}: {{NAME: {{profile: {file}}}}}}}",
    "runtime": "a scenario names it by 'runtime: {file}'",
    "model": "a scenario names it by 'model: {file}'",
    "result": "'moesim run {file}' repeats the run, and 'moesim report' draws the folder that it lies in",
    "sweep": "'moesim sweep {file}' repeats the sweep",
    "comparison": "'moesim report' draws the folder that it lies in",
}
"""Kind of file -> what it is good for."""

_GROUPS = {
    "devices": tuple(plugins.BUILT_IN["hardware"]),
    "tiers": (*MEMORY_KINDS, "interleaved"),
    "links": ("link",),
}
_CONFIG = ("architectures", "model_type", "num_hidden_layers", "hidden_size", "n_layers")


def kind_of(top: Any) -> str | None:
    """The kind of a file that holds `top`; None where its keys do not tell."""
    if not isinstance(top, Mapping):
        return None
    provenance = top.get("provenance")
    if isinstance(provenance, Mapping) and ("experiment" in provenance or "scenario" in provenance):
        return "sweep" if "experiment" in provenance else "result"
    whole = any(name in top for name in (*PARTS, "extends"))
    varied = any(name in top for name in ("scenario", "axes", "replications", "policies"))
    if whole != varied:
        return "scenario" if whole else "experiment"
    if whole:
        return None
    if "results" in top and "pairs" in top:
        return "comparison"
    if top.get("kind") == "system" or ("devices" in top and "tiers" in top):
        return "machine"
    if top.get("kind") == "runtime":
        return "runtime"
    if _group(top) is not None:
        return "part"
    return "model" if any(name in top for name in _CONFIG) else None


def _group(top: Mapping[str, Any]) -> str | None:
    return next((group for group, kinds in _GROUPS.items() if top.get("kind") in kinds), None)


def mismatch(top: Any, expected: Collection[str], shown: str) -> str | None:
    """What to say of the file `shown`, which holds `top`, where it is not of a `expected` kind (the first is named)."""
    kind = kind_of(top)
    if kind is None or kind in expected:
        return None
    use = _USE[kind].format(file=shown, group=_group(top))
    return f"this is {_WORDS[kind]}, not {_WORDS[next(iter(expected))]}; {use}"


def refuse_other(top: Any, expected: Collection[str], shown: str) -> None:
    """Raises InputError where the file is not of a `expected` kind."""
    message = mismatch(top, expected, shown)
    if message is not None:
        raise InputError(Mistake(message, file=shown))
