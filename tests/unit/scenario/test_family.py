"""Variations of one scenario: each says which file, name or mapping it starts from, and changes leave the others alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.policies.caching.lru import LRU
from moesim.scenario import load_data
from moesim.scenario.family import Family, change, number_change, policy_change
from moesim.scenario.tree import Node, Place, from_plain
from tests.served_models import MODEL

WORKLOAD = {"kind": "offline", "requests": 2, "prompt": 4, "output": 2, "routing": {"kind": "uniform"}}
SMALL: dict[str, Any] = {
    "name": "small", "hardware": "rtx4090-desktop", "model": MODEL, "policy": {"kind": "lru", "capacity": 2},
    "workload": WORKLOAD,
}  # fmt: skip
PLACE = Place("experiment.yaml", 3, 5)
"""Where the experiment says its scenario."""


def family(base: Any, folder: Path = Path(), **sets: Any) -> Family:
    place = PLACE._replace(file=str(folder / PLACE.file))
    node = Node(base, place) if not isinstance(base, dict) else from_plain(base, place)
    return Family(node, folder, [change(path, Node(value, PLACE)) for path, value in sets.items()])


def refusal(base: Any, folder: Path) -> tuple[str, str, int, int]:
    with pytest.raises(InputError) as caught:
        family(base, folder)
    [mistake] = caught.value.mistakes
    assert mistake.path == "scenario"
    return mistake.message, mistake.file, mistake.line, mistake.column


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nname: mine\nreplicate: 3\nworkload: {requests: 5}\n")
    return tmp_path


def test_a_name_is_looked_up_beside_the_file_that_says_it(folder: Path) -> None:
    for base in ("mine", "./mine.yaml", folder / "mine.yaml"):
        beside = family(base, folder)
        assert (beside.written["name"], beside.replicate, beside.path) == ("mine", 3, folder / "mine.yaml")
        assert beside.member([]).scenario.workload.requests == 5  # type: ignore[union-attr]
    shipped = family("quickstart", folder)
    assert (shipped.written["name"], shipped.replicate) == ("quickstart", 0)


def test_a_mapping_or_a_loaded_scenario_has_no_file(folder: Path) -> None:
    for base in (SMALL, load_data(SMALL)):
        known = family(base, folder)
        assert (known.path, known.written["workload"]) == (None, WORKLOAD)
    assert family({"extends": "./mine.yaml"}, folder).written["workload"]["requests"] == 5
    assert family({key: value for key, value in SMALL.items() if key != "name"}).written["name"] == "scenario"


def test_changes_of_a_member_leave_the_others_and_the_base_alone() -> None:
    small = family(SMALL, **{"workload.prompt": 6})
    changed = small.member([change("workload.requests", Node(7, PLACE)), number_change("replicate", 2)])
    plain = small.member([])
    assert (changed.scenario.workload.requests, changed.scenario.replicate) == (7, 2)  # type: ignore[union-attr]
    assert (plain.scenario.workload.requests, plain.scenario.replicate) == (2, 0)  # type: ignore[union-attr]
    assert changed.scenario.workload.prompt == plain.scenario.workload.prompt == 6  # type: ignore[union-attr]
    assert small.written["workload"]["requests"] == 2


def test_a_policy_by_its_own_name_keeps_the_parameters_of_the_scenario() -> None:
    small = family(SMALL)
    policies = {
        "own": small.member([policy_change(Node("lru", PLACE))]).scenario.policy,
        "other": small.member([policy_change(Node("on_demand", PLACE))]).scenario.policy,
        "object": small.member([], LRU(capacity=7)).scenario.policy,
    }
    assert {name: (policy.kind, getattr(policy, "capacity", None)) for name, policy in policies.items()} == {
        "own": ("lru", 2), "other": ("on_demand", None), "object": ("lru", 7),
    }  # fmt: skip


def test_parameters_of_a_policy_are_those_of_its_class() -> None:
    small = family(SMALL)
    own = [name for name in LRU.model_fields if name != "kind"]
    assert "capacity" in own
    for policy in (None, Node("lru"), from_plain({"kind": "lru"}), LRU()):
        assert small.policy_keys(policy) == own
    assert small.policy_keys(Node("lruu")) is None
    assert small.policy_keys(Node("nowhere:Nothing")) is None
    assert (small.is_plugin(None), small.is_plugin(Node("nowhere:Nothing"))) == (False, True)


def test_what_is_not_a_scenario_is_refused_where_it_is_said(folder: Path) -> None:
    place = (str(folder / "experiment.yaml"), 3, 5)
    assert refusal(7, folder) == (
        "7 is not a scenario; write the name or path of one, or a mapping that extends one", *place,
    )  # fmt: skip
    assert refusal("./other.yaml", folder) == (f"no such file: {folder / 'other.yaml'}", *place)
    message, *rest = refusal("quickstrat", folder)
    assert message.startswith("unknown scenario 'quickstrat'")
    assert message.endswith("Did you mean 'quickstart'?")
    assert tuple(rest) == place


@pytest.mark.parametrize("path", ["", "workload.", ".requests", "workload..requests"])
def test_a_change_has_keys_with_dots_between_them(path: str) -> None:
    value = Node(1, PLACE, Place("experiment.yaml", 9, 2))
    with pytest.raises(InputError) as caught:
        change(path, value)
    [mistake] = caught.value.mistakes
    assert mistake.message == f"'{path}' is not a path; write keys with dots between them, such as workload.requests"
    assert (mistake.file, mistake.line, mistake.column) == ("experiment.yaml", 9, 2)
