"""Readers of what recorders, balancers, benchmarks and other simulators write; docs/traces.md names every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.workload.foreign import REQUESTS, ROUTING, import_trace
from moesim.workload.routing.record import read_record

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / "shared" / "data" / "routing"


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_the_page_names_every_format_once() -> None:
    page = (ROOT / "docs" / "traces.md").read_text()
    for name in (*REQUESTS, *ROUTING):
        assert page.count(f"| `{name}` |") == 1, name


def event(request: int, position: int, layer: int, experts: list[int]) -> dict[str, Any]:
    return {
        "request_id": request, "phase": "decode", "step_id": 0, "token_position": position, "layer_id": layer,
        "expert_ids": experts,
    }  # fmt: skip


def test_events_of_moe_sim(tmp_path: Path) -> None:
    events = [event(7, position, layer, [position, layer + 5]) for layer in (1, 0) for position in (3, 4)]
    import_trace("moe-sim", written(tmp_path / "x.jsonl", events), tmp_path / "out.npz")
    record = read_record(tmp_path / "out.npz", 2, 7, 2)
    assert (record.decode, record.position.tolist()) == (True, [3])
    assert record.sequence(0).tolist() == [[[3, 5], [3, 6]], [[4, 5], [4, 6]]]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded routing is not there: {DATA}")
def test_published_logs_of_esft_give_the_sequences_that_were_counted_elsewhere(tmp_path: Path) -> None:
    record = read_record(DATA / "deepseek-v2-lite_esft_prefill.npz", 26, 64, 6)
    law = np.concatenate([record.sequence(number) for number in record.tasks["law"]])
    for layer in range(26):
        lines = ("\t".join(map(str, ids)) + "\t\t" + "\t".join(["0.1"] * 6) for ids in law[:, layer].tolist())
        (tmp_path / f"expert_weights_{layer + 1}.txt").write_text("\n".join(lines))
    import_trace("esft", tmp_path, tmp_path / "out.npz")
    assert read_record(tmp_path / "out.npz", 26, 64, 6).tokens.tolist() == record.tokens[record.tasks["law"]].tolist()
