"""The workload whose requests arrive over time: what its keys refuse, and which schedulers it takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from moesim.errors import InputError
from moesim.scheduling.continuous import Continuous
from moesim.scheduling.online import Online
from moesim.scheduling.prefill_first import PrefillFirst
from moesim.scheduling.slots import Slots
from moesim.streams import Streams

FOUR: dict[str, Any] = {
    "requests": 4, "prompt": 8, "output": 2, "arrivals": {"kind": "poisson", "rate": "2/s"}, "routing": {"kind": "sticky"},
}  # fmt: skip
MODEL: Any = SimpleNamespace(n_moe=3, experts=8, top_k=2)


def online(**changes: Any) -> Online:
    return Online.model_validate({**FOUR, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": None}, "requests: missing; it has to be given, unless arrivals come from a trace"),
        ({"requests": 0}, "requests\n  Input should be greater than or equal to 1"),
        ({"urgent": 0.5}, "the scheduler does not order by priority"),
        ({"warm_up": 4}, "warm_up: 4 of 4 requests leaves none"),
        ({"slo": {}}, "give at least one of ttft, tpot, e2e"),
        ({"scheduler": {"kind": "pathlib:Path"}}, "'pathlib:Path' is not a scheduler"),
        ({"scheduler": {"kind": "moesim.nowhere:Nobody"}}, "moesim.nowhere"),
        ({"scheduler": {"kind": "moesim.scheduling.slots:Slots", "nothing": 1}}, "nothing"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        online(**changes)


def test_a_scheduler_is_a_kind_a_class_anywhere_or_an_object() -> None:
    assert isinstance(online(scheduler={"kind": "prefill_first"}).scheduler, PrefillFirst)
    assert isinstance(online(scheduler={"kind": "moesim.scheduling.slots:Slots"}).scheduler, Slots)
    own = Continuous(max_num_seqs=3)
    assert online(scheduler=own).scheduler is own


def test_the_job_has_the_limits_of_the_scheduler_and_its_urgent_share(tmp_path: Path) -> None:
    rules = {"kind": "continuous", "order": "priority", "max_num_seqs": 3, "max_num_batched_tokens": 64}
    job, notes = online(requests=400, urgent=0.25, scheduler=rules).job(MODEL, Streams(0), tmp_path)
    assert (job.most, job.chunk, notes) == (3, 64, ())
    assert job.priority is not None
    assert np.count_nonzero(job.priority == 0) / 400 == pytest.approx(0.25, abs=0.06)
    assert job.arrival.max() == pytest.approx(200, rel=0.2)


def test_arrivals_beyond_the_clock_are_refused(tmp_path: Path) -> None:
    slow = online(arrivals={"kind": "poisson", "rate": "0.00001/min"})
    with pytest.raises(InputError, match=r"the last request arrives after 4e\+06 s; take a shorter window"):
        slow.job(MODEL, Streams(0), tmp_path)


def test_lengths_come_from_a_record_of_arrivals_unless_they_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5,2\n1,7,3\n4,6,1\n")
    recorded = {"requests": None, "prompt": None, "output": None, "arrivals": {"kind": "trace", "path": "requests.csv"}}
    job, _ = online(**recorded).job(MODEL, Streams(0), tmp_path)
    assert (job.prompt.tolist(), job.output.tolist(), job.arrival.tolist()) == ([5, 7, 6], [2, 3, 1], [0.0, 1.0, 4.0])
    job, _ = online(**{**recorded, "prompt": 9, "output": 4}).job(MODEL, Streams(0), tmp_path)
    assert (job.prompt.tolist(), job.output.tolist()) == ([9, 9, 9], [4, 4, 4])
    with pytest.raises(InputError, match="3 of 3 requests leaves none"):
        online(**recorded, warm_up=3).build(MODEL, Streams(0), tmp_path)
