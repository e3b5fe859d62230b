"""The page of a run in words and boxes: its sentence, its tiles, and figures that a run cannot have."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from moesim.errors import InputError
from moesim.report.page_run import collecting, drawn, sentence, tiles
from tests.summaries import summary

HOLDER = {"lane": "pcie:forward", "words": "PCIe upload", "share": 0.953}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "50 tokens per second."),
        (
            {"bound_tok_s": 200.0},
            "50 tokens per second, 25.0 % of the 200 that no placement and no schedule could exceed on this machine.",
        ),
        (
            {"bottleneck": HOLDER, "hit_rate": 0.5},
            "50 tokens per second; bottleneck: PCIe upload (pcie:forward), 95.3 % of the critical path; "
            "50.0 % of the expert activations found the weights where they ran.",
        ),
        ({"throughput_tok_s": None, "bottleneck": HOLDER}, "The run produced no token."),
        ({"hit_rate": 0.0}, "50 tokens per second; 0.0 % of the expert activations found the weights where they ran."),
    ],
)
def test_the_answer_is_a_sentence_of_what_is_known(fields: dict[str, Any], text: str) -> None:
    assert sentence({**summary("lru", 50.0), **fields}) == text


def boxes(**fields: Any) -> dict[str, tuple[str, str]]:
    """Name of a tile -> what stands in it, large and small."""
    page = tiles(summary("lru", 50.0, **fields))
    assert page.startswith('<dl class="tiles">')
    values = {}
    for box in page.split("<div>")[1:]:
        name, _, rest = box.removeprefix("<dt>").partition("</dt><dd>")
        large, _, small = rest.removesuffix("</div>").removesuffix("</dl>").partition("<small>")
        values[name] = large.partition("</dd>")[0], small.partition("</small>")[0]
    return values


TIMES = {"mean": 1.0, "p50": 0.5, "p90": 2.0, "p99": 2.5}


@pytest.mark.parametrize(
    ("name", "fields", "box"),
    [
        ("throughput", {}, ("50 tok/s", "")),
        ("while decoding", {"decode_tok_s": 60.5}, ("60.5 tok/s", "")),
        ("of the bound", {"share_of_bound": 0.25}, ("25.0 %", "")),
        ("to the first token", {"ttft_s": TIMES}, ("500 ms", "2.5 s p99")),
        ("per further token", {"tpot_s": TIMES}, ("500 ms", "2.5 s p99")),
        ("hit rate", {"hit_rate": 0.5}, ("50.0 %", "")),
        ("hit rate", {"hit_rate": 0.5, "decode_hit_rate": 0.75}, ("50.0 %", "75.0 % while decoding")),
        ("bottleneck", {"bottleneck": HOLDER}, ("PCIe upload", "95.3 % of the critical path")),
        ("energy", {"energy_J": 300.0, "output_tokens": 100}, ("3 J", "per output token")),
        ("cost", {"cost_usd_per_Mtok": 1.5}, ("1.5 USD", "per million output tokens, without electricity")),
        ("cost", {"cost_usd_per_Mtok": 1.5, "energy_J": 1.0}, ("1.5 USD", "per million output tokens")),
        ("machine", {"machine_usd": 3061.0}, ("3,061 USD", "price of its parts")),
    ],
)
def test_tiles_show_a_figure_and_what_belongs_to_it(name: str, fields: dict[str, Any], box: tuple[str, str]) -> None:
    assert boxes(**fields)[name] == box


def test_tiles_of_what_a_run_does_not_have_are_left_out() -> None:
    assert list(boxes()) == ["throughput"]
    assert list(boxes(energy_J=300.0, output_tokens=0)) == ["throughput"]


def test_a_figure_that_cannot_be_drawn_is_left_out_and_others_are_collected() -> None:
    def impossible() -> Figure:
        raise InputError("the run kept no table")

    picture = Figure()
    with collecting() as pictures:
        assert drawn("none", "", "", impossible) == ""
        assert drawn("lanes", "Lanes.", "what they do", lambda: picture) == ""
    assert pictures == {"lanes": picture}
    with collecting() as later:
        pass
    assert later == {}
    assert drawn("none", "", "", impossible) == ""


def test_other_errors_of_a_figure_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        drawn("broken", "", "", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
