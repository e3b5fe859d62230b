"""The summary of a run: its fields, what they mean, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from moesim.errors import MoesimError
from moesim.results.recorder import SECOND, LayerSums, Recorder
from moesim.results.result import FIELDS, Result, RunFacts, make_result
from moesim.results.rows import PassRow, PassRows

CONTRACT = (
    "scenario policy hardware model seed replicate throughput_tok_s total_tok_s makespan_s output_tokens prompt_tokens "
    "requests_completed requests_rejected ttft_s tpot_s e2e_s utilisation bytes hit_rate expert_tokens bottleneck "
    "bound_tok_s share_of_bound energy_J energy_known cost_usd_per_Mtok machine_usd events layer_visits wall_s "
    "quality prefetch runtime prefill_tok_s decode_tok_s decode_hit_rate queue_s itl_s slo preemptions is_bound proven_gap"
)


def recorder() -> Recorder:
    """Three requests in 10 s: two answered, one never finished."""
    sums = LayerSums.zeros(2)
    sums.visits[:], sums.activations[:], sums.hits[:] = 3, [40, 60], [10, 40]
    written = Recorder(sums, 3)
    written.first_token[:] = [2 * SECOND, 3 * SECOND, -1]
    written.finish[:] = [5 * SECOND, 3 * SECOND, -1]
    written.passes.append(PassRow(0, "prefill", 0, 3 * SECOND, 2, 30, 60, 20, 4))
    written.passes.append(PassRow(1, "decode", 3 * SECOND, 10 * SECOND, 1, 1, 40, 30, 2))
    written.busy = {"pcie:forward": 6 * SECOND, "gpu": 4 * SECOND}
    written.critical = {"pcie:forward": 6 * SECOND, "gpu": 4 * SECOND}
    written.critical_by_phase = {
        "prefill": {"pcie:forward": 3 * SECOND}, "decode": {"pcie:forward": 3 * SECOND, "gpu": 4 * SECOND}}  # fmt: skip
    written.moved = {"pcie:forward": 6e9, "ddr:read": 7e9}
    written.caused = {"prefetch": 2e9, "demand": 4e9}
    written.expert_tokens = {"gpu": 70, "cpu": 30}
    written.makespan, written.events, written.layer_visits = 10 * SECOND, 12, 6
    return written


def facts(**changes: object) -> RunFacts:
    base = RunFacts(
        scenario="s", policy="p", hardware="h", model="m", seed=7, arrival=np.array([0.5, 0.0, 1.0]),
        prompt=np.array([10, 20, 40]), output=np.array([4, 1, 8]), rejected=1, wall_s=0.25)  # fmt: skip
    return replace(base, **changes)


def test_fields_are_those_of_the_contract_in_its_order() -> None:
    assert " ".join(make_result(recorder(), facts()).summary) == CONTRACT
    assert " ".join(FIELDS) == CONTRACT


def test_prefill_and_decode_have_rates_of_their_own() -> None:
    summary = make_result(recorder(), facts()).summary
    assert (summary["prefill_tok_s"], summary["decode_tok_s"]) == (30 / 3, 1 / 7)
    assert summary["decode_hit_rate"] == 30 / 40


def test_without_decoding_its_rate_is_missing() -> None:
    record = recorder()
    record.passes = PassRows(record.passes[:1])
    summary = make_result(record, facts()).summary
    assert (summary["decode_tok_s"], summary["decode_hit_rate"]) == (None, None)
    alone = make_result(recorder(), facts(single_layer_batch=True)).summary
    assert {alone[name] for name in ("prefill_tok_s", "decode_tok_s", "decode_hit_rate")} == {None}


def test_a_run_beats_its_bound_by_more_than_half_a_picosecond_for_each_operation() -> None:
    record = recorder()
    for operations, beaten in ((200, False), (10, True)):
        record.rounded = operations
        result = make_result(record, facts(bound_s=10 * (1 + 5e-9) if operations == 10 else 10 + 0.5e-10))
        assert bool([note for note in result.notes if note.startswith("I11")]) == beaten


def test_tokens_and_rates_count_completed_requests_only() -> None:
    summary = make_result(recorder(), facts()).summary
    assert (summary["requests_completed"], summary["requests_rejected"]) == (2, 1)
    assert (summary["output_tokens"], summary["prompt_tokens"], summary["makespan_s"]) == (5, 30, 10.0)
    assert (summary["throughput_tok_s"], summary["total_tok_s"]) == (0.5, 3.5)


def test_latencies_are_measured_from_the_arrival() -> None:
    frame = make_result(recorder(), facts()).frame("requests")
    assert frame["ttft_s"].tolist()[:2] == [1.5, 3.0]
    assert frame["e2e_s"].tolist()[:2] == [4.5, 3.0]
    assert frame["tpot_s"][0] == 1.0
    assert frame[["ttft_s", "tpot_s", "e2e_s"]].isna().to_numpy().tolist() == [[False] * 3, [False, True, False], [True] * 3]


def test_a_latency_that_nobody_has_is_null_in_each_part() -> None:
    summary = make_result(recorder(), facts(output=np.array([1, 1, 1]))).summary
    assert summary["tpot_s"] == {"mean": None, "p50": None, "p90": None, "p99": None}
    assert summary["ttft_s"]["mean"] == 2.25


def test_where_time_bytes_and_tokens_went() -> None:
    result = make_result(recorder(), facts(lane_words={"pcie:forward": "PCIe upload", "never": "never"}))
    assert result.summary["utilisation"] == {"gpu": 0.4, "pcie:forward": 0.6}
    assert list(result.summary["bytes"].items()) == [("ddr:read", 7e9), ("pcie:forward", 6e9)]
    assert list(result.summary["expert_tokens"].items()) == [("cpu", 30), ("gpu", 70)]
    lane = {"lane": "pcie:forward", "words": "PCIe upload", "share": 0.6}
    decode = {"lane": "gpu", "words": "gpu", "share": pytest.approx(4 / 7)}
    assert result.summary["bottleneck"] == {**lane, "prefill": {**lane, "share": 1.0}, "decode": decode}
    assert result.details["lane_words"] == {"pcie:forward": "PCIe upload"}
    assert result.summary["hit_rate"] == 0.5
    assert result.details["caused_B"] == {"demand": 4e9, "prefetch": 2e9}


def test_the_bound_is_in_tokens_of_this_run() -> None:
    summary = make_result(recorder(), facts(bound_s=4.0)).summary
    assert (summary["bound_tok_s"], summary["share_of_bound"]) == (1.25, 0.4)
    assert summary["share_of_bound"] == summary["throughput_tok_s"] / summary["bound_tok_s"]


def test_i11_a_run_that_beats_its_bound_says_so() -> None:
    assert make_result(recorder(), facts(bound_s=10.0)).notes == []
    (note,) = make_result(recorder(), facts(bound_s=11.0)).notes
    assert note.startswith("I11")


def test_what_is_unknown_is_null() -> None:
    summary = make_result(recorder(), facts(wall_s=None)).summary
    assert {name for name, value in summary.items() if value is None} == {
        "bound_tok_s", "share_of_bound", "energy_J", "energy_known", "cost_usd_per_Mtok", "machine_usd", "wall_s", "prefetch",
        "queue_s", "itl_s", "slo", "preemptions", "proven_gap"}  # fmt: skip


def test_a_single_layer_counts_the_tokens_of_its_batch() -> None:
    summary = make_result(recorder(), facts(single_layer_batch=True, bound_s=5.0)).summary
    assert (summary["throughput_tok_s"], summary["total_tok_s"], summary["bound_tok_s"]) == (3.1, 3.1, 6.2)
    assert summary["ttft_s"]["mean"] is None
    assert (summary["e2e_s"]["mean"], summary["output_tokens"], summary["prompt_tokens"]) == (3.75, 0, 30)


def test_a_run_of_nothing_has_no_rates() -> None:
    nothing = np.empty(0)
    empty = make_result(Recorder(LayerSums.zeros(1), 0), facts(arrival=nothing, prompt=nothing, output=nothing))
    for name in ("throughput_tok_s", "total_tok_s", "hit_rate", "bottleneck"):
        assert empty.summary[name] is None
    assert empty.frame("steps").empty


def test_everything_is_plain_json() -> None:
    summary = make_result(recorder(), facts(bound_s=np.float64(4.0), energy_J=np.float32(2.0), seed=np.int64(7))).summary
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert type(summary["seed"]) is int
    assert type(summary["energy_J"]) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(MoesimError, match=r"summary\.energy_J"):
        make_result(recorder(), facts(energy_J=value))


def test_critical_times_must_add_up_to_the_makespan() -> None:
    record = recorder()
    record.critical["gpu"] += 1
    with pytest.raises(MoesimError, match="10000000000001 ps"):
        make_result(record, facts())


def test_a_hit_rate_above_one_is_refused() -> None:
    record = recorder()
    record.layers.hits[0] = 41
    with pytest.raises(MoesimError, match="hit rate"):
        make_result(record, facts())


def test_i5_a_lane_cannot_work_longer_than_the_run() -> None:
    record = recorder()
    record.busy["gpu"] = record.makespan + 1
    with pytest.raises(MoesimError, match=r"I5.*gpu"):
        make_result(record, facts())


def test_i4_nothing_is_answered_before_it_arrives() -> None:
    with pytest.raises(MoesimError, match="I4"):
        make_result(recorder(), facts(arrival=np.array([2.5, 0.0, 0.0])))


def test_facts_of_another_run_are_refused() -> None:
    with pytest.raises(MoesimError, match="prompt has 1 entries for 3 requests"):
        make_result(recorder(), facts(prompt=np.array([1])))


def test_tables_carry_their_units() -> None:
    result = make_result(recorder(), facts())
    assert result.frame("steps")["step_time_s"].tolist() == [3.0, 7.0]
    assert result.frame("steps")["phase"].tolist() == ["prefill", "decode"]
    lanes = result.frame("lanes").set_index("lane")
    assert lanes.index.tolist() == ["cpu", "ddr:read", "gpu", "pcie:forward"]
    assert lanes.loc["pcie:forward", ["busy_s", "critical_share", "moved_B"]].tolist() == [6.0, 0.6, 6e9]
    assert result.frame("layers")["hit_rate"].tolist() == [0.25, 40 / 60]
    assert result.frame("steps") is result.frame("steps")


def test_an_unknown_table_is_named_with_the_right_one() -> None:
    with pytest.raises(MoesimError, match="Did you mean 'layers'"):
        make_result(recorder(), facts()).frame("layer")


def test_only_wall_time_and_place_may_differ_between_equal_runs() -> None:
    def written(**changes: object) -> bytes:
        return make_result(recorder(), facts(**changes)).canonical_json()

    here = {"scenario": {"a": 1}, "platform": "Linux", "command": ["moesim", "run"], "versions": {"numpy": "2"}}
    assert written() == written(wall_s=99.0)
    assert written(provenance=here) == written(provenance=here | {"platform": "Darwin", "command": None, "versions": {}})
    assert written(provenance=here) != written(provenance=here | {"scenario": {"a": 2}})
    assert written() != written(seed=8)
    assert written() != written(arrival=np.array([0.5, 0.0, 1.5]))


def test_making_a_result_loads_nothing_heavy() -> None:
    heavy = ["pandas", "scipy", "matplotlib", "simpy", "yaml"]
    imports = "import sys, moesim.results.result, moesim.results.bound, moesim.results.table"
    code = f"{imports}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_result_prints_as_its_table() -> None:
    result: Result = make_result(recorder(), facts())
    assert str(result).startswith("s: p runs m on h\n")
