"""From a scenario to a result: builds the job and the problem, runs the engine, adds bound, energy and provenance.

The one place where a scenario meets the engine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moesim import plugins
from moesim.contract import Policy, Problem, is_bound
from moesim.engine.books.energy_and_cost import bound_seconds, cost_per_million_tokens, energy, notes
from moesim.engine.machine import ARRIVALS
from moesim.engine.run import Outcome, SimulationOptions, simulate
from moesim.errors import InputError, Mistake, MoesimError, excerpt
from moesim.hardware.bill import bill, machine_price
from moesim.hardware.lane_words import lane_words
from moesim.progress import Progress
from moesim.results import provenance
from moesim.results.recorder import SECOND
from moesim.results.result import Result, RunFacts, make_result
from moesim.results.serving import Sample
from moesim.results.store import content_of, refuse_foreign
from moesim.scenario.scenario import LoadedScenario, load, load_data, with_own_runtime
from moesim.scenario.schema import Scenario, policy_class
from moesim.scenario.tree import to_plain
from moesim.scheduling.rounds import Rounds
from moesim.streams import Streams
from moesim.units import parse
from moesim.workload.table import Job, RoutingTable
from moesim.writing import file_target, folder_target, remove, write

__all__ = [
    "compare_loaded",
    "compared_directory",
    "comparison_target",
    "distinct_labels",
    "loaded",
    "out_directory",
    "policies_for",
    "problem_of",
    "run",
    "run_loaded",
    "save_comparison",
]


def run(scenario: Any, *, policy: Any = None, seed: int | None = None, timeline: bool = False, **overrides: Any) -> Result:
    """Runs a scenario (a file, a name, loaded or plain data) and returns its result.

    `policy` is a name, a mapping with `kind`, or a Policy object; `overrides` are dotted paths to plain values
    (`**{"workload.requests": 8}`). Raises InputError with every mistake.
    """
    return run_loaded(loaded(scenario, policy=policy, seed=seed, **overrides), RunOptions(timeline=timeline))


def loaded(scenario: Any, *, policy: Any = None, seed: int | None = None, **overrides: Any) -> LoadedScenario:
    """The scenario that a caller names or hands over: a path, a name, plain data, or a loaded scenario. InputError as `run`."""
    if isinstance(scenario, LoadedScenario):
        if policy is None and seed is None and not overrides:
            return scenario
        return load_data(scenario.data, base=scenario.base, policy=policy, seed=seed, sets=overrides)
    if isinstance(scenario, dict):
        return load_data(scenario, policy=policy, seed=seed, sets=overrides)
    return load(scenario, policy=policy, seed=seed, sets=overrides)


def problem_of(loaded_scenario: LoadedScenario, job: Job, routing: RoutingTable) -> Problem:
    """The placement problem that a scenario poses."""
    scenario = loaded_scenario.scenario
    streams = Streams(scenario.seed, scenario.replicate)
    return Problem(
        scenario.model,
        scenario.hardware,
        job,
        routing.profile,
        streams["policy"],
        streams["foresight"],
        runtime=scenario.runtime,
        topics=routing.topics,
        prompted=routing.prefill_counts if job.most is None and not job.arrival.any() else None,
        followers=routing.followers,
    )


@dataclass(frozen=True)
class RunOptions:
    """What a run records and says, beside its scenario."""

    timeline: bool = False
    """Whether the result holds who did what when."""
    window: str | None = None
    """The only stretch of the timeline to keep, such as `1 s..1.2 s`."""
    bound: bool = True
    """Whether the programme that bounds the run is solved; without it the fields that need it are null."""
    progress: Progress | None = None
    """`progress(done, total)` counts tokens of prompts and outputs."""
    command: Sequence[str] | None = None
    """The command that asked for the run, for its provenance."""


def run_loaded(
    loaded_scenario: LoadedScenario,
    options: RunOptions | None = None,
    *,
    policy: Policy | None = None,
    policy_name: str | None = None,
) -> Result:
    """Runs a loaded scenario; `policy` takes the place of its own, under the name `policy_name`."""
    begin, options = time.perf_counter(), options or RunOptions()
    loaded_scenario = loaded_scenario if policy is None else with_own_runtime(loaded_scenario, policy)
    chosen = loaded_scenario.scenario.policy if policy is None else policy
    how = _simulation(loaded_scenario.scenario, options)
    try:
        job, routing, problem, outcome, sample = _walked(loaded_scenario, chosen, how)
    except InputError as error:
        raise loaded_scenario.located(InputError(*(_under_policy(mistake) for mistake in error.mistakes))) from None
    name = policy_name or policy_label(chosen)
    facts = _facts(loaded_scenario, job, problem, outcome, sample=sample, bound=options.bound and sample is None)
    about = {
        "policy": name,
        "wall_s": time.perf_counter() - begin,
        "is_bound": is_bound(chosen),
        "proven_gap": chosen.proven_gap(outcome.deployment.state),
        "provenance": _provenance(loaded_scenario, to_plain(_repeatable(loaded_scenario, policy, name)), options.command),
    }
    return make_result(outcome.recorder, RunFacts(**{**facts, **about, "notes": [*routing.notes, *facts["notes"]]}))


def _simulation(scenario: Scenario, options: RunOptions) -> SimulationOptions:
    """What the engine takes from a scenario beside its parts."""
    keep = options.timeline or scenario.simulation.timeline
    return SimulationOptions(
        engine=scenario.simulation.engine,
        timeline=keep,
        window=None if options.window is None else _stretch(options.window, keep),
        faults=scenario.faults,
        schedule=getattr(scenario.workload, "schedule", Rounds),
        progress=options.progress,
    )


def _facts(
    loaded_scenario: LoadedScenario, job: Job, problem: Problem, outcome: Outcome, *, sample: Sample | None, bound: bool
) -> dict[str, Any]:
    """The fields of `RunFacts` that follow from what was run and from what came out."""
    scenario = loaded_scenario.scenario
    bound_s, unbounded = _bound(problem, outcome) if bound else (None, [])
    return {
        **_names(scenario),
        **_requests(loaded_scenario, job, outcome, sample),
        "bound_s": bound_s,
        **_spending(problem, outcome, _counted_tokens(job) if sample is None else sample.tokens_of(outcome.recorder.makespan)),
        "bill": [line._asdict() for line in bill(scenario.hardware)],
        "lane_words": {**lane_words(scenario.hardware), ARRIVALS: "waiting for requests"},
        "single_layer_batch": not job.attention,
        "notes": [*notes(problem, outcome), *outcome.faults, *unbounded, *_about_sample(sample)],
    }


def _walked(
    loaded_scenario: LoadedScenario, policy: Policy, options: SimulationOptions
) -> tuple[Job, RoutingTable, Problem, Outcome, Sample | None]:
    """The whole run, or the sample of it that the scenario asks for."""
    if loaded_scenario.scenario.simulation.sample is not None:
        from moesim.runs.sampled import walk

        return walk(loaded_scenario, policy, problem_of)
    job, routing = loaded_scenario.build()
    problem = problem_of(loaded_scenario, job, routing)
    return job, routing, problem, simulate(problem, policy, routing, options), None


def _about_sample(sample: Sample | None) -> list[str]:
    """What a reader of a sampled run should know."""
    if sample is None:
        return []
    known, details = sample.details["intervals"], sample.details
    sure = ", ".join(
        f"{name} {end['mean']:.4g} [{end['low']:.4g}, {end['high']:.4g}]"
        for name, end in known.items()
        if end["low"] is not None
    )
    share = f"{100 * details['share']:.3g} % of the time of {details['requests']:,} requests"
    text = f"a sample: {details['windows']} windows with {share}"
    return [f"{text}; 95 % intervals of the means: {sure}"]


def _requests(loaded_scenario: LoadedScenario, job: Job, outcome: Outcome, sample: Sample | None) -> dict[str, Any]:
    """The fields of `RunFacts` about requests; those of a server stamp the record, for it says when tokens come out."""
    lengths = {"prompt": job.prompt, "output": job.output}
    if isinstance(outcome.scheduler, Rounds):
        return {"arrival": job.arrival, **lengths}
    from moesim.runs.served import served_by, stamp

    served = served_by(outcome.scheduler, loaded_scenario.scenario.workload, sample, outcome.disruptions)
    stamp(outcome.recorder, outcome.scheduler)
    return {"arrival": served.arrival / SECOND, **lengths, "served": served, "rejected": len(served.refused)}


def _provenance(loaded_scenario: LoadedScenario, data: Any, command: Sequence[str] | None) -> dict[str, Any]:
    seed, replicate = loaded_scenario.scenario.seed, loaded_scenario.scenario.replicate
    return provenance.collect(data, seed=seed, replicate=replicate, command=command, origins=loaded_scenario.provenance)


def _names(scenario: Scenario) -> dict[str, Any]:
    """The fields of `RunFacts` about what was run."""
    parts = {part: getattr(scenario, part).name for part in ("hardware", "runtime", "model")}
    return {"scenario": scenario.name, **parts, "seed": scenario.seed, "replicate": scenario.replicate}


def _spending(problem: Problem, outcome: Outcome, tokens: int) -> dict[str, Any]:
    """The fields of `RunFacts` about energy and cost."""
    machine, joules = problem.system, energy(problem, outcome.recorder)
    return {
        "energy_J": joules,
        "energy_known": machine.energy_known,
        "power_unknown": list(machine.power_unknown),
        "price_unknown": list(machine.price_unknown),
        "machine_usd": machine_price(machine),
        "cost_usd_per_Mtok": cost_per_million_tokens(problem, outcome.recorder, joules, tokens),
    }


def _repeatable(loaded_scenario: LoadedScenario, policy: Policy | None, name: str) -> dict[str, Any]:
    """The scenario's data, with the policy that took the place of its own."""
    if policy is None:
        return loaded_scenario.data
    return {**loaded_scenario.data, "policy": {"kind": name, **policy.model_dump(mode="json", exclude={"kind"})}}


