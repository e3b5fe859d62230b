"""What holds for every run, and between a run and its twin: I1 to I13 and metamorphic relations over random scenarios.

Each relation takes a scenario that its strategy draws, and raises AssertionError where it does not hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import program_worlds
import pytest
from hypothesis import strategies as st

from moesim.results.result import Result
from moesim.units import parse
from tests.properties import ways
from tests.properties.crowded import crowded
from tests.properties.scenarios import EAGER, Scenario, changed, faster, run, scenarios
from tests.properties.scenarios import run as anew

TOGETHER: list[Scenario] = [
    {"kind": "static"},
    {"kind": "continuous", "asynchronous": False},
    {"kind": "continuous"},
    {"kind": "prefill_first"},
    {"kind": "slots"},
]
"""Schedulers with steps for all requests of the scenarios."""
NO_LANE = ("pass", "layer", "stalls")
"""Tracks of a timeline on which nothing works."""


def tables_agree(data: Scenario) -> None:
    """I1, I4: pairs, times and lanes of all tables add up to those of the summary."""
    result = run(data)
    summary, columns = result.summary, result.columns
    activations, hits = (int(columns["experts"][name].sum()) for name in ("activations", "hits"))
    assert summary["hit_rate"] == (hits / activations if activations else None)
    assert sum(summary["expert_tokens"].values()) == activations
    for table in ("layers", "steps"):
        assert (int(columns[table]["activations"].sum()), int(columns[table]["hits"].sum())) == (activations, hits)
    steps = columns["step_lanes"]
    for lane, share in summary["utilisation"].items():
        assert 0 < share <= 1
        assert share * summary["makespan_s"] == pytest.approx(steps["busy_s"][steps["lane"] == lane].sum(), rel=1e-9)
    assert sum(result.details["critical_s"].values()) == pytest.approx(summary["makespan_s"], rel=1e-9)
    if data["workload"]["kind"] == "offline":
        assert columns["steps"]["step_time_s"].sum() == pytest.approx(summary["makespan_s"], rel=1e-9)


def pairs_are_conserved(data: Scenario) -> None:
    """I1: every routed (token, expert) pair of an offline job is computed once, but for those that a policy skips."""
    summary, job = run(data).summary, data["workload"]
    tokens = job["requests"] * (job["prompt"] + job["output"] - 1)
    routed = tokens * data["model"]["top_k"] * len(data["model"]["moe_layers"])
    skipped = summary["quality"]["skipped"] * routed
    assert sum(summary["expert_tokens"].values()) == pytest.approx(routed - skipped, rel=1e-12)
    assert summary["output_tokens"] == job["requests"] * job["output"]


def lanes_and_tiers_keep_their_limits(data: Scenario) -> None:
    """I2, I3, I5, I11: bytes of a link are those of its copies, tiers are not overfilled, lanes do one thing at a time."""
    result = run(data, timeline=True)
    tracks = defaultdict(list)
    for piece in result.slices:
        if piece.track not in NO_LANE and not piece.track.startswith("counter:"):
            tracks[piece.track].append(piece)
    makespan = result.summary["makespan_s"] * 1e12
    for track, pieces in tracks.items():
        spans = sorted((piece.start, piece.end) for piece in pieces)
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), track
        assert spans[-1][1] <= makespan * (1 + 1e-12) + 1 or track.startswith(("pcie", "to0"))
    for tier, peak in result.details["peak_B"].items():
        assert peak <= parse(data["hardware"]["tiers"][tier]["capacity"], "size") * (1 + 1e-9), tier
    assert not [note for note in result.notes if note.startswith("I11")]


def engines_agree(data: Scenario) -> None:
    """I9: kernel and reference leave the same result to the picosecond, the byte and the critical path."""
    equal_results(run(data), run(data, **{"simulation.engine": "reference"}))


def equal_results(kernel: Result, reference: Result) -> None:
    assert {**kernel.summary, "wall_s": 0} == {**reference.summary, "wall_s": 0}
    assert kernel.details == reference.details
    for name, columns in kernel.columns.items():
        for column, values in columns.items():
            np.testing.assert_array_equal(values, reference.columns[name][column], err_msg=f"{name}.{column}")


def crowded_runs_are_timed_alike(data: Scenario) -> None:
    """I9 where requests queue for KV blocks, parts fail and policies are asked for by deciders: compiled, and as Python."""
    reference, *kernels = [timed(data, notation) for notation in ways.NOTATIONS]
    for kernel in kernels:
        equal_results(kernel, reference)


def timed(data: Scenario, notation: str) -> Result:
    with ways.timed_by(notation) as engine:
        return run(data, **{"simulation.engine": engine})


def worlds_are_timed_alike(example: ways.Example) -> None:
    """I9 for each way in which a policy may answer: what it places, moves, skips, streams and defers."""
    reference, *kernels = [ways.outcome(example, notation) for notation in ways.NOTATIONS]
    for kernel in kernels:
        if isinstance(kernel, str) or isinstance(reference, str):
            assert kernel == reference
        else:
            assert ways.worlds.differences(reference, kernel) == {}


def a_run_repeats_itself(data: Scenario) -> None:
    """I7: the same scenario leaves the same bytes again, and again from what its result keeps."""
    first = run(data)
    assert first.canonical_json() == anew(data).canonical_json()
    assert first.canonical_json() == anew(first.provenance["scenario"]).canonical_json()


def prefill_and_decode_share_the_makespan(data: Scenario) -> None:
    summary = run(data).summary
    decoded = summary["output_tokens"] - data["workload"]["requests"]
    times = [summary["prompt_tokens"] / summary["prefill_tok_s"]]
    assert (summary["decode_tok_s"] is None) == (decoded == 0)
    times += [decoded / summary["decode_tok_s"]] if decoded else []
    assert sum(times) == pytest.approx(summary["makespan_s"], rel=1e-9)


def doubled_rates_halve_the_time(data: Scenario) -> None:
    """Every rate twice as high and every fixed time half as long: the same run in half the time."""
    once = run(data).summary
    quick = run({**data, **{part: faster(data[part], 2.0) for part in ("hardware", "runtime")}}).summary
    rounding = 20e-12 * once["layer_visits"] / once["makespan_s"]
    assert quick["makespan_s"] * 2 == pytest.approx(once["makespan_s"], rel=1e-6 + 2 * rounding)


def more_of_a_resource_never_lowers_the_bound(data: Scenario) -> None:
    """I10, for the same passes: twice the link, the CPU, the memory of the GPU or the GPU itself."""
    base = run(data)
    paths = ("links.pcie.rate", "devices.cpu.kernels.amx.rate", "devices.cpu.kernels.amx.bandwidth", "devices.gpu.compute",
             "tiers.hbm.capacity", "tiers.ddr.read")  # fmt: skip
    for path in paths:
        value: Any = data["hardware"]
        for key in path.split("."):
            value = value[key]
        number, unit = value.split()
        more = run(changed(data, f"hardware.{path}", f"{2 * float(number)!r} {unit}"))
        if base.columns["steps"]["tokens"].tolist() == more.columns["steps"]["tokens"].tolist():
            assert more.summary["bound_tok_s"] >= base.summary["bound_tok_s"] * (1 - 1e-9), path


def an_unused_part_changes_nothing(data: Scenario) -> None:
    """A drive that nothing is put on, with a link of its own."""
    tiers, links = data["hardware"]["tiers"], data["hardware"]["links"]
    drive = {"kind": "nvme", "at": "drive", "capacity": "1 TB", "read": "3 GB/s", "latency": "80 us"}
    more = {"tiers": {**tiers, "drive": drive}, "links": {**links, "to_drive": {"ends": ["host", "drive"], "rate": "4 GB/s"}}}
    before, after = run(data), run({**data, "hardware": {**data["hardware"], **more}})
    equal = ("makespan_s", "bytes", "hit_rate", "expert_tokens", "utilisation", "events", "bottleneck")
    assert {key: before.summary[key] for key in equal} == {key: after.summary[key] for key in equal}
    # a linear programme with one variable more takes other steps to the same end
    assert before.summary["bound_tok_s"] == pytest.approx(after.summary["bound_tok_s"], rel=1e-12)
    assert after.details["peak_B"].get("drive", 0.0) == 0.0


def the_order_of_a_file_changes_nothing(data: Scenario) -> None:
    """Devices, tiers and links stand there in another order, and the GPU that attends is named."""
    machine = data["hardware"]
    turned = {part: dict(reversed(machine[part].items())) for part in ("devices", "tiers", "links")}
    before, after = run(data), run({**data, "hardware": {**machine, **turned, "attending": "gpu"}})
    equal = ("makespan_s", "bytes", "hit_rate", "expert_tokens", "utilisation", "events")
    assert {key: before.summary[key] for key in equal} == {key: after.summary[key] for key in equal}


def one_output_token_is_the_prefill(data: Scenario) -> None:
    """With one output token nothing is decoded: the answer ends with its first token."""
    summary = run(changed(data, "workload.output", 1)).summary
    assert summary["decode_tok_s"] is None
    assert summary["e2e_s"]["mean"] == summary["ttft_s"]["mean"]
    assert summary["prefill_tok_s"] == pytest.approx(summary["prompt_tokens"] / summary["makespan_s"], rel=1e-12)


def a_longer_answer_begins_alike(data: Scenario) -> None:
    """Nothing that is decoded later reaches back to the first tokens of requests that pass together."""
    data = changed(data, "policy", {"kind": "on_demand", "batch": data["workload"]["requests"]})
    short, long = run(changed(data, "workload.output", 1)), run(changed(data, "workload.output", 4))
    assert short.columns["requests"]["ttft_s"].tolist() == long.columns["requests"]["ttft_s"].tolist()


def a_chunk_of_everything_changes_nothing(data: Scenario) -> None:
    """I13: one chunk that takes all prompts is the run without chunks; smaller ones change times, never tokens."""
    job = data["workload"]
    whole = run(data)
    longest = run(changed(data, "workload.chunk", job["requests"] * job["prompt"]))
    assert whole.summary["makespan_s"] == longest.summary["makespan_s"]
    assert whole.summary["bytes"] == longest.summary["bytes"]
    small = run(changed(data, "workload.chunk", 3))
    for name in ("output_tokens", "prompt_tokens", "requests_completed"):
        assert whole.summary[name] == small.summary[name]
    assert whole.columns["layers"]["activations"].tolist() == small.columns["layers"]["activations"].tolist()


def a_job_in_rounds_begins_with_its_first_round(data: Scenario) -> None:
    """Twice the requests in rounds of the first half: the first round is the job of the first half alone."""
    half = data["workload"]["requests"]
    data = changed(data, "policy", {"kind": "on_demand", "batch": half})
    alone, both = run(data), run(changed(data, "workload.requests", 2 * half))
    for column in ("ttft_s", "e2e_s"):
        assert alone.columns["requests"][column].tolist() == both.columns["requests"][column].tolist()[:half]
    assert both.summary["makespan_s"] > alone.summary["makespan_s"]


def arrivals_at_the_beginning_are_an_offline_job(data: Scenario) -> None:
    """All requests at 0 and room for the policy's batch: the offline job, step for step, whoever composes the steps."""
    job = data["workload"]
    policy = {"kind": "on_demand", "batch": job["requests"]}
    rules = TOGETHER[data["seed"] % len(TOGETHER)]
    arrivals = {"kind": "closed", "users": job["requests"]}
    served = run({**data, "policy": policy, "workload": {**job, "kind": "online", "arrivals": arrivals, "scheduler": rules}})
    together = run({**data, "policy": policy})
    assert served.columns["steps"]["tokens"].tolist() == together.columns["steps"]["tokens"].tolist()
    assert served.columns["layers"]["activations"].tolist() == together.columns["layers"]["activations"].tolist()
    assert served.summary["bytes"] == together.summary["bytes"]
    assert served.summary["makespan_s"] == pytest.approx(together.summary["makespan_s"], rel=1e-12)


