"""Parts of prompts: wherever they are cut, their counts sum to those of the whole prompts, in every law and record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.streams import Streams
from moesim.workload.draws import job as draws
from moesim.workload.draws import on_demand
from moesim.workload.jobs import LayerBatch, Offline
from moesim.workload.routing.law import own_counts
from moesim.workload.routing.profile import Same
from moesim.workload.table import Job, RoutingTable
from tests.routed_models import RoutedModel

LENGTHS = [9, 14, 11, 20]


MODEL = RoutedModel("small", 8, 2, 3)


STICKY = {
    "kind": "sticky",
    "exponent": 0.6,
    "tail": 0,
    "tilt": 0.5,
    "thread": 0.3,
    "reuse": 0.4,
    "memory": 0.2,
    "coupling": 0.2,
}
LAWS: dict[str, Any] = {
    "sticky": STICKY,
    "uniform": {"kind": "uniform"},
    "zipf": {"kind": "zipf", "exponent": 0.7},
    "concentrated": {"kind": "zipf", "exponent": 6},
}


def built(routing: dict[str, Any], **changes: Any) -> tuple[Job, RoutingTable]:
    prompt = {"kind": "uniform", "minimum": 1, "maximum": 40}
    job = {"requests": 70, "prompt": prompt, "output": 5, "routing": routing, "profile": {"kind": "uniform"}, **changes}
    top_k = 1 if routing.get("draw") == "expected" else 2
    return Offline.model_validate(job).build(MODEL._replace(top_k=top_k), Streams(3), Path())


def check(job: Job, table: RoutingTable) -> None:
    """Each request cut at a place of its own, both parts together with those of others."""
    rng, every, none = np.random.default_rng(1), np.arange(job.requests), np.zeros(job.requests, dtype=np.int64)
    cut = rng.integers(1, job.prompt + 1)
    parts = [table.chunk_counts(every, none, cut, job.prompt)]
    rest = cut < job.prompt
    parts.append(table.chunk_counts(every[rest], cut[rest], job.prompt[rest], job.prompt[rest]))
    assert (sum(parts) == table.prefill_counts(every)).all()
    assert (parts[0].sum(axis=1) == cut.sum() * table.top_k).all()
    single_tokens = [
        table.chunk_counts(every[:1], none[:1] + t, none[:1] + t + 1, job.prompt[:1]) for t in range(int(job.prompt[0]))
    ]
    assert (sum(single_tokens) == table.prefill[0]).all()
    assert all((part.sum(axis=1) == table.top_k).all() and part.max() <= 1 for part in single_tokens)


@pytest.mark.parametrize("law", LAWS)
def test_parts_of_drawn_prompts_sum_to_the_whole(law: str) -> None:
    check(*built(LAWS[law]))


def test_expected_counts_fall_on_tokens_in_a_drawn_order() -> None:
    check(*built({"kind": "zipf", "exponent": 1.2, "draw": "expected"}, output=1))


def test_requests_that_share_a_routing() -> None:
    check(*built({"kind": "shared", "of": STICKY}, prompt=17))


def test_tokens_behind_the_prompt_are_generated_ones() -> None:
    """A sequence that is computed again: its prompt and the tokens that it has generated, in one part."""
    job, table = built(STICKY)
    chosen, prompt = np.array([4, 9]), job.prompt[[4, 9]]
    again = table.chunk_counts(chosen, np.zeros(2, dtype=np.int64), prompt + 3, prompt)
    decoded = [table.decode_counts(chosen, position) for position in range(3)]
    assert (again == table.prefill_counts(chosen) + sum(decoded)).all()
    tail = table.chunk_counts(chosen, prompt + 1, prompt + 3, prompt)
    assert (tail == decoded[1] + decoded[2]).all()


@pytest.mark.parametrize("decode", [False, True])
def test_recorded_prompts(tmp_path: Path, decode: bool) -> None:
    rng, tokens, first = np.random.default_rng(0), sum(LENGTHS), 4 if decode else 0
    meta = {"num_experts": 8, "phase": "decode (generated tokens)" if decode else "prefill", "tasks_seq_range": {"a": [0, 3]}}
    np.savez_compressed(
        tmp_path / "t.npz",
        experts=np.argsort(rng.random((tokens, 3, 8)), axis=-1)[..., :2].astype(np.uint8),
        seq=np.repeat(np.arange(4), LENGTHS).astype(np.int32),
        pos=np.concatenate([np.arange(n) + first for n in LENGTHS]).astype(np.int32),
        meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
    )
    routing = {"kind": "trace", "path": "t.npz"}
    own = {"prompt": 30, "output": 4} if decode else {"output": 4}
    job = Offline.model_validate({"routing": routing, "profile": {"kind": "uniform"}, **own})
    check(*job.build(MODEL, Streams(1), tmp_path))
    batch = LayerBatch.model_validate({"tokens": 31, "routing": routing, "profile": {"kind": "uniform"}})
    check(*batch.build(MODEL, Streams(1), tmp_path))


@pytest.mark.parametrize("law", ["sticky", "uniform"])
@pytest.mark.parametrize("compiled", [True, False])
def test_tables_that_are_drawn_when_asked_for_are_those_drawn_at_once(
    law: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is dropped meanwhile, and in whichever order requests are asked for."""
    outputs = {"kind": "uniform", "minimum": 1, "maximum": 9}
    job, at_once = built(LAWS[law], output=outputs)
    monkeypatch.setattr(draws, "_MOST_TABLE", 0)
    monkeypatch.setattr(on_demand, "_HELD", 400)
    if not compiled:
        monkeypatch.setattr(draws.jit, "native", lambda module: None)
    lazy = built(LAWS[law], output=outputs)[1]
    assert isinstance(lazy.decode, on_demand.DecodeDraws)
    assert lazy.prefill.shape == at_once.prefill.shape
    assert lazy.decode.shape == at_once.decode.shape
    assert lazy.top_k == at_once.top_k
    long = np.flatnonzero(job.output > 3)[[5, 0, 11, 2]]
    prompt, step = job.prompt[long], np.array([0, 1, 1, 0])
    for table_of in (
        lambda table: table.prefill_counts(long),
        lambda table: table.chunk_counts(long, prompt // 3, prompt + 2, prompt),
        lambda table: table.decode_counts(long, 1),
        lambda table: table.pass_counts(long, 0, 3),
        lambda table: table.mixed_counts(long, np.array([2, 0, 1, 2])),
        lambda table: table.step_counts(long, np.array([2, 0, 1, 2]), step, 2),
    ):
        assert (table_of(lazy) == table_of(at_once)).all()
    own = own_counts(Same(), at_once.prefill, at_once.decode, job.output)
    assert (own_counts(Same(), lazy.prefill, lazy.decode, job.output) == own).all()


@pytest.mark.parametrize("law", ["sticky", "uniform"])
def test_prompts_too_large_to_hold_are_drawn_when_one_is_cut(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, table = built(LAWS[law])
    monkeypatch.setattr(draws, "_MOST_PROMPTS", 0)
    lazy = built(LAWS[law])[1]._prompt_ids
    assert isinstance(lazy, on_demand.PromptDraws)
    for request in (69, 0, 13, 64, 0):
        length = int(job.prompt[request])
        assert (lazy[request, 1:length] == table._prompt_ids[request, 1:length]).all()
