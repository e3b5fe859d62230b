"""A sample of a served run against the run in full, what it leaves, and what cannot be sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import moesim
from moesim.errors import InputError
from moesim.results.statistics import ratio_interval, regressed_interval, windows_needed
from moesim.scheduling.fluid import Limits, StepLine, fit_steps, play

SCENARIO: dict[str, Any] = {
    "name": "sampled",
    "hardware": "rtx4090-desktop",
    "model": {
        "name": "tiny", "hidden": 512, "layers": 2, "experts": 8, "top_k": 2, "expert_width": 1024, "vocab": 32000,
        "attention": {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 64},
    },
    "policy": "gpu_only",
    "workload": {
        "kind": "online", "requests": 240, "arrivals": {"kind": "poisson", "rate": "400/s"},
        "prompt": {"kind": "uniform", "minimum": 8, "maximum": 96}, "output": {"kind": "uniform", "minimum": 4, "maximum": 40},
        "routing": {"kind": "uniform"}, "scheduler": {"kind": "continuous", "max_num_seqs": 16, "max_num_batched_tokens": 256},
        "slo": {"ttft": "10 ms", "tpot": "2 ms"},
    },
}  # fmt: skip


def run(**changes: Any) -> moesim.Result:
    return moesim.run(SCENARIO, **changes)


@pytest.fixture(scope="module")
def sample() -> moesim.Result:
    return run(**{"simulation.sample": "40 %", "simulation.windows": 8})


def test_intervals_of_a_sample_cover_the_full_run(sample: moesim.Result) -> None:
    whole = run()
    intervals = sample.details["serving"]["sample"]["intervals"]
    truth = {name: whole.summary[name]["mean"] for name in ("ttft_s", "itl_s", "e2e_s")}
    truth["throughput_tok_s"] = whole.summary["throughput_tok_s"]
    for name, value in truth.items():
        interval = intervals[name]
        assert interval["low"] <= value <= interval["high"], name
        assert interval["high"] - interval["low"] < value, name
    assert sample.summary["slo"]["attainment"] == pytest.approx(whole.summary["slo"]["attainment"], abs=0.1)


def test_a_sample_walks_its_share_and_says_so(sample: moesim.Result) -> None:
    sampling, requests = sample.details["serving"]["sample"], sample.frame("requests")
    assert sampling["windows"] == 8
    assert sampling["share"] == pytest.approx(0.4)
    assert sampling["requests"] == 240
    assert sampling["model_off"] < 0.05
    assert sample.summary["makespan_s"] == pytest.approx(0.4 * 240 / 400, rel=0.15)
    counted = requests[requests.first_counts]
    assert sample.summary["ttft_s"]["mean"] == pytest.approx(counted.ttft_s.mean())
    assert len(counted) == pytest.approx(96, rel=0.25)
    assert set(requests.window) == set(range(8))


def test_an_error_that_is_aimed_at_takes_more_windows() -> None:
    result = run(**{"simulation.sample": "4 %", "simulation.windows": 4, "simulation.error": "5 %", "workload.requests": 60})
    sampling = result.details["serving"]["sample"]
    assert 4 < sampling["windows"] <= 40
    assert sampling["error"] == 0.05
    assert sampling["reached"] == all(
        (end["high"] - end["mean"]) <= 0.05 * end["mean"]
        for name, end in sampling["intervals"].items()
        if name != "throughput_tok_s"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload.arrivals": {"kind": "closed", "users": 4}}, "users of a closed loop wait for answers"),
        ({"workload.scheduler.max_waiting": 3}, "max_waiting refuses by a queue"),
        ({"workload.scheduler": {"kind": "static"}}, "only schedulers of kind continuous and prefill_first"),
        (
            {"workload": {"kind": "offline", "requests": 1, "prompt": 4, "output": 2, "routing": {"kind": "uniform"}}},
            "do not arrive",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**{"simulation.sample": "10 %"}, **changes)


def test_the_interval_of_a_ratio_is_that_of_a_mean_where_windows_count_alike() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        counts = generator.integers(5, 15, 20).astype(float)
        sums = counts * 3.0 + generator.standard_normal(20) * np.sqrt(counts)
        interval = ratio_interval(sums.tolist(), counts.tolist())
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 3.0 <= interval.high
        # half the error asks for four times the windows
        half = interval.half_width
        assert half is not None
        assert windows_needed([interval], half / interval.mean / 2) == pytest.approx(80, abs=1)
    assert 0.92 < covered / 400 < 0.98
    assert ratio_interval([0.0] * 3, [0.0] * 3) is None


def test_an_interval_that_knows_a_model_covers_the_whole_and_is_narrower() -> None:
    """Loads of 200 windows vary tenfold and 12 are walked: the model knows the loads, and is off by a third and a constant."""
    generator = np.random.default_rng(2)
    covered, narrower = 0, 0
    for _ in range(200):
        load = generator.uniform(1.0, 10.0, 200)
        truth = 0.5 + load + 0.05 * generator.standard_normal(200)
        model = 0.2 + 1.3 * load
        counts = np.full(12, 30.0)
        chosen = generator.choice(200, 12, replace=False)
        known = (model[chosen] * counts, counts)
        interval = regressed_interval(truth[chosen] * counts, counts, known, float(model.mean()))
        plain = ratio_interval((truth[chosen] * counts).tolist(), counts.tolist())
        assert interval is not None
        assert plain is not None
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= truth.mean() <= interval.high
        narrower += (interval.half_width or 0) < (plain.half_width or 0) / 10
    assert 0.90 < covered / 200 < 0.99
    assert narrower > 195


def test_a_model_that_says_the_same_everywhere_changes_nothing() -> None:
    sums, counts = np.array([3.0, 5.0, 4.0, 8.0]), np.array([1.0, 2.0, 2.0, 3.0])
    plain = ratio_interval(sums.tolist(), counts.tolist())
    assert regressed_interval(sums, counts, (2 * counts, counts), 2.0) == plain


def test_the_model_counts_the_time_and_the_tokens_of_who_runs() -> None:
    """Two requests at a time, 1 s a step: the third waits for the first. The books at the end are the sums of the stays."""
    output = np.array([3, 5, 2])
    fluid = play(np.zeros(3), np.ones(3, dtype=np.int64), output, Limits(2), StepLine(1.0, 0.0, 0.0), [2.0, 100.0])
    assert fluid.finish.tolist() == [3.0, 5.0, 5.0]
    assert (fluid.spent, fluid.tokens) == (10.0, 10.0)
    assert (fluid.snapshots[0].spent, fluid.snapshots[0].tokens, len(fluid.snapshots[0].waiting)) == (4.0, 4.0, 1)
    widened = fluid.of(np.array([1, 2, 4]), 6)
    assert np.flatnonzero(~np.isnan(widened.finish)).tolist() == [1, 2, 4]
    assert [request for request, _ in widened.snapshots[0].running] == [1, 2]


def test_requests_that_no_rule_takes_in_are_left_out_of_the_model() -> None:
    result = run(**{"simulation.sample": "40 %", "simulation.windows": 4, "workload.scheduler.max_model_len": 100})
    requests = result.frame("requests")
    longer = requests.prompt_tokens + requests.output_tokens > 100
    assert longer.sum() > 0
    assert result.summary["requests_rejected"] == longer.sum()
    assert requests.ttft_s[longer].isna().all()


def test_a_full_cache_makes_the_last_one_give_way_and_compute_again() -> None:
    """Prompts of 4 and outputs of 8 in 20 tokens: two together are full after 6 steps of 1 s, and the second starts anew."""
    lengths = np.array([4, 4]), np.array([8, 8])
    fluid = play(np.zeros(2), *lengths, Limits(2, 20.0), StepLine(1.0, 0.0, 0.5), [5.0, 10.5])
    # both prompts take 4 s, then 6 s until the cache is full; 2 s more end the first, and 10 tokens are read anew in 5 s
    assert fluid.finish.tolist() == [12.0, 19.0]
    assert fluid.snapshots[0].running == [(0, 1), (1, 1)]
    assert fluid.snapshots[1].running == [(0, 6), (1, 6)]
    assert fluid.tokens == 16.0
    assert fluid.spent == (12.0 - 2.0) + (19.0 - 4.0)  # from the first admission to the end, with what it waited in between


def test_steps_that_grow_with_the_cache_take_the_time_of_their_sum() -> None:
    output = np.array([1000])
    fluid = play(np.zeros(1), np.array([50]), output, Limits(1), StepLine(1e-3, 0.0, 0.0, 1e-5), [])
    assert fluid.finish[0] == pytest.approx(1000 * 1e-3 + 1e-5 * (50 * 1000 + 1000**2 / 2))


def test_a_line_finds_what_steps_were_made_of() -> None:
    generator = np.random.default_rng(4)
    sequences, held = generator.integers(1, 500, 300), generator.uniform(1e3, 3e6, 300)
    tokens = sequences + generator.integers(0, 2, 300) * generator.integers(1, 8000, 300)
    seconds = 3e-3 + 1e-5 * sequences + 5e-6 * (tokens - sequences) + 2e-9 * held
    line = fit_steps(seconds, sequences, tokens, held)
    assert tuple(line) == pytest.approx((3e-3, 1e-5, 5e-6, 2e-9), rel=1e-6)
    assert line.off(StepLine(3e-3, 1e-5, 0.0, 2e-9), 100, 1e6) < 1e-6


def test_a_queue_longer_than_a_window_makes_waits_uncertain_and_they_are_covered() -> None:
    changes = {"workload.arrivals": {"kind": "poisson", "rate": "20000/s"}}
    whole, sampled = run(**changes), run(**changes, **{"simulation.sample": "40 %", "simulation.windows": 8})
    intervals, requests = sampled.details["serving"]["sample"]["intervals"], sampled.frame("requests")
    for name in ("ttft_s", "itl_s", "e2e_s"):
        assert intervals[name]["low"] <= whole.summary[name]["mean"] <= intervals[name]["high"], name
    # nearly all that they waited lies before their window
    assert intervals["ttft_s"]["high"] - intervals["ttft_s"]["mean"] > 0.5 * requests.ttft_s[requests.first_counts].mean()
