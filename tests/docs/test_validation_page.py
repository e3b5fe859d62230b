"""docs/validation.md is what the program writes: every case, and for the quick ones the very numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moesim.validation import Case, CaseResult, Findings, Row, registry, reproduce
from moesim.validation.document import page, section
from moesim.validation.reproduce import run_case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "validation.md"
QUICK = [
    "amx-vs-avx512-crossover",
    "cpu-bandwidth-by-format-6454s",
    "pcie-effective-by-host",
    "cxl-to-gpu-a10",
    "cxl-type3-lia",
]
QUICK += ["moe-lightning-fig9", "oracle-break-even", "oracle-interleaving", "oracle-shared-link", "cxl-expert-quantisation"]
AGAIN = "write it again: python tools/validation_page.py"


def sections() -> dict[str, str]:
    parts = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: f"## {part}" for part in parts[1:]}


def test_the_page_has_every_case_in_order() -> None:
    assert list(sections()) == ["Cases", "Serving programs", *registry.ids()], AGAIN


def test_no_case_of_the_page_failed_or_was_skipped() -> None:
    verdicts = dict(re.findall(r"^\| \[(.+?)\]\(.+?\) \| \w+ \| (\w+) \|", sections()["Cases"], flags=re.MULTILINE))
    assert list(verdicts) == registry.ids()
    assert {name for name, verdict in verdicts.items() if verdict not in ("pass", "explained")} == set(), AGAIN


@pytest.mark.parametrize("name", QUICK)
def test_the_page_says_what_the_program_says_now(name: str) -> None:
    (result,) = reproduce([name])
    agrees(sections()[name], result)


def agrees(text: str, result: CaseResult) -> None:
    """Names and verdicts of the rows are those of the section, numbers to 1 %."""
    written, now = _cells(text), _cells(section(result))
    assert [row[0] for row in written] == [row[0] for row in now], AGAIN
    for (_, *old), (_, *new) in zip(written, now, strict=True):
        assert new[-1] == old[-1], AGAIN
        for before, after in zip(old[:2], new[:2], strict=True):
            assert _value(after) == pytest.approx(_value(before), rel=0.01), AGAIN


def _cells(text: str) -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "published" not in line]
    return [[cell.strip() for cell in row] + [""] * (6 - len(row)) for row in rows]


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def test_a_section_marks_what_was_fitted_and_what_is_outside() -> None:
    rows = (Row("a", 1.0, 1.0, 0.1, fitted=True), Row("b | c", 1.0, 2.0, 0.1), Row("d", 20000.0, 20000.4, 0.1))
    case = Case(
        id="x",
        kind="component",
        summary="What it is.",
        source="a paper",
        runner=lambda: Findings(rows, arithmetic=("1 < 2",)),
        fitted="a rate, on a",
    )
    text = section(run_case(case))
    assert text.splitlines()[0] == "## x"
    assert "| a | 1 | 1 | +0 % | 10 % | fitted |" in text
    assert "| b \\| c | 1 | 2 | +100 % | 10 % | outside |" in text
    assert "| d | 20,000 | 20,000 | +0 % | 10 % |  |" in text
    assert "Source: a paper. Fitted: a rate, on a." in text
    assert "* 1 &lt; 2" in text


def test_the_table_leaves_fitted_rows_out_of_the_errors() -> None:
    rows = (Row("a", 1.0, 9.0, 10.0, fitted=True), Row("b", 1.0, 1.1, 0.2), Row("c", 1.0, 1.2, 0.3))
    text = page([run_case(Case(id="x", kind="system", summary="s", source="p", runner=lambda: Findings(rows)))])
    assert "| [x](#x) | system | pass | 2 | 15 % | 20 % | nothing |" in text


def test_reproduce_writes_the_page_beside_its_files(tmp_path: Path) -> None:
    results = reproduce(["oracle-break-even"], out=tmp_path)
    assert (tmp_path / "validation.md").read_text("utf-8") == page(results)
