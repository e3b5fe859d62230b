"""How the pictures look, whatever they show: nothing cut off, no text over another, units on axes, a key for every colour."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import moesim
from moesim.errors import InputError
from moesim.report import figures
from moesim.report.canvas import lay_out, render
from moesim.report.figures_policies import front
from moesim.results.result import Result
from moesim.runs.run import RunOptions, loaded, run_loaded

LONG = "a_package.of_mine:TheBestPolicyThatAnyoneEverWroteForThis"
RATE = "hardware.links.pcie.rate (GB/s)"


def summary(policy: str, speed: float | None, **changes: Any) -> dict[str, Any]:
    base = {
        "scenario": "a $cenario",
        "policy": policy,
        "seed": 0,
        "replicate": 0,
        "throughput_tok_s": speed,
        "bound_tok_s": 300.0,
    }
    return {**base, "cost_usd_per_Mtok": 1.0, "energy_J": 400.0, "makespan_s": 10.0, **changes}


def field(count: int) -> list[dict[str, Any]]:
    """So many policies, some of one speed, one without any, two with names that are too long."""
    draw = random.Random(7)
    names = [*(f"policy_{number}" for number in range(count - 3)), LONG, f"{LONG}Too", "none"]
    return [
        summary(name, None if name == "none" else draw.choice([50.0, draw.uniform(5, 264)]),
                cost_usd_per_Mtok=draw.uniform(0.5, 9), energy_J=draw.uniform(2e3, 2e4))
        for name in names
    ]  # fmt: skip


def replicated() -> list[dict[str, Any]]:
    speeds = {"lru": (19.0, 21.5, 20.2), "cox_moe": (38.0, 41.0, 40.0), LONG: (8.0, 8.1, 7.7)}
    return [summary(name, speed, replicate=number) for name, three in speeds.items() for number, speed in enumerate(three)]


def scattered() -> list[dict[str, Any]]:
    """Intervals of three replications that reach below zero."""
    speeds = {"lru": (1.0, 41.5, 20.2), "cox_moe": (0.5, 1.0, 9.0)}
    return [summary(name, speed, replicate=number) for name, three in speeds.items() for number, speed in enumerate(three)]


def table(policies: int, values: tuple[Any, ...] = (8, 16, 32, 64, 128)) -> dict[str, list[Any]]:
    rows = [(value, f"policy_{number}" if number else LONG, 3.0 + number * (place + 1))
            for number in range(policies) for place, value in enumerate(values)]  # fmt: skip
    speeds = [speed for *_, speed in rows]
    return {
        RATE: [value for value, *_ in rows], "policy": [name for _, name, _ in rows], "throughput_tok_s": speeds,
        "throughput_tok_s.low": [0.95 * speed for speed in speeds], "throughput_tok_s.high": [1.05 * speed for speed in speeds],
        "hit_rate": [min(speed / 300, 1.0) for speed in speeds],
    }  # fmt: skip


def threshold(**changes: Any) -> dict[str, list[float]]:
    x = [step / 20 for step in range(21)]
    y = [300 - 900 * (value - 0.7) ** 2 for value in x]
    return {"policy.hot": x, "throughput_tok_s": y, "throughput_tok_s.low": [v - 9 for v in y],
            "throughput_tok_s.high": [v + 9 for v in y], **changes}  # fmt: skip


def numbered() -> dict[str, Any]:
    """Two axes of numbers."""
    rows = [(x / 10, memory, 10.0 + memory / 100 - x) for memory in (150.0, 300.0, 600.0) for x in range(11)]
    names = ("policy.hot", "hardware.tiers.hbm.capacity (MB)", "throughput_tok_s")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


SMALL = {"workload.requests": 2, "workload.prompt": 24, "workload.output": 5}


@lru_cache(maxsize=8)
def run(scenario: str, policy: str | None = None) -> Result:
    changes = {} if "honest" in scenario else SMALL
    return run_loaded(loaded(scenario, policy=policy, **changes), RunOptions(timeline=True, window="0 s..0.02 s"))


RUNS = [("quickstart", "lru"), ("moe_cxl/mixtral-8x7b", "moe_cxl"), ("cxl_expert/honest", None)]
OF_RUNS = ("lane_use", "layer_time", "roofline", "traffic", "hit_curve", "expert_map", "timeline")
PICTURES: dict[str, Callable[[], Figure]] = {
    **{
        f"{name} of {policy or scenario}": lambda n=name, s=scenario, p=policy: getattr(figures, n)(run(s, p))
        for scenario, policy in RUNS
        for name in OF_RUNS
    },
    "35 policies": lambda: figures.comparison(field(35)),
    "replications": lambda: figures.comparison(replicated()),
    "replications that scatter": lambda: figures.comparison(scattered()),
    "front of replications that scatter": lambda: figures.pareto(scattered()),
    "sweep that scatters": lambda: figures.sweep_curve(
        {
            "x (GB)": [1, 2],
            "policy": ["a", "a"],
            "makespan_s": [5.0, 6.0],
            "makespan_s.low": [-0.4, 2.0],
            "makespan_s.high": [11.0, 9.0],
        },
        x="x",
        y="makespan_s",
    ),
    "one policy": lambda: figures.comparison([summary("lru", 22.5)]),
    "huge": lambda: figures.comparison([summary("a", 4.2e9, bound_tok_s=None), summary("b", 3e9, bound_tok_s=5e9)]),
    "tiny": lambda: figures.comparison([summary("a", 4.2e-7), summary("b", 1e-9)]),
    "front of 35": lambda: figures.pareto(field(35)),
    "front of replications": lambda: figures.pareto(replicated()),
    "front of one": lambda: figures.pareto([summary("lru", 22.5)]),
    "front over decades": lambda: figures.pareto(
        [summary("a", 4e6, cost_usd_per_Mtok=1e-4), summary(LONG, 3.0, cost_usd_per_Mtok=1e3), summary("c", 310.0)]
    ),
    "front without energy": lambda: figures.pareto([summary("a", 4.0, energy_J=None), summary("b", 5.0, energy_J=None)]),
    "sweep of 35": lambda: figures.sweep_curve(table(35), x=RATE, log=True),
    "sweep of 4": lambda: figures.sweep_curve(table(4), x=RATE, log=True, title="a title " * 20),
    "sweep over names": lambda: figures.sweep_curve(table(3, ("rtx4090-desktop", "h100-server-with-a-name", "l40s")), x=RATE),
    "sweep of one value": lambda: figures.sweep_curve(table(1, (8,)), x=RATE),
    "sweep at random": lambda: figures.sweep_curve(table(2, (0.3, 1.7, 2.2)), x=RATE, points=True),
    "hits of a sweep": lambda: figures.hit_curve(table(4), x=RATE),
    "threshold": lambda: figures.threshold_curve(threshold(), x="policy.hot"),
    "threshold of one": lambda: figures.threshold_curve({"x": [5.0], "y": [0.0]}, x="x", y="y"),
    "waterfall": lambda: figures.waterfall([("as printed, with all experts loaded one after another", 0.8), ("end", 0.6)]),
    "waterfall of six": lambda: figures.waterfall(
        [
            ("all", 0.8),
            ("less", 0.5),
            ("the same", 0.5),
            ("hardly less", 0.4999),
            ("more, for a reason that takes long to say", 0.9),
            ("end", 0.001),
        ]
    ),
    "sweep by a number": lambda: figures.sweep_curve(numbered(), x="policy.hot", by="hardware.tiers.hbm.capacity"),
}


def shown(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every text that is drawn, with its place in pixels."""
    texts: list[tuple[str, Any]] = []
    draw = Text.draw

    def seen(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            texts.append((text.get_text(), Text.get_window_extent(text, renderer)))
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", seen)
    figure.draw_without_rendering()
    return texts


@lru_cache(maxsize=len(PICTURES))
def picture(name: str) -> Figure:
    figure = PICTURES[name]()
    lay_out(figure)
    return figure


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_cut_off_or_lies_over_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = picture(name)
    texts = shown(figure, monkeypatch)
    assert texts
    whole = figure.bbox
    for text, box in texts:
        inside = (box.x0 >= -1, box.y0 >= -1, box.x1 <= whole.x1 + 1, box.y1 <= whole.y1 + 1)
        assert all(inside), f"'{text}' leaves the picture: {box} of {whole}"
    for (first_box, first), (second_box, second) in combinations(texts, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        up = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or up <= 1, f"'{first_box}' and '{second_box}' overlap"


ONE_OF_EACH = [*(f"{name} of lru" for name in OF_RUNS), "35 policies", "front of 35", "sweep of 4", "threshold", "waterfall"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_bytes_are_always_the_same(name: str) -> None:
    """Whatever was done with a picture before."""
    assert render(picture(name)) == render(PICTURES[name]())


def test_the_same_picture_is_rendered_again_to_the_same_bytes() -> None:
    assert render(picture("sweep of 4")) == render(picture("sweep of 4"))


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "threshold of one"])
def test_axes_say_their_units(name: str) -> None:
    figure = picture(name)
    labels = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text]
    known = ("(", "layer", "hit rate", "even share", "hot of the policy", "activations")
    assert labels
    assert all(any(word in label for word in known) for label in labels), labels


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "one policy"])
def test_every_colour_has_a_key(name: str) -> None:
    """Colours of bars, lines and points appear in the legend; one series alone needs none."""
    from matplotlib.colors import to_hex

    figure = picture(name)
    legend = {
        to_hex(colour) for legend_box in figure.legends for handle in legend_box.legend_handles for colour in _colours(handle)
    }
    plots = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]  # a colour bar is a key
    drawn = {to_hex(colour) for axes in plots for artist in (*axes.patches, *axes.lines) for colour in _colours(artist)}
    keyless = drawn - legend - {"#ffffff", "#000000", "#8a8a8a", "#808080"}
    assert not keyless or (len(drawn) == 1 and not figure.legends), keyless


