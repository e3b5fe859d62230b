"""Explains a scenario before anything runs: what fits where, rooflines, break-even points, ceilings, where values come from.

Asks the cost models and the scenario's policy; the engine and the routing of the run are not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moesim import plugins
from moesim.errors import InputError
from moesim.explain import closed_forms as explain_closed_forms
from moesim.explain import machine as explain_machine
from moesim.explain import runtime as explain_runtime
from moesim.explain import serving as explain_serving
from moesim.explain import work as explain_work
from moesim.explain.posed import posed
from moesim.explain.rows import Explanation, Quantity, Row, Section, to_json, to_text
from moesim.explain.work import Plan
from moesim.scenario.scenario import LoadedScenario, load

__all__ = ["Explanation", "Quantity", "Row", "Section", "explain", "load_known", "to_json", "to_text"]


STAND_IN = "on_demand"


def load_known(
    source: str | Path, *, sets: Sequence[str] = (), policy: str | None = None, seed: int | None = None
) -> tuple[LoadedScenario, str]:
    """The scenario, and why its policy is not asked: empty, unless it is a plug-in and these are not imported.

    Another policy stands in then, so that everything else can be explained. InputError with every mistake.
    """
    try:
        return load(source, sets=sets, policy=policy, seed=seed), ""
    except InputError as error:
        if any(mistake.path != "policy.kind" or plugins.UNJUDGED not in mistake.message for mistake in error.mistakes):
            raise
        unasked = error.mistakes[0].message
    other_sets = [text for text in sets if not text.strip().startswith("policy")]
    return load(source, sets=other_sets, policy=STAND_IN, seed=seed), unasked


def explain(loaded: LoadedScenario, *, unasked: str = "") -> Explanation:
    """Everything that follows from the machine, the model, the lengths and the profile, each with its formula.

    A policy that cannot place the model does not end it: the section `What fits where` then says why; so it does where the
    policy is not to be asked, for the reason `unasked`. Raises InputError only for what keeps the job itself from being made.
    """
    scenario = loaded.scenario
    problem = posed(loaded)
    deployment, refusal = None, unasked
    if not unasked:
        try:
            deployment = scenario.policy.deploy(problem)
        except InputError as error:
            refusal = f"The policy cannot place the model: {'; '.join(mistake.message for mistake in error.mistakes)}"
    plan = Plan.of(problem, deployment, refusal)
    origins = explain_machine.origins(loaded.data, loaded.provenance)
    if problem.layers:
        sections = (*_of_experts(plan), origins)
    else:
        sections = (explain_work.model(plan), explain_work.placement(plan), origins)
    kind = "nobody" if unasked else str(getattr(scenario.policy, "kind", type(scenario.policy).__name__))
    shown = tuple(section for section in sections if section.rows or section.note)
    return Explanation(scenario.name, scenario.hardware.name or "this machine", scenario.model.name, kind, shown)


def _of_experts(plan: Plan) -> tuple[Section, ...]:
    """What there is to say of a model with experts."""
    costs = plan.problem.costs
    return (
        explain_work.model(plan),
        explain_work.placement(plan),
        explain_work.batch(plan),
        explain_machine.rooflines(costs),
        explain_machine.times(costs),
        explain_runtime.fixed_costs(costs),
        explain_machine.uploads(costs),
        explain_machine.break_even(costs),
        explain_work.ceilings(plan),
        explain_serving.trade(plan),
        explain_closed_forms.section(plan),
        explain_machine.cxl(costs),
    )
