"""Traffic by clients: rates by window, lengths by client and time of day, and mistakes by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.streams import Streams
from moesim.workload.requests.arrival_trace import Rows
from moesim.workload.requests.servegen import ServeGen

CLIENTS = """client,window_start_s,rate_rps,iat_cv,iat_dist,param1,param2
a,0,2,1,Gamma,1,0.5
a,600,0.5,2,Gamma,0.25,8
b,600,1,0.5,Weibull,2,1.1
"""
LENGTHS = """client,window_start_s,field,value,prob
a,0,input_tokens,10,0.25
a,0,input_tokens,30,0.75
a,0,output_tokens,7,1
b,0,input_tokens,500,1
b,0,output_tokens,1,1
b,0,reason_ratio,0.5,1
"""


def traffic(folder: Path, seed: int = 0, requests: int | None = None, **changes: object) -> Rows:
    (folder / "clients.csv").write_text(CLIENTS)
    (folder / "lengths.csv").write_text(LENGTHS)
    spec = ServeGen.model_validate({"clients": "clients.csv", "lengths": "lengths.csv", **changes})
    return spec.rows(requests, Streams(seed), folder)


def test_every_client_sends_at_its_rate_with_its_lengths(tmp_path: Path) -> None:
    rows = traffic(tmp_path)
    of_b = rows.prompt == 500
    assert np.count_nonzero(of_b) == 600
    assert np.count_nonzero(~of_b) == 1200 + 300
    assert rows.output[of_b].tolist() == [1] * 600
    assert rows.arrival[of_b].min() > 590
    assert (np.diff(rows.arrival) >= 0).all()
    assert np.mean(rows.prompt[~of_b] == 30) == pytest.approx(0.75, abs=0.04)


def test_a_stretch_of_the_day_is_the_same_requests(tmp_path: Path) -> None:
    whole, part = traffic(tmp_path), traffic(tmp_path, start=600)
    assert part.prompt.tolist() == whole.prompt[-len(part.prompt) :].tolist()
    assert len(part.prompt) == 900
    assert traffic(tmp_path, seed=1).prompt.tolist() != whole.prompt.tolist()


def test_rates_are_scaled_together(tmp_path: Path) -> None:
    assert len(traffic(tmp_path, rate=0.35).arrival) == pytest.approx(420, abs=3)
    assert len(traffic(tmp_path, requests=100).arrival) == 100


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "clients.csv").write_text(CLIENTS.replace("0.5,Weibull", "0.5,Pareto").replace("a,600,0.5", "a,600,-1"))
    (tmp_path / "lengths.csv").write_text(LENGTHS)
    spec = ServeGen(clients="clients.csv", lengths="lengths.csv")
    with pytest.raises(InputError) as caught:
        spec.rows(None, Streams(0), tmp_path)
    assert [mistake.line for mistake in caught.value.mistakes] == [3, 4]
    (tmp_path / "clients.csv").write_text(CLIENTS)
    (tmp_path / "lengths.csv").write_text(LENGTHS.replace("b,0,output_tokens,1,1\n", ""))
    with pytest.raises(InputError, match="client b has no output_tokens from 0 s on"):
        spec.rows(None, Streams(0), tmp_path)
    with pytest.raises(InputError, match=r"2,101 requests asked for; the clients of clients\.csv send 2,100"):
        traffic(tmp_path, requests=2101)