def _bound(problem: Problem, outcome: Outcome) -> tuple[float | None, list[str]]:
    """The run's bound in s; None, and a sentence that says why, where the programme behind it has no answer."""
    try:
        return bound_seconds(problem, outcome), []
    except MoesimError as error:
        return None, [f"this run has no bound: {error}"]


def _stretch(window: str, timeline: bool) -> tuple[int, int]:
    """`START..END`, each a duration, as ps; InputError without a timeline to keep it of."""
    start, between, end = window.partition("..")
    try:
        low, high = (round(parse(text.strip(), "duration") * SECOND) for text in (start, end))
    except ValueError as error:
        message = str(error) if between else f"'{window}' is not a stretch of time; write it like '1 s..1.2 s'"
        raise InputError(Mistake(message, path="window")) from None
    if not 0 <= low < high:
        raise InputError(Mistake(f"'{window}' must end after its start; write it like '1 s..1.2 s'", path="window"))
    if not timeline:
        raise InputError(Mistake("a window is part of a timeline; ask for one (--trace)", path="window"))
    return low, high


def _counted_tokens(job: Job) -> int:
    """Tokens that throughput counts: outputs, or the batch of a lone layer."""
    return int(job.output.sum()) if job.attention else int(job.prompt.sum())


def _under_policy(mistake: Mistake) -> Mistake:
    return mistake if mistake.path else mistake._replace(path="policy")


