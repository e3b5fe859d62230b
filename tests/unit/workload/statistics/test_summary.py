"""`moesim trace`: what a record shows, against counts by hand, as text, JSON and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim import cli
from moesim.errors import InputError
from moesim.report import figures_routing
from moesim.workload.statistics import measures, replays
from moesim.workload.statistics.summary import summary


def record(path: Path, experts: np.ndarray[Any, Any], sizes: list[int], **meta: Any) -> Path:
    document = {"num_experts": 8, "phase": "prefill", **meta}
    np.savez(
        path,
        experts=experts.astype(np.uint8),
        seq=np.repeat(np.arange(len(sizes)), sizes),
        pos=np.concatenate([np.arange(size) for size in sizes]),
        meta=np.frombuffer(json.dumps(document).encode(), dtype=np.uint8),
    )
    return path


def two_domains(path: Path) -> Path:
    """Four sequences of 20 tokens; the first two use experts 0 to 3 alone, the others 4 to 7; layer 1 repeats layer 0."""
    rng = np.random.default_rng(0)
    low = np.array([rng.permutation(4)[:2] for _ in range(80)]) + np.repeat([0, 4], 40)[:, None]
    ids = np.stack([low, low], axis=1)
    return record(path, ids, [20] * 4, tasks_seq_range={"law": [0, 1], "code": [2, 3]})


def test_a_record_of_two_domains_shows_both(tmp_path: Path) -> None:
    summed = summary(two_domains(tmp_path / "two.npz"))
    assert (summed["tokens"], summed["sequences"], summed["moe_layers"], summed["experts"], summed["top_k"]) == (80, 4, 2, 8, 2)
    assert summed["domains"]["hot_in_common"] == 0.0
    assert summed["domains"]["static_other"] == 0.0
    assert summed["domains"]["static_same"] > 0.4
    # a layer that takes what the one above took is foreseen by co-occurrence as far as its partner is not a guess
    assert summed["next_layer"]["co_occurrence"] > 0.9
    assert [part["hot_in_common"] for part in summed["drift"]] == [1.0, summed["drift"][1]["hot_in_common"], 0.0, 0.0]
    assert summed["within_request"] > 0.5 > summed["skew"]["top_25"]
    assert summed["working_set"][1] == {"random": 2.0, "consecutive": 2.0}


def test_caches_by_hand() -> None:
    """0 1 2 0 1 2: a cache of two serves nothing by LRU; Belady keeps 0 for its second use, then 2 or 1 for its own."""
    ids = [np.array([0, 1, 2, 0, 1, 2]).reshape(6, 1, 1)]
    assert measures.lru_hits(ids, 3).tolist() == [0, 0, 0, 0.5]
    assert [measures.belady_hits(ids, 3, size) * 6 for size in (0, 1, 2, 3)] == [0, 0, 2, 3]


def test_compiled_caches_and_plain_ones_agree() -> None:
    rng = np.random.default_rng(1)
    accesses = rng.integers(0, 9, 300) * rng.integers(0, 2, 300)
    plain, compiled = np.zeros(10, dtype=np.int64), measures.lru_hits([accesses.reshape(300, 1, 1)], 9)
    replays.distances(accesses, plain, np.empty(9, dtype=np.int64))
    assert np.allclose(np.cumsum(plain[:-1]) / 300, compiled[1:])
    for size in (1, 3, 8):
        best = measures.belady_hits([accesses.reshape(300, 1, 1)], 9, size)
        room = np.empty_like(accesses), np.empty((4, 9), dtype=np.int64)
        assert replays.farthest(accesses, size, *room) / 300 == best >= compiled[size]


def test_text_json_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_domains(tmp_path / "two.npz")
    assert cli.main(["trace", str(path), "--figures", str(tmp_path / "figures")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("80 tokens (prefill) of 4 sequences, 2 MoE layers of 8 experts, top-2\n")
    assert all(
        f"\n{heading}" in text for heading in ("skew", "reuse", "working set", "caches", "next layer", "drift", "domains")
    )
    files = {file.name for file in (tmp_path / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in (*figures_routing.PANELS, "routing") for kind in ("pdf", "svg", "png")}
    assert cli.main(["trace", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skew"]["top_50"] == pytest.approx(0.5, abs=0.1)


def test_one_short_sequence_is_enough(tmp_path: Path) -> None:
    path = record(tmp_path / "short.npz", np.array([[[3, 1]]]), [1])
    summed = summary(path)
    assert (summed["next_layer"], summed["domains"], summed["reuse"]) == (None, None, {})


def test_a_file_that_is_not_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("layer,expert,count\n")
    with pytest.raises(InputError, match=r"notes\.txt"):
        summary(path)
    assert cli.main(["trace", str(tmp_path / "none.npz"), "--figures", str(tmp_path / "f")]) == 2
    assert "none.npz" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_width_without_figures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_domains(tmp_path / "two.npz")
    assert cli.main(["trace", str(path), "--width", "page"]) == 2
    assert "--figures DIR" in capsys.readouterr().err


@pytest.mark.parametrize("name", figures_routing.PANELS)
def test_a_panel_is_as_wide_as_asked_for(name: str, tmp_path: Path) -> None:
    figure = figures_routing.routing_panel(summary(two_domains(tmp_path / "two.npz")), name, width="column")
    assert figure.get_figwidth() == pytest.approx(3.33)
    assert figure.axes[0].get_ylabel()
    assert figure.axes[0].get_xlabel()
