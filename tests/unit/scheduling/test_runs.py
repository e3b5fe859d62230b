"""Whole runs of requests that arrive over time: what the result says, what scenarios may say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import MODEL

import moesim
from moesim.errors import InputError
from tests.reporting import for_all

WORKLOAD: dict[str, Any] = {
    "kind": "online",
    "requests": 8,
    "arrivals": {"kind": "poisson", "rate": "2/s"},
    "prompt": {"kind": "uniform", "minimum": 8, "maximum": 64},
    "output": {"kind": "uniform", "minimum": 1, "maximum": 6},
    "routing": {"kind": "uniform"},
    "scheduler": {"kind": "continuous", "max_num_seqs": 3, "max_num_batched_tokens": 48},
    "slo": {"ttft": "2 s", "tpot": "1 s"},
}


def scenario(**changes: Any) -> dict[str, Any]:
    return {
        "name": "online",
        "hardware": "rtx4090-desktop",
        "model": MODEL,
        "workload": {**WORKLOAD, **changes},
        "policy": "lru",
    }


def refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        moesim.run(scenario(**changes))
    return str(caught.value)


SCHEDULERS: list[dict[str, Any]] = [
    {"kind": "continuous", "max_num_seqs": 3, "max_num_batched_tokens": 48},
    {"kind": "continuous", "asynchronous": False, "chunked_prefill": False},
    {"kind": "prefill_first", "chunked_prefill_size": 32},
    {"kind": "slots", "slots": 2, "n_ubatch": 16},
    {"kind": "static", "batch": 3},
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda rules: "-".join(map(str, rules.values())))
@pytest.mark.parametrize("policy", ["lru", "fiddler"])
def test_every_scheduler_serves_under_policies_of_all_kinds(scheduler: dict[str, Any], policy: str) -> None:
    result = moesim.run(scenario(scheduler=scheduler), policy=policy)
    summary, requests = result.summary, result.frame("requests")
    assert (summary["requests_completed"], summary["requests_rejected"]) == (8, 0)
    assert (requests.queue_s >= 0).all()
    assert (requests.scheduled_s >= requests.queued_s).all()
    assert (requests.ttft_s > requests.queue_s).all()
    # every (token, expert) pair is computed once: 3 layers, 2 experts a token, the last token of a request is not fed back
    tokens = requests.prompt_tokens.sum() + requests.output_tokens.sum() - 8
    assert sum(summary["expert_tokens"].values()) == tokens * 3 * 2
    assert summary["itl_s"]["mean"] > 0
    layers = result.frame("layers")
    assert (layers.attention_s + layers.experts_s).to_numpy() == pytest.approx(layers.time_s.to_numpy())
    assert 0 <= summary["slo"]["attainment"] <= 1


KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "windows": {"windows": [8, 0, 8]},
    "entries": {"windows": [8, 8, 8], "compression": [1, 4, 4]},
    "states": {"linear_layers": [0, 1], "linear": {"heads": 4, "key_heads": 4, "key_dim": 64, "value_dim": 64}},
}
"""Attention of a model: what a token and a sequence take of the cache."""


@for_all(("continuous", "prefill_first", "slots", "static"), KINDS, [(28, 4), (20, 3), (3, 2)], [1, 3])
def test_a_policy_s_batch_runs_together(scheduler: str, attention: str, lengths: tuple[int, int], batch: int) -> None:
    """Its room holds the batch in whole blocks, however a model keeps keys and values."""
    prompt, output = lengths
    more = {"scheduler": {"kind": scheduler}, "arrivals": {"kind": "closed", "users": batch}, "requests": 2 * batch}
    data = scenario(**more, prompt=prompt, output=output)
    result = moesim.run({**data, "model": {**MODEL, **KINDS[attention]}, "policy": {"kind": "on_demand", "batch": batch}})
    assert result.summary["requests_completed"] == 2 * batch
    assert result.columns["queue"]["running"].max() == batch
    assert result.summary["preemptions"] == 0


def test_equal_seeds_meet_the_same_arrivals_whatever_the_policy() -> None:
    results = [moesim.run(scenario(), policy=policy) for policy in ("lru", "on_demand")]
    assert np.array_equal(*(result.columns["requests"]["arrival_s"] for result in results))
    assert moesim.run(scenario(), seed=1).columns["requests"]["arrival_s"][0] != results[0].columns["requests"]["arrival_s"][0]


def test_a_run_is_repeated_from_its_result(tmp_path: Path) -> None:
    first = moesim.run(scenario())
    first.save(tmp_path / "run")
    again = moesim.run(str(tmp_path / "run" / "result.json"))
    assert again.canonical_json() == first.canonical_json()
    assert moesim.Result.load(tmp_path / "run").frame("queue").shape == first.frame("queue").shape


def test_the_two_engines_agree_on_a_served_job() -> None:
    compiled, reference = (moesim.run({**scenario(), "simulation": {"engine": engine}}) for engine in ("kernel", "reference"))
    assert np.array_equal(compiled.columns["requests"]["finish_s"], reference.columns["requests"]["finish_s"])
    assert compiled.columns["queue"]["time_s"].tolist() == reference.columns["queue"]["time_s"].tolist()


def test_the_kv_cache_is_what_the_policy_sets_aside_and_preempts_when_it_is_full() -> None:
    squeezed = {"kind": "continuous", "num_gpu_blocks_override": 8, "max_num_batched_tokens": 256, "max_num_seqs": 8}
    result = moesim.run(scenario(scheduler=squeezed, arrivals={"kind": "constant", "rate": "1000/s"}, prompt=30, output=16))
    assert result.summary["preemptions"] > 0
    assert result.frame("requests").preemptions.sum() == result.summary["preemptions"]
    assert result.frame("queue").kv_blocks.max() <= 8


@pytest.mark.parametrize("engine", ["kernel", "reference"])
def test_a_server_that_refuses_every_request_is_an_error_with_the_reason_of_the_first(engine: str) -> None:
    tight = {"kind": "continuous", "num_gpu_blocks_override": 1}
    with pytest.raises(InputError, match=r"no request is taken in; the first one: it needs \d+ KV blocks of 16 tokens"):
        moesim.run({**scenario(scheduler=tight, prompt=30, output=16), "simulation": {"engine": engine}})


@pytest.mark.parametrize("engine", ["kernel", "reference"])
def test_a_run_does_not_wait_for_a_last_request_that_is_refused(tmp_path: Path, engine: str) -> None:
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,20,2\n5,400,2\n9,500,2\n")
    trace = {"kind": "trace", "path": str(tmp_path / "trace.csv")}
    data = scenario(arrivals=trace, scheduler={"kind": "continuous", "max_model_len": 100})
    data["workload"] = {key: data["workload"][key] for key in ("kind", "arrivals", "routing", "scheduler")}
    summary = moesim.run({**data, "simulation": {"engine": engine}}).summary
    assert (summary["requests_completed"], summary["requests_rejected"]) == (1, 2)
    assert summary["makespan_s"] < 5


def test_the_last_token_of_a_prompt_by_itself_brings_the_first_of_the_answer() -> None:
    """A prompt of 17 tokens in parts of 8 leaves one token, which a step of the answer has, too."""
    eights = {"kind": "continuous", "max_num_seqs": 1, "max_num_batched_tokens": 8, "asynchronous": False}
    requests = moesim.run(scenario(scheduler=eights, prompt=17, output=3)).frame("requests")
    assert (requests.ttft_s > 0).all()
    assert (requests.ttft_s < requests.e2e_s).all()


def test_a_closed_loop_has_no_more_requests_than_users() -> None:
    result = moesim.run(scenario(arrivals={"kind": "closed", "users": 2, "think": "1 s"}))
    requests = result.frame("requests")
    assert (result.frame("queue").running + result.frame("queue").waiting).max() <= 2
    assert requests.arrival_s[2:].to_numpy() == pytest.approx(requests.finish_s[:-2].to_numpy() + 1.0)


def test_a_trace_gives_arrivals_lengths_and_shared_prefixes(tmp_path: Path) -> None:
    header = "arrival_s,prompt_tokens,output_tokens,cached_prefix_tokens_infinite_cache,prefix_row\n"
    (tmp_path / "trace.csv").write_text(header + "0,70,3,0,-1\n5,90,2,64,0\n6,64,4,64,0\n")
    trace = {"kind": "trace", "path": str(tmp_path / "trace.csv")}
    data = scenario(arrivals=trace, prompt=None, output=None, requests=None)
    data["workload"] = {key: value for key, value in data["workload"].items() if value is not None}
    requests = moesim.run(data).frame("requests")
    assert requests.arrival_s.tolist() == [0, 5, 6]
    assert requests.prompt_tokens.tolist() == [70, 90, 64]
    # 4 blocks of 16 tokens are shared; of a prompt that is all there, the last block is computed again
    assert requests.cached_tokens.tolist() == [0, 64, 48]


def test_urgent_requests_wait_less() -> None:
    rules = {"kind": "continuous", "order": "priority", "max_num_seqs": 1}
    crowd = {"requests": 24, "arrivals": {"kind": "constant", "rate": "1000/s"}, "prompt": 16, "output": 3}
    requests = moesim.run(scenario(scheduler=rules, urgent=0.3, **crowd)).frame("requests")
    waits = requests.groupby("priority").queue_s.mean()
    assert len(waits) == 2
    assert waits[0] < waits[1]


def test_a_warm_up_is_left_out_of_the_latencies() -> None:
    whole, cut = moesim.run(scenario()), moesim.run(scenario(warm_up=3))
    assert cut.summary["ttft_s"]["mean"] == pytest.approx(whole.frame("requests").ttft_s[3:].mean())
    assert cut.summary["throughput_tok_s"] == whole.summary["throughput_tok_s"]


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    result = moesim.run(scenario())
    requests, slo = result.frame("requests"), result.summary["slo"]
    good = (requests.ttft_s <= 2.0) & ~(requests.tpot_s > 1.0)
    assert slo["attainment"] == pytest.approx(good.mean())
    span = result.summary["makespan_s"] - requests.arrival_s[0]
    assert slo["goodput_req_s"] == pytest.approx(good.sum() / span)
    assert slo["goodput_tok_s"] == pytest.approx(requests.output_tokens[good].sum() / span)
    assert slo["ttft_attainment"] == pytest.approx((requests.ttft_s <= 2.0).mean())
    assert slo["tpot_attainment"] == pytest.approx((~(requests.tpot_s > 1.0)).mean())


def test_policies_that_need_the_run_to_come_say_so() -> None:
    with pytest.raises(InputError, match="needs to know the run to come, which here depends on the clock; take an offline job"):
        moesim.run(scenario(), policy="belady")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "poisson"}, "write 'kind: online' with 'arrivals: {kind: poisson, ...}'"),
        ({"kind": "offline"}, "unknown key 'arrivals'"),
        ({"arrivals": {"kind": "poisson", "rate": 2}}, "needs its unit, such as '2/s'"),
        ({"arrivals": {"kind": "poissonian", "rate": "2/s"}}, "Did you mean 'poisson'"),
        ({"scheduler": {"kind": "continous"}}, "Did you mean 'continuous'"),
        ({"scheduler": {"kind": "slots", "slots": 9, "n_batch": 8}}, "slots 9 exceeds n_batch 8"),
        ({"slo": {}}, "give at least one of ttft, tpot, e2e"),
        ({"urgent": 0.5}, "the scheduler does not order by priority"),
        ({"warm_up": 8}, "8 of 8 requests leaves none"),
        ({"requests": None}, "requests"),
    ],
)
def test_mistakes_say_what_would_be_right(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(**changes)