def _colours(artist: Any) -> Iterator[Any]:
    if hasattr(artist, "get_facecolor"):
        colour = artist.get_facecolor()
        yield colour if isinstance(colour, (str, tuple)) else tuple(colour)
    elif artist.get_linestyle() not in ("None", "") or artist.get_marker() not in ("None", ""):
        yield artist.get_color()


def test_columns_go_without_their_unit_and_lines_with_it() -> None:
    figure = picture("sweep by a number")
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "capacity of HBM (MB)"
    assert [text.get_text() for text in legend.get_texts()] == ["150", "300", "600"]
    with pytest.raises(InputError, match=r"no column hardware\.tiers\.hbm\.capacty\. Did you mean"):
        figures.sweep_curve(numbered(), x="policy.hot", by="hardware.tiers.hbm.capacty")
    with pytest.raises(InputError, match="no column throughput_tok_s"):
        figures.threshold_curve(threshold(), x="policy.hot", second={"policy.hot": [0.5]})


def test_a_line_has_the_same_colour_in_every_picture_of_a_table() -> None:
    rows = {RATE: [1, 1, 1], "policy": ["a", "b", "c"], "throughput_tok_s": [1.0, 3.0, 2.0], "hit_rate": [0.3, 0.1, 0.2]}
    colours = [
        {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        for figure in (figures.sweep_curve(rows, x=RATE), figures.hit_curve(rows, x=RATE))
    ]
    assert colours[0] == colours[1]


def test_nothing_of_a_curve_is_cut_off() -> None:
    table = {"policy.hot": [0.1, 0.5, 0.9], "y": [-3.0, 2.0, 1.0], "y.low": [-5.0, 1.0, 0.5], "y.high": [-1.0, 4.0, 2.0]}
    low, high = figures.threshold_curve(table, x="policy.hot", y="y").axes[0].get_ylim()
    assert low < -5.0
    assert high > 4.0


@pytest.mark.parametrize("name", [name for name in PICTURES if not name.startswith("timeline")])  # a timeline is a window
def test_no_bar_line_or_interval_leaves_its_axes(name: str) -> None:
    for axes in picture(name).axes:
        (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        corners = [bar.get_bbox().corners() for group in axes.containers for bar in getattr(group, "patches", ())]
        lines = [line.get_xydata() for line in axes.lines if line.get_transform().contains_branch(axes.transData)]
        segments = [
            np.asarray(part)
            for collection in axes.collections
            if hasattr(collection, "get_segments")
            for part in collection.get_segments()
        ]
        for x, y in np.concatenate([*corners, *lines, *segments, np.empty((0, 2))]):
            slack = 1e-9 * max(abs(right), abs(top))
            assert left - slack <= x <= right + slack, f"{x} is outside {left} to {right}"
            assert bottom - slack <= y <= top + slack, f"{y} is outside {bottom} to {top}"


def test_both_panels_of_the_traffic_share_one_axis() -> None:
    figure = picture("traffic of cxl_expert/honest")
    widths = [max(bar.get_width() for bar in axes.patches) for axes in figure.axes]
    assert widths[0] > 3 * widths[1]  # a link and two tiers carry what one cause moves
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 1.02 * widths[0])}


