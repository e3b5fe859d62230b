"""An experiment in full: one piece of plain data, whatever files it was put together from, and back again.

Knows files and forms; nothing of how points are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim import strict_json
from moesim.errors import InputError, Mistake
from moesim.experiment.points import Choice, Planner
from moesim.scenario import catalogue
from moesim.scenario.file_kinds import refuse_other
from moesim.scenario.scenario import folder_of
from moesim.scenario.tree import Node, from_plain, to_plain

__all__ = ["resolved", "written"]


def resolved(root: Node, planner: Planner) -> dict[str, Any]:
    """The experiment as `plan` reads it again: axes and design as written, the scenario joined, policies with parameters.

    Profiles and models stay names, for an axis may put others in their place; what the first point made of them is kept beside.
    """
    keys = {key: below.plain() for key, below in root.value.items() if key not in ("scenario", "policies")}
    policies = [_policy(choice, planner) for choice in planner.policies]
    named = {"policies": policies} if None not in policies else {}
    name = {"name": planner.experiment.name}
    whole: dict[str, Any] = to_plain({**keys, **name, "scenario": planner.family.written, **named})
    return whole


def _policy(choice: Choice, planner: Planner) -> Any:
    """A policy as an experiment says it; None for the scenario's own."""
    if choice.policy_object is not None:
        return {**planner.family.member([], choice.policy_object).data["policy"], "label": choice.label}
    plain = choice.node.plain() if choice.node is not None else None
    return {**plain, "label": choice.label} if isinstance(plain, dict) else plain


def written(path: Path) -> tuple[Node, Path]:
    """The experiment inside the `experiment.json` of a sweep, and the folder that its paths start from.

    InputError for a file that no sweep wrote.
    """
    shown = catalogue.shown(path)
    document = strict_json.read(path, shown=shown)
    provenance = document.get("provenance") if isinstance(document, dict) else None
    experiment = provenance.get("experiment") if isinstance(provenance, dict) else None
    refuse_other(document, ("sweep",), shown)
    if not isinstance(experiment, dict) or not isinstance(experiment.get("scenario"), dict):
        message = "this is not the experiment.json of a sweep: it has no 'provenance.experiment'; experiments are YAML files"
        raise InputError(Mistake(message, file=shown))
    return from_plain(experiment), folder_of(from_plain(experiment["scenario"]), path.parent)
