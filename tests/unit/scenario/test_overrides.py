"""Changes laid over a scenario: what can be read, where they apply, what they replace, and what they may not undo."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.errors import InputError
from moesim.scenario.overrides import Change, Override, changes, is_path, parts_first
from moesim.scenario.scenario import load_data
from moesim.scenario.tree import from_plain

BASE: dict[str, Any] = {
    "name": "base",
    "hardware": "rtx4090-desktop",
    "model": "mixtral-8x7b",
    "workload": {"kind": "offline", "requests": 2, "prompt": 8, "output": 2, "routing": {"kind": "uniform"}},
    "policy": {"kind": "lru", "capacity": 3},
}


def loaded(*sets: str, policy: Any = None, seed: int | None = None, base: dict[str, Any] | None = None) -> Any:
    return load_data(base or BASE, sets=list(sets), policy=policy, seed=seed)


def messages(*sets: str, **more: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        loaded(*sets, **more)
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("text", "path"), [("seed", True), ("a.b.0", True), ("", False), ("a..b", False), (".a", False), ("a. b", False)]
)
def test_a_path_is_keys_with_dots_between_them(text: str, path: bool) -> None:
    assert is_path(text) is path


def test_changes_come_in_order_of_precedence() -> None:
    requested, mistakes = changes(["seed=7", "workload.requests=4"], "lfu", 3)
    assert [(".".join(change.path), change.value.plain(), change.by) for change in requested] == [
        ("policy", "lfu", "--policy"), ("seed", 3, "--seed"), ("seed", 7, "--set"), ("workload.requests", 4, "--set"),
    ]  # fmt: skip
    assert mistakes == []
    by_name, _ = changes({"seed": 7, "workload.prompt": "8"}, None, None)
    assert [change.value.plain() for change in by_name] == [7, "8"]


def test_what_cannot_be_read_is_reported_together_and_the_rest_goes_on() -> None:
    requested, mistakes = changes(["seed", "a..b=1", "seed=5"], None, None)
    assert [change.value.plain() for change in requested] == [5]
    assert [mistake.message.partition(";")[0] for mistake in mistakes] == ["no '=' in it", "'a..b' is not a path"]


def test_the_seed_of_the_option_wins_over_the_file_and_a_set_over_both() -> None:
    assert loaded(base={**BASE, "seed": 1}).scenario.seed == 1
    assert loaded(seed=2, base={**BASE, "seed": 1}).scenario.seed == 2
    assert loaded("seed=3", seed=2, base={**BASE, "seed": 1}).scenario.seed == 3


def test_a_policy_of_another_name_comes_with_its_own_defaults_and_the_same_name_keeps_the_file_s() -> None:
    assert loaded(policy="lru").scenario.policy.capacity == 3
    assert loaded(policy="lfu").scenario.policy.kind == "lfu"
    assert loaded(policy="lfu").scenario.policy.capacity is None
    assert loaded("policy.capacity=5", policy="lfu").scenario.policy.capacity == 5


def test_each_change_says_what_was_there_before() -> None:
    overrides = loaded("workload.requests=4", "policy.capacity=5", "seed=9", policy="lfu").overrides
    assert [str(override) for override in overrides] == [
        '--policy policy: {"kind": "lru", "capacity": 3} -> lfu',
        "--set workload.requests: 2 -> 4",
        "--set policy.capacity: null -> 5",
        "--set seed: 0 -> 9",
    ]
    assert str(Override("seed", None, 1, "--seed")) == "--seed seed: null -> 1"


def test_an_entry_of_a_list_is_named_by_its_place() -> None:
    base = {**BASE, "compare": ["lru", "lfu"]}
    assert list(loaded("compare.1=fifo", base=base).scenario.compare) == ["lru", "fifo"]
    (message,) = messages("compare.2=fifo", base=base)
    assert "'2' is not an entry of the list 'compare', which has 2; the first one is 0" in message
    (message,) = messages("compare.first=fifo", base=base)
    assert "'first' is not an entry of the list 'compare'" in message


def test_places_that_do_not_exist_are_refused_with_what_is_near() -> None:
    value, key = sorted(messages("workload.request=4", "seed.x=1"))
    assert value == "--set seed.x: 'seed' is a single value (0); it has no key 'x'"
    assert key.startswith("--set workload.request: ")
    assert "'requests'" in key, "the key that was meant"


def test_a_later_part_does_not_silently_undo_an_earlier_change_of_it() -> None:
    (message,) = messages("policy.capacity=5", "policy=lfu")
    assert "this change is undone by the later one of 'policy' (--set); write it after that one" in message
    assert loaded("policy=lfu", "policy.capacity=5").scenario.policy.capacity == 5


def test_values_keep_their_units() -> None:
    machine = loaded("hardware.links.pcie.rate=10 GB/s").scenario.hardware
    assert machine.links["pcie"].rate == 10e9


def test_parts_that_are_named_come_before_what_changes_them() -> None:
    def change(path: str, value: Any) -> Change:
        return Change(tuple(path.split(".")), from_plain(value), "experiment")

    rate, tier = change("hardware.tiers.hbm.capacity", "40 GB"), change("hardware.tiers.hbm", {"profile": "hbm3"})
    seed = change("seed", 3)
    assert parts_first([rate, seed, tier]) == [tier, rate, seed]
    assert parts_first([rate, seed]) == [rate, seed], "nothing else moves"