def test_the_interval_of_a_share_ends_where_shares_do() -> None:
    rows = {
        RATE: [1, 2],
        "policy": ["a", "a"],
        "hit_rate": [0.9, 0.1],
        "hit_rate.low": [0.7, -0.1],
        "hit_rate.high": [1.1, 0.3],
    }
    figure = figures.hit_curve(rows, x=RATE)
    (bars,) = [bar for bar in figure.axes[0].containers if bar.has_yerr]
    ends = [point[1] for segment in bars.lines[2][0].get_segments() for point in segment]
    assert (min(ends), max(ends)) == (0.0, 1.0)


def test_equal_values_stand_beside_each_other_over_names() -> None:
    figure = figures.sweep_curve({"model": ["m"] * 3, "policy": ["a", "b", "c"], "throughput_tok_s": [1.0] * 3}, x="model")
    assert len({float(line.get_xdata()[0]) for line in figure.axes[0].lines}) == 3


def test_hardly_dearer_is_as_cheap() -> None:
    assert front([(1.0, 5.0), (1.0001, 7.0), (1.01, 8.0)]) == [1, 2]


def test_draws_that_agree_have_no_band() -> None:
    first = threshold()
    for end, off in (("low", -1e-12), ("high", 1e-12)):
        first[f"throughput_tok_s.{end}"] = [value + off for value in first["throughput_tok_s"]]
    (legend,) = figures.threshold_curve(first, x="policy.hot").legends
    assert "band" not in legend.get_texts()[0].get_text()


