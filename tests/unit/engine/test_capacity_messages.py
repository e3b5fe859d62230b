"""A refusal for want of memory names every share, and the shares add up to the byte."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from moesim import plugins
from moesim.errors import InputError
from moesim.hardware import System
from moesim.runs.run import RunOptions, run_loaded
from moesim.scenario import LoadedScenario, load_data
from moesim.units import format_count, format_exact, format_sum

MODEL = {
    "name": "small", "hidden": 1024, "layers": 4, "experts": 8, "top_k": 2, "expert_width": 2048, "vocab": 32000,
    "attention": {"kind": "gqa", "heads": 16, "kv_heads": 8, "head_dim": 64},
}  # fmt: skip
EXPERT = 3 * 1024 * 2048 * 2
WORKLOAD = {"kind": "offline", "requests": 4, "prompt": 64, "output": 8, "routing": {"kind": "uniform"}}
SUM = re.compile(r"(-?[\d,]+) B \(((?:[^()]*?(?: \([^()]*\))?)*? [\d,]+ B)\)")


def scenario(policy: Any, sets: dict[str, Any], hardware: str = "rtx4090-desktop", **workload: Any) -> Any:
    data = {"name": "s", "hardware": hardware, "model": MODEL, "workload": {**WORKLOAD, **workload}, "policy": policy}
    return load_data(data, sets=sets)


def refused(policy: Any, sets: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InputError) as error:
        run_loaded(scenario(policy, sets, **more))
    return str(error.value)


def sums(message: str) -> list[tuple[int, int]]:
    """(total, sum of its shares) of every sum in a message."""
    totals = []
    for match in SUM.finditer(message):
        first, *rest = re.split(r"(?<= B) ([+-]) ", match.group(2))
        shares = [("+", first), *zip(rest[::2], rest[1::2], strict=True)]
        totals.append((number(match.group(1)), sum(int(f"{sign}{number(text.split()[-2])}") for sign, text in shares)))
    return totals


def number(text: str) -> int:
    return int(text.replace(",", ""))


def adds_up(message: str) -> None:
    totals = sums(message)
    assert totals, message
    for total, parts in totals:
        assert total == parts, message


TINY_GPU = {"hardware.tiers.hbm.capacity": "60 MB"}
TINY_HOST = {
    "hardware.tiers.hbm.capacity": "400 MB",
    "hardware.tiers.ddr.capacity": "250 MB",
    "hardware.tiers.nvme.capacity": "9 MB",
}
SLOW = {"optimum"}


@pytest.mark.parametrize("sets", [TINY_GPU, TINY_HOST], ids=["gpu", "host"])
def test_every_policy_says_which_shares_do_not_fit(sets: dict[str, Any]) -> None:
    short_of_room = scenario("on_demand", sets, output=2)
    short_of_room = replace(short_of_room, job_and_table=short_of_room.build())
    messages = {policy: refusal(policy, short_of_room) for policy in sorted(set(plugins.BUILT_IN["policies"]) - SLOW)}
    short = {policy: text for policy, text in messages.items() if " B" in text and "needs" not in text}
    wrong = [policy for policy, text in short.items() if any(total != parts for total, parts in sums(text)) or not sums(text)]
    assert not wrong, short[wrong[0]]
    assert len(short) > len(messages) / 3  # of others the machine lacks something else, and some fit


def refusal(policy: str, loaded: LoadedScenario) -> str:
    """Why it does not run; empty if it does."""
    try:
        run_loaded(loaded, RunOptions(bound=False), policy=plugins.find("policies", policy)(), policy_name=policy)
    except InputError as error:
        return str(error)
    return ""


def test_the_gpu_names_weights_intermediates_cache_and_slots() -> None:
    message = refused({"kind": "on_demand", "kv": "hbm", "staging": 4}, TINY_GPU)
    assert f"4 staging slots {4 * EXPERT:,} B" in message
    assert re.search(r"'hbm' has 56,400,000 B and must hold [\d,]+ B \(weights other than routed experts [\d,]+ B", message)
    assert "KV cache" in message
    adds_up(message)


def test_the_host_names_its_tiers_and_the_cache_in_it() -> None:
    message = refused({"kind": "on_demand", "kv": "ddr"}, TINY_HOST)
    assert f"32 experts of {EXPERT:,} B are {32 * EXPERT:,} B, and there is room for " in message
    assert "'ddr' " in message
    assert "- KV cache in 'ddr' " in message
    adds_up(message)


@pytest.mark.parametrize(
    ("policy", "parameter"),
    [
        ({"kind": "cox_moe", "residents": 8}, "residents as given (8)"),
        ({"kind": "flexgen", "wg": 1.0}, "wg as given (1.0)"),
        ({"kind": "flexgen", "gpu_batch": 64}, "gpu_batch as given (64)"),
    ],
)
def test_a_plan_that_does_not_fit_as_given_says_by_how_much(policy: dict[str, Any], parameter: str) -> None:
    sets = {"hardware.tiers.hbm.capacity": "270 MB"}
    message = refused(policy, sets, requests=64, prompt=2048)
    assert message.startswith(f"policy: no plan fits with {parameter}: ")
    assert "'hbm' has 253,800,000 B and would hold " in message
    adds_up(message)


def test_an_assignment_that_cannot_be_run_is_refused_with_the_number_of_those_that_can() -> None:
    message = refused({"kind": "lia", "decode_vector": [0, 1, 0, 0, 0, 0]}, {})
    start = "policy: no plan fits with decode_vector as given ([0, 1, 0, 0, 0, 0]): "
    why = r"\d+ assignments of sub-layers can be run here, and none of them is that one; leave it to the search"
    assert re.fullmatch(re.escape(start) + why, message)


def test_a_model_larger_than_all_tiers_is_refused_to_the_byte() -> None:
    with pytest.raises(InputError) as error:
        scenario("lru", {**TINY_GPU, "hardware.tiers.ddr.capacity": "50 MB", "hardware.tiers.nvme.capacity": "1 MB"})
    (first, second) = sums(str(error.value))
    assert first[0] == first[1] > second[0] == second[1]
    assert str(error.value).startswith("model: small takes ")


def test_interleaved_sets_that_take_too_much_are_named() -> None:
    tiers = {
        "hbm": {"kind": "hbm", "at": "gpu", "capacity": "1 GB", "read": "1 TB/s"},
        "a": {"kind": "ddr", "at": "host", "capacity": "10 GB", "read": "100 GB/s"},
        "b": {"kind": "ddr", "at": "host", "capacity": "10 GB", "read": "100 GB/s"},
        "one": {"kind": "interleaved", "of": ["a", "b"], "capacity": "12 GB"},
        "two": {"kind": "interleaved", "of": ["a", "b"], "capacity": "10 GB"},
    }
    devices = {"gpu": {"kind": "gpu", "at": "gpu", "memory": "hbm", "compute": "1 TFLOPS"}}
    links = {"pcie": {"ends": ["host", "gpu"], "rate": "1 GB/s"}}
    with pytest.raises(ValueError, match="interleaved sets take") as error:
        System.model_validate({"devices": devices, "tiers": tiers, "links": links}, context={"units": "required"})
    assert "interleaved sets take 11,000,000,000 B ('one' 6,000,000,000 B + 'two' 5,000,000,000 B) of 'a'" in str(error.value)


def test_sums_show_what_they_add() -> None:
    assert format_sum({"a": 1000.4, "b": 0.2, "c": -200.0}) == "800 B (a 1,000 B - c 200 B)"
    assert format_sum({"a": -5.0, "b": 7.0}) == "2 B (- a 5 B + b 7 B)"
    assert format_sum({"a": 0.0}) == "0 B"
    assert format_exact(1234.5678) == "1,235 B"
    assert (format_count(1, "expert"), format_count(1536, "expert")) == ("1 expert", "1,536 experts")