def policy_label(policy: Policy) -> str:
    """What results call a policy: the kind that its class gives itself, else its class, without a module if of a session."""
    kind, own = getattr(policy, "kind", None), vars(type(policy)).get("__annotations__", {})
    name = f"{type(policy).__module__}:{type(policy).__qualname__}".removeprefix("__main__:")
    return str(kind) if kind is not None and "kind" in own else name


def distinct_labels(policies: Sequence[Policy], beside: Iterable[Any] = ()) -> list[str]:
    """The labels of policies that were handed over as objects; of one kind, they say what each has other than its class.

    `beside`: names of policies that are compared with them.
    """
    names, named = [policy_label(policy) for policy in policies], [name for name in beside if isinstance(name, str)]
    return [
        f"{name}{_own(policy)}" if names.count(name) > 1 or name in named else name
        for name, policy in zip(names, policies, strict=True)
    ]


def _own(policy: Policy) -> str:
    """`(margin=2.0)`; nothing for a policy that has the defaults of its class."""
    values = policy.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    return f"({', '.join(f'{name}={value}' for name, value in values.items())})" if values else ""


def policies_for(names: Iterable[str | Policy], loaded_scenario: LoadedScenario) -> list[tuple[str, Policy]]:
    """The policies called `names` (`all`: every one known), once each, with their defaults; the scenario's own with its values.

    Policy objects stand for themselves.
    """
    policies = list(names)
    kinds = [entry for name in policies for entry in (plugins.names("policies") if name == "all" else [name])]
    own = (policy_label(loaded_scenario.scenario.policy), loaded_scenario.data["policy"].get("kind"))
    labels = iter(distinct_labels([name for name in policies if isinstance(name, Policy)], kinds))
    chosen: list[tuple[str, Policy]] = []
    mistakes: list[Mistake] = []
    for name in kinds:
        if isinstance(name, Policy):
            chosen.append((next(labels), name))
            continue
        if name in dict(chosen):
            continue
        try:
            chosen.append(
                (name, loaded_scenario.scenario.policy if name in own else policy_class(name, loaded_scenario.base)())
            )
        except InputError as error:
            mistakes += [mistake._replace(file="--policies") for mistake in error.mistakes]
        except ValidationError as error:
            needed = ", ".join(".".join(map(str, wrong["loc"])) for wrong in error.errors())
            message = f"'{excerpt(name)}' cannot be made without parameters ({needed}); make it the policy of the scenario"
            mistakes.append(Mistake(message, file="--policies"))
    if mistakes:
        raise InputError(*mistakes)
    return chosen