def a_server_loses_nobody(data: Scenario) -> None:
    """I12: who arrives is completed or refused; nobody is answered before arriving; Little's law on the queue's own levels."""
    result = run(data)
    summary, requests = result.summary, result.columns["requests"]
    assert summary["requests_completed"] + summary["requests_rejected"] == data["workload"]["requests"]
    done = ~np.isnan(requests["e2e_s"])
    assert int(done.sum()) == summary["requests_completed"]
    assert (requests["ttft_s"][done] <= requests["e2e_s"][done]).all()
    assert (requests["ttft_s"][done] > 0).all()
    assert summary["output_tokens"] == int(requests["output_tokens"][done].sum())
    queue = result.columns["queue"]
    assert (queue["kv_share"] <= 1).all()
    present = ((queue["running"] + queue["waiting"])[:-1] * np.diff(queue["time_s"])).sum()
    spent = (requests["arrival_s"] + requests["e2e_s"] - requests["queued_s"])[done].sum()
    assert present == pytest.approx(spent, rel=1e-9, abs=1e-12)


def programs_are_timed_alike(seed: int) -> None:
    """I4 to I6, I8, I9 on random programs of operations with items, slots, feeds and shared resources."""
    reference, *kernels = [program_worlds.story(notation, seed) for notation in ways.NOTATIONS]
    for kernel in kernels:
        assert kernel == reference