def test_a_change_that_rounds_to_none_is_said_in_words() -> None:
    texts = [text.get_text() for text in picture("waterfall of six").axes[0].texts]
    assert [text.partition("(")[2] for text in texts] == ["", "-38 %)", "no change)", "< 1 %)", "+80 %)", "-100 % in all)"]


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 5.0), (2.0, 7.0), (0.5, 1.0), (3.0, 6.0), (0.5, 0.5)]
    assert [points[index] for index in front(points)] == [(0.5, 1.0), (1.0, 5.0), (2.0, 7.0)]


def test_labels_stand_beside_the_front_only() -> None:
    figure = figures.pareto([summary("fast", 40.0, cost_usd_per_Mtok=2.0), summary("slow", 30.0, cost_usd_per_Mtok=2.0),
                             summary("cheap", 10.0, cost_usd_per_Mtok=1.0)])  # fmt: skip
    assert {text.get_text() for text in figure.axes[0].texts} == {"fast", "cheap"}


def test_energy_is_per_token_that_the_throughput_counts() -> None:
    figure = figures.pareto([summary("a", 20.0, energy_J=400.0, makespan_s=10.0)])
    (marker,) = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert marker.get_xydata().tolist() == [[2.0, 20.0]]


def test_intervals_are_drawn_at_their_ends() -> None:
    figure = figures.comparison(replicated())
    caps = sorted(float(line.get_xdata()[0]) for line in figure.axes[0].lines if line.get_marker() == "|")
    expected = sorted(end for row in figures_rows() for end in (row.low, row.high))
    assert caps == pytest.approx(expected)


