"""The pictures: what they show, that the same picture gives the same bytes, that nothing is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from moesim.errors import InputError
from moesim.report import figures
from moesim.report.canvas import house_style
from moesim.results.recorder import SECOND, Slice
from moesim.results.result import Result

STEPS = [("serial, as printed", 0.8), ("with overlap", 0.5), ("with contention", 0.6), ("simulated", 0.6)]


def result(policy: str = "lru", speed: float = 50.0, bound: float | None = 80.0) -> Result:
    summary: dict[str, Any] = {"scenario": "a $cenario$", "policy": policy, "seed": 1, "replicate": 0}
    summary |= {"throughput_tok_s": speed, "bound_tok_s": bound}
    drawn = [
        Slice("gpu", "attention", 0, SECOND), Slice("gpu", "experts", SECOND, 2 * SECOND),
        Slice("pcie:forward", "expert 1", 0, 2 * SECOND, 1e6, "demand"),
        Slice("pcie:forward", "expert 2", SECOND, 3 * SECOND, 1e6, "prefetch"), Slice("counter:hbm", "", 0, 9 * SECOND, 5.0),
    ]  # fmt: skip
    return Result(summary, {}, slices=drawn)


TABLE = {"threshold_percentile": [0, 50, 100], "throughput_tok_s": [10.0, 30.0, 20.0]}
PICTURES: dict[str, Callable[[], Figure]] = {
    "timeline": lambda: figures.timeline(result()),
    "threshold": lambda: figures.threshold_curve(TABLE, second=TABLE),
    "waterfall": lambda: figures.waterfall(STEPS, title="one step"),
    "comparison": lambda: figures.comparison([result(), result("a_policy_with_a_long_name" * 2, 1.0), result("c", 79.0, None)]),
}


def texts(figure: Figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    axes = figure.axes[0]
    return [text.get_text() for text in [*axes.texts, *axes.get_yticklabels()]] + legends


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_has_the_same_bytes(name: str, tmp_path: Path) -> None:
    with house_style():
        first = PICTURES[name]()
    with rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}), house_style():
        second = PICTURES[name]()
    for ending in ("svg", "png"):
        with house_style():
            once = figures.save(first, tmp_path / f"a.{ending}").read_bytes()
        with rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}), house_style():
            again = figures.save(second, tmp_path / f"b.{ending}").read_bytes()
        assert once == again
        assert b"<dc:date>" not in once


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_cut_off_and_axes_have_units(name: str) -> None:
    figure = PICTURES[name]()
    figure.canvas.draw()
    axes = figure.axes[0]
    box, whole = axes.get_tightbbox(), figure.bbox
    assert box is not None
    assert (box.x0 >= -1, box.y0 >= -1, box.x1 <= whole.x1 + 1, box.y1 <= whole.y1 + 1) == (True, True, True, True)
    assert "(" in axes.get_xlabel()


def test_a_timeline_has_a_row_per_lane_and_a_legend() -> None:
    figure = figures.timeline(result())
    assert texts(figure) == ["gpu", "pcie:forward", "pcie:forward #2", "gpu", "demand", "prefetch"]
    assert figure.axes[0].get_xlim() == (0.0, 3.0)
    assert figure.axes[0].get_xlabel() == "simulated time (s)"


def test_a_window_cuts_slices_at_its_edges() -> None:
    axes = result().plot_timeline(start=2.25, end=2.5).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pcie:forward"]
    assert axes.get_xlim() == (2250.0, 2500.0)
    assert axes.get_xlabel() == "simulated time (ms)"


def test_an_impossible_timeline_is_refused() -> None:
    with pytest.raises(InputError, match="ends after it starts"):
        figures.timeline(result(), start=2.0, end=1.0)
    with pytest.raises(InputError, match="run it with a trace"):
        figures.timeline(Result({}, {}))


def test_peaks_are_marked_and_gaps_left_out() -> None:
    table = {"threshold_percentile": [100, 50, 0, 75], "throughput_tok_s": [20.0, 30.0, 10.0, float("nan")]}
    figure = figures.threshold_curve(table, second=table | {"throughput_tok_s": [1.0, 2.0, 3.0, 4.0]})
    assert texts(figure)[-2:] == ["simulated: peak 30 at 50", "published: peak 4 at 75"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 50, 100]


def test_a_curve_needs_its_columns() -> None:
    with pytest.raises(InputError, match="no column throughput_tok_s"):
        figures.threshold_curve({"threshold_percentile": [1]})
    with pytest.raises(InputError, match="no row"):
        figures.threshold_curve({"threshold_percentile": [1], "throughput_tok_s": [float("nan")]})


def test_a_waterfall_says_each_change() -> None:
    shown = texts(figures.waterfall(STEPS))
    assert shown[:4] == ["800 ms", "500 ms (-38 %)", "600 ms (+20 %)", "600 ms (-25 % in all)"]
    with pytest.raises(InputError, match="two steps"):
        figures.waterfall(STEPS[:1])


def test_a_comparison_ranks_and_marks_bounds() -> None:
    figure = figures.comparison([result("slow", 10.0), result("fast", 40.0)])
    assert texts(figure)[:4] == ["40 tok/s (50 % of bound)", "10 tok/s (12 % of bound)", "fast", "slow"]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [80.0, 80.0]
    assert not figures.comparison([result(bound=None)]).legends


def test_a_picture_is_saved_as_svg_png_or_pdf_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not as 'a\.gif'"):
        figures.save(figures.waterfall(STEPS), tmp_path / "a.gif")


def test_a_notebook_shows_a_picture_by_itself() -> None:
    picture = figures.waterfall(STEPS)
    assert picture._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["timeline", "lane_use", "layer_time", "roofline", "traffic", "expert_map", "hit_curve", "queue"]
)
def test_a_result_draws_each_figure_of_a_run_under_its_own_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def draw(run: Result, **options: Any) -> Figure:
        drawn.append(options["width"])
        return Figure()

    monkeypatch.setattr(figures, name, draw)
    assert isinstance(getattr(result(), f"plot_{name}")(width=3.5), Figure)
    assert drawn == [3.5]
