"""What a part does not use cannot be set: each rule is true of the runs, and what breaks it is refused where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import moesim
from moesim import plugins
from moesim.contract import Policy
from moesim.errors import InputError
from moesim.policies.caching.moe_infinity import MoeInfinity
from moesim.policies.kit.predictors import Gate
from moesim.policies.near_data.moe_cxl import MoeCxl
from moesim.runs.run import RunOptions, loaded, run_loaded
from moesim.scenario import LoadedScenario, load
from moesim.spec import GIVEN, Unread

SMALL = {"workload.requests": 2, "workload.prompt": 24, "workload.output": 5}
ROUTING = {"kind": "sticky"}
SERVED = {
    "kind": "online",
    "requests": 4,
    "arrivals": {"kind": "poisson", "rate": "4/s"},
    "prompt": 16,
    "output": 3,
    "routing": ROUTING,
}
ON_CXL = {"cxl_expert", "moe_cxl"}
SWITCHED: dict[str, Any] = {"kv": "hbm", "micro_batch_prefill": 1, "micro_batch_decode": 1, "num_batches": 1}
"""A value for each switch that has only to be given."""
OTHERS: dict[str, Any] = {
    "predictor": Gate(recall=(0.2,)), "single": (0.9, 0.9), "recall": (0.1,), "hint": None, "micro_batch": 2,
    "most_batches": 3, "buffers": 1,
}  # fmt: skip
"""Another value than the default, where none follows from it."""


def rules() -> Iterator[tuple[str, Unread]]:
    """Every rule that a shipped policy states, the one of all sized policies once."""
    common = False
    for name in plugins.names("policies"):
        for rule in plugins.find("policies", name).unread:
            if rule.fields != ("spare",) or not common:
                common = common or rule.fields == ("spare",)
                yield name, rule


def switched(kind: type[Policy], rule: Unread) -> dict[str, Any]:
    """Parameters with which the rule holds."""
    on = {name: SWITCHED[name] if value is GIVEN else value for name, value in rule.when.items()}
    for name, values in rule.unless.items():
        read = values if isinstance(values, tuple) else (values,)
        default = kind.model_fields[name].default
        on[name] = default if default not in read else 3 if isinstance(default, int) else _unlike(kind, name, read)
    return on


def _unlike(kind: type[Policy], name: str, read: tuple[Any, ...]) -> Any:
    return next(value for value in get_args(kind.model_fields[name].annotation) if value not in read)


def varied(policy: Policy, name: str) -> Any:
    value = getattr(policy, name)
    choices = get_args(type(policy).model_fields[name].annotation)
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    if isinstance(value, float):
        return value / 3 + 0.01
    if isinstance(value, str):
        return next(choice for choice in choices if choice != value)
    return value.model_copy(update={"capacity": 1})


@cache
def small(name: str) -> LoadedScenario:
    """A short job with its routing, which no policy changes."""
    scenario = loaded(name, **SMALL)
    return replace(scenario, job_and_table=scenario.build())


@pytest.mark.parametrize(("name", "rule"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].fields[0]}") for pair in rules()])
def test_what_a_policy_calls_unread_changes_nothing(name: str, rule: Unread) -> None:
    kind = plugins.find("policies", name)
    scenario = small("moe_cxl/mixtral-8x7b" if name in ON_CXL else "quickstart")
    policy = kind(**switched(kind, rule))
    assert set(rule.fields) <= set(policy.unused())
    changed = policy.model_copy(update={field: varied(policy, field) for field in rule.fields})
    assert changed != policy
    plain, varied_run = (run_loaded(scenario, RunOptions(bound=False), policy=version) for version in (policy, changed))
    assert plain.summary["throughput_tok_s"] == varied_run.summary["throughput_tok_s"]
    assert plain.summary["bytes"] == varied_run.summary["bytes"]


def write(path: Path, **keys: Any) -> Path:
    path.write_text(json.dumps({"extends": "quickstart", **keys}, indent=1))
    return path


def refused(source: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source, **more)
    return str(caught.value)


def test_all_unread_keys_are_named_where_they_stand(tmp_path: Path) -> None:
    policy = {"kind": "moe_infinity", "prefetch": False, "flight": 2, "trace": {"capacity": 9}}
    path = write(tmp_path / "s.yaml", policy=policy, simulation={"windows": 8})
    message = refused(path)
    assert len(message.splitlines()) == 3
    assert (
        f"{path}:6:3: policy.flight: nothing reads this key, because prefetch is false; leave it out, or change that" in message
    )
    assert (
        "s.yaml:7:3: policy.trace: nothing reads this key, because prefetch is false and eviction is not activation" in message
    )
    assert "simulation.windows: nothing reads this key, because sample is not given" in message


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["simulation.error=10 %"], "--set simulation.error: nothing reads this key, because sample is not given"),
        (
            ["workload.chunk=8", "runtime.chunk=16"],
            "--set runtime.chunk: nothing reads this key, because workload.chunk is given",
        ),
        (["policy.kind=lru", "policy.kv=hbm", "policy.spare=0.5"], "because kv is given"),
        (["policy.kind=llama_cpp_stream", "policy.period=9"], "because eviction is not hotness"),
    ],
)
def test_changes_that_nothing_reads_are_refused(sets: list[str], words: str) -> None:
    assert words in refused("quickstart", sets=sets)


def test_defaults_beside_a_change_are_nobodys() -> None:
    """A change inside a section that the file leaves out brings its defaults along."""
    assert load("quickstart", sets=["simulation.engine=reference"]).scenario.simulation.engine == "reference"


def test_a_serving_program_has_no_chunk_where_a_scheduler_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", workload=SERVED, runtime={"profile": "reference", "chunk": 64})
    assert "runtime.chunk: nothing reads this key, because the workload's scheduler says" in refused(path)
    load(write(tmp_path / "t.yaml", workload=SERVED, runtime="llama-cpp"))  # its own chunk stands in its profile


def test_a_later_change_may_turn_off_what_a_file_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", policy={"kind": "moe_infinity", "flight": 2})
    assert load(path, sets=["policy.prefetch=false"]).scenario.policy.prefetch is False
    assert "policy.flight" in refused(path, sets=["policy.prefetch=false", "policy.flight=3"])


def test_objects_are_judged_by_what_they_were_made_with() -> None:
    with pytest.raises(InputError, match=r"policy.flight: nothing reads this key, because prefetch is false"):
        moesim.run("quickstart", policy=MoeInfinity(prefetch=False, flight=2), **SMALL)
    result = moesim.run("quickstart", policy=MoeInfinity(prefetch=False), **SMALL)
    assert result.provenance["scenario"]["policy"]["prefetch"] is False


def test_a_result_is_run_again_whatever_its_parameters(tmp_path: Path) -> None:
    place = moesim.run("quickstart", policy=MoeInfinity(prefetch=False), **SMALL).save(tmp_path / "run")
    document = json.loads((place / "result.json").read_text())
    document["provenance"]["scenario"]["policy"]["flight"] = 8  # as moesim wrote it before it refused what is not read
    (place / "result.json").write_text(json.dumps(document))
    assert load(str(place / "result.json")).scenario.policy.flight == 8


def test_an_experiment_may_cross_a_switch_with_what_it_turns_off(tmp_path: Path) -> None:
    axes = {"policy.prefetch": [True, False], "policy.flight": [2, 4]}
    swept = moesim.sweep(
        {"scenario": {"extends": "quickstart", **SMALL_KEYS}, "policies": ["moe_infinity"], "axes": axes, "bound": False},
        jobs=1,
    )
    assert swept.answer.points.done == 4
    policies = [MoeCxl(prefetch=0), MoeCxl(prefetch=2, depth=1)]
    assert [sorted(policy.unused()) for policy in policies] == [["confidence", "depth", "hint", "idle_cost", "ngram"], []]


SMALL_KEYS = {"workload": {"kind": "offline", "requests": 1, "prompt": 8, "output": 3, "routing": ROUTING}}