def compare_loaded(
    loaded_scenario: LoadedScenario,
    names: Iterable[str | Policy],
    *,
    started: Callable[[str, int, int], None] | None = None,
    finished: Callable[[Result], object] | None = None,
    command: Sequence[str] | None = None,
) -> tuple[list[Result], dict[str, str]]:
    """Results of several policies on the same requests and routing, and why a policy could not run at all.

    `started(name, number, total)` is called before each run, `finished(result)` after each that was possible.
    """
    policies = policies_for(names, loaded_scenario)
    # every policy meets the same requests and the same routing
    loaded_scenario = replace(loaded_scenario, job_and_table=loaded_scenario.build())
    results: list[Result] = []
    refused: dict[str, str] = {}
    for number, (name, policy) in enumerate(policies):
        if started is not None:
            started(name, number, len(policies))
        try:
            results.append(run_loaded(loaded_scenario, RunOptions(command=command), policy=policy, policy_name=name))
        except InputError as error:
            refused[name] = "; ".join(mistake.message for mistake in error.mistakes)
            continue
        if finished is not None:
            finished(results[-1])
    if not results:
        raise InputError(*(Mistake(text, name) for name, text in refused.items()))
    return results, refused


def out_directory(loaded_scenario: LoadedScenario, out: str | Path | None) -> Path:
    """Where a run's files go: `out`, or `runs/<scenario>-<policy>` under the current folder.

    Where another scenario has that name already, the first digits of this one's content hash follow: equal scenarios have
    equal directories, and none takes the place of another.
    """
    if out is not None:
        return Path(out)
    name = _folder_name(f"{loaded_scenario.scenario.name}-{policy_label(loaded_scenario.scenario.policy)}")
    content = provenance.content_hash(to_plain(loaded_scenario.data))
    plain, own = Path("runs", name), Path("runs", f"{name}-{content.partition(':')[2][:8]}")
    folder_target(plain)
    return own if own.exists() or content_of(plain) not in (None, content) else plain


def compared_directory(out: str | Path, policy: str) -> Path:
    """Where a comparison keeps the run of one policy."""
    return Path(out) / _folder_name(policy)


def _folder_name(text: str) -> str:
    """A name as one of a folder."""
    return "".join(letter if letter.isprintable() and letter not in "/\\:" else "-" for letter in text)


def comparison_target(out: str | Path, loaded_scenario: LoadedScenario, names: Iterable[str | Policy]) -> None:
    """InputError where the files of a comparison cannot be written under `out`. An older `comparison.json` is taken away."""
    old = file_target(Path(out) / "comparison.json")
    for name, _policy in policies_for(names, loaded_scenario):
        refuse_foreign(compared_directory(out, name))
    remove(old)


def save_comparison(out: str | Path, ranked: dict[str, Any], results: Iterable[Result], *, stored: bool = False) -> Path:
    """Writes `comparison.json`, with its provenance, under `out`, and each run's results unless `stored` there already."""
    place, runs = Path(out), list(results)
    for result in runs if not stored else ():
        result.save(compared_directory(out, result.summary["policy"]))
    document = {**ranked, "provenance": provenance.of_comparison([(r.summary["policy"], r.provenance) for r in runs])}
    write(place / "comparison.json", json.dumps(document, indent=2) + "\n")
    return place
