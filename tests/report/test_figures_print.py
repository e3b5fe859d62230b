"""Figures for print: their widths, fonts and files, the axes and the rcParams of the caller, colours that stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

import moesim
from moesim import cli
from moesim.errors import InputError, MoesimError
from moesim.report import figures
from moesim.report.canvas import lay_out, render
from moesim.report.colours import LINES, colours_of, lane_colours
from moesim.results.result import Result

TABLE = {
    "policy.hot": [0.1, 0.5, 0.9] * 2, "policy": ["lru"] * 3 + ["cox_moe"] * 3,
    "throughput_tok_s": [10.0, 20.0, 15.0, 30.0, 35.0, 25.0], "throughput_tok_s.low": [9.0, 18.0, 14.0, 28.0, 33.0, 24.0],
    "throughput_tok_s.high": [11.0, 22.0, 16.0, 32.0, 37.0, 26.0], "cost_usd_per_Mtok": [3.0, 2.0, 2.5, 1.5, 1.2, 1.9],
}  # fmt: skip
STEPS = [("all experts one after another", 0.8), ("overlapped", 0.5), ("with queues", 0.62), ("measured", 0.6)]
OF_TABLES: dict[str, Callable[..., Figure]] = {
    "comparison": lambda **where: figures.comparison(TABLE, **where),
    "pareto": lambda **where: figures.pareto(TABLE, **where),
    "sweep_curve": lambda **where: figures.sweep_curve(TABLE, x="policy.hot", **where),
    "threshold_curve": lambda **where: figures.threshold_curve(TABLE, x="policy.hot", **where),
    "waterfall": lambda **where: figures.waterfall(STEPS, **where),
}
OF_RUNS = [name for name in figures.OF_RUNS if name != "queue"]
NAMES = [*OF_TABLES, *OF_RUNS]


@pytest.fixture(scope="module")
def result() -> Result:
    return moesim.run("quickstart", timeline=True, **{"workload.requests": 2, "workload.prompt": 16, "workload.output": 4})


def drawn(name: str, result: Result, **where: Any) -> Figure:
    return OF_TABLES[name](**where) if name in OF_TABLES else result.plot(name, **where)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_fits_a_column(name: str, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(name, result, width="column")
    assert figure.get_figwidth() == pytest.approx(3.33)
    boxes: list[tuple[str, Any]] = []
    draw = Text.draw

    def seen(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            boxes.append((text.get_text(), Text.get_window_extent(text, renderer)))
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", seen)
    lay_out(figure)
    figure.draw_without_rendering()
    for text, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"'{text}' leaves the picture"
    for (first_box, first), (second_box, second) in combinations(boxes, 2):
        across, up = min(first.x1, second.x1) - max(first.x0, second.x0), min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 1 or up <= 1, f"'{first_box}' and '{second_box}' overlap"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_into_axes_of_the_caller(name: str, result: Result) -> None:
    with rc_context({"font.size": 6.5}):
        own, (left, right) = plt.subplots(1, 2, figsize=(7, 4))
        figure = drawn(name, result, ax=left)
    assert figure is own
    inside = [left, *left.child_axes]
    assert any(axes.lines or axes.patches or axes.collections or axes.images for axes in inside)
    assert not right.lines
    assert {label.get_fontsize() for axes in inside for label in axes.get_xticklabels()} == {6.5}
    own.canvas.draw()
    plt.close(own)


def test_what_the_user_has_set_holds() -> None:
    with rc_context({"font.size": 11.0, "font.family": ["serif"], "axes.linewidth": 2.5, "svg.hashsalt": "own"}):
        figure = figures.waterfall(STEPS, width=5.0)
    axes = figure.axes[0]
    assert axes.get_xticklabels()[0].get_fontsize() == 11.0
    assert axes.get_xticklabels()[0].get_fontfamily() == ["serif"]
    assert axes.spines["left"].get_linewidth() == 2.5
    assert not figures.waterfall(STEPS).axes[0].spines["top"].get_visible()


def test_a_pdf_has_fonts_that_can_be_searched_and_edited() -> None:
    page = render(figures.waterfall(STEPS, width="column"), "pdf")
    assert page.startswith(b"%PDF")
    assert b"/Type3" not in page
    assert b"/CIDFontType2" in page or b"/TrueType" in page
    assert page == render(figures.waterfall(STEPS, width="column"), "pdf")
    box = re.search(rb"/MediaBox \[\s*0 0 ([\d.]+)", page)
    assert box is not None
    assert float(box.group(1)) == pytest.approx(72 * 3.33, abs=0.1)


@pytest.mark.parametrize("width", ["wide", 0.5, 99.0])
def test_a_width_is_a_name_or_inches(width: Any) -> None:
    with pytest.raises(InputError, match="a width is column, page, or inches"):
        figures.waterfall(STEPS, width=width)


def test_axes_and_a_width_exclude_each_other() -> None:
    with pytest.raises(InputError, match="not both"):
        figures.waterfall(STEPS, ax=Figure().add_subplot(), width=3.0)


def test_an_unknown_figure_is_refused(result: Result) -> None:
    with pytest.raises(MoesimError, match="Did you mean 'roofline'"):
        result.plot("rofline")


def test_colours_belong_to_names() -> None:
    assert lane_colours(["pcie:forward", "gpu"])["gpu"] == lane_colours(["cpu", "gpu", "cxl0_link:reverse"])["gpu"]
    fewer, more = colours_of(["lru", "cox_moe"]), colours_of(["cox_moe", "lru"])
    assert fewer == more
    assert len(set(colours_of([f"policy {number}" for number in range(len(LINES))]).values())) == len(LINES)


def test_the_command_writes_each_figure_three_times(
    of_comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    assert cli.main(["report", str(of_comparison), "--figures", str(out), "--width", "column"]) == 0
    assert "each as .pdf, .svg and .png: throughput" in capsys.readouterr().out
    files = sorted(path.name for path in out.iterdir())
    assert {"throughput.pdf", "throughput.svg", "throughput.png", "pareto.pdf"} <= set(files)
    assert len(files) % 3 == 0
    assert cli.main(["report", str(of_comparison), "--figures", str(tmp_path / "no"), "--width", "narrow"]) == 2
    assert not (tmp_path / "no").exists()