def figures_rows() -> Any:
    from moesim.report.figures_policies import rows_of

    return rows_of(replicated())[1]


def test_a_table_of_a_sweep_stands_for_its_fastest_setting() -> None:
    figure = figures.comparison(table(2))
    assert [bar.get_width() for bar in figure.axes[0].patches] == [8.0, 3.0]


def test_lane_use_keeps_the_time_at_work_when_it_joins_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from moesim.report import figures_time

    def areas(figure: Figure) -> list[float]:
        outside = []
        for axes in figure.axes:
            (stairs,) = [patch for patch in axes.patches if type(patch).__name__ == "StepPatch"]
            values, edges, _ = stairs.get_data()  # type: ignore[attr-defined]
            outside.append(float(np.sum(values * np.diff(edges))))
        return outside

    result = run("quickstart", "lru")
    exact = areas(figures.lane_use(result))
    monkeypatch.setattr(figures_time, "_MAX_BINS", 3)
    assert areas(figures.lane_use(result)) == pytest.approx(exact, rel=1e-9)


def test_the_run_lies_on_its_hit_curve() -> None:
    result = run("quickstart", "lru")
    axes = figures.hit_curve(result).axes[0]
    (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
    resident = float(np.mean(result.columns["experts"]["resident"]))
    assert mark.get_xydata().tolist() == [[resident, result.summary["hit_rate"]]]
    shares = axes.lines[0].get_ydata()
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
    assert all(before <= after for before, after in pairwise(shares))


def test_experts_by_id_keep_their_order() -> None:
    result = run("quickstart", "lru")
    activations = result.columns["experts"]["activations"].reshape(48, -1)
    shown_values = figures.expert_map(result, by_id=True).axes[0].images[0].get_array()
    assert np.allclose(shown_values, activations / activations.mean(axis=1, keepdims=True))
    ranked = np.asarray(figures.expert_map(result).axes[0].images[0].get_array())
    assert (np.diff(ranked, axis=1) <= 1e-12).all()


def test_what_is_missing_is_said() -> None:
    old = Result({"policy": "p", "bytes": {}, "makespan_s": 1.0}, {})
    for name in ("lane_use", "layer_time", "roofline", "hit_curve", "expert_map", "traffic"):
        with pytest.raises(InputError, match=r"kept no table|nothing moved"):
            getattr(figures, name)(old)
    with pytest.raises(InputError, match="no column"):
        figures.sweep_curve({"policy": ["a"]}, x="x")
    with pytest.raises(InputError, match="no row"):
        figures.sweep_curve({"x": [1.0], "throughput_tok_s": [math.nan], "policy": ["a"]}, x="x")
    with pytest.raises(InputError, match="throughput to show"):
        figures.comparison([summary("a", None)])
    with pytest.raises(InputError, match="a cost or an energy"):
        figures.pareto([summary("a", 1.0, cost_usd_per_Mtok=None, energy_J=None)])
    with pytest.raises(InputError, match="name the column"):
        figures.hit_curve(table(1))


def test_every_figure_is_public() -> None:
    assert {name for name in figures.__all__ if callable(getattr(figures, name))} >= {
        *OF_RUNS,
        "comparison",
        "pareto",
        "sweep_curve",
    }
    assert moesim.__version__