class Relation(NamedTuple):
    """What holds, and for what."""

    check: Callable[[Any], None]
    examples: st.SearchStrategy[Any]
    timed_thrice: bool = False
    """Whether the tests draw few examples: each is run by three engines."""


ANY, SERVED = scenarios(), scenarios(EAGER, served=True)
KNOWN = scenarios(EAGER)
WORLDS, CROWDED = ways.examples(), crowded()
RELATIONS: dict[str, Relation] = {
    check.__name__: Relation(check, examples, timed_thrice=examples in (WORLDS, CROWDED))
    for check, examples in (
        (tables_agree, ANY),
        (pairs_are_conserved, ANY),
        (lanes_and_tiers_keep_their_limits, ANY),
        (engines_agree, ANY),
        (a_run_repeats_itself, ANY),
        (prefill_and_decode_share_the_makespan, KNOWN),
        (doubled_rates_halve_the_time, KNOWN),
        (more_of_a_resource_never_lowers_the_bound, KNOWN),
        (an_unused_part_changes_nothing, KNOWN),
        (the_order_of_a_file_changes_nothing, ANY),
        (one_output_token_is_the_prefill, KNOWN),
        (a_longer_answer_begins_alike, KNOWN),
        (a_chunk_of_everything_changes_nothing, KNOWN),
        (a_job_in_rounds_begins_with_its_first_round, KNOWN),
        (arrivals_at_the_beginning_are_an_offline_job, KNOWN),
        (a_server_loses_nobody, SERVED),
        (programs_are_timed_alike, st.integers(0, 2**31)),
        (worlds_are_timed_alike, WORLDS),
        (crowded_runs_are_timed_alike, CROWDED),
    )
}
