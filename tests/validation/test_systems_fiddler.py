"""Fiddler's measured speeds: each is met, or derived by hand from the constants of its own code.

Here on one draw of the routing and outputs of up to 32 tokens; `moesim reproduce fiddler-env1` takes three and up to 512.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moesim.validation import CaseResult, registry
from moesim.validation.reproduce import run_case
from moesim.validation.systems import fiddler

OUTPUTS = fiddler.OUTPUTS[:2]


@pytest.fixture(scope="module")
def result() -> Iterator[CaseResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fiddler, "PUBLISHED", {prompt: speeds[:2] for prompt, speeds in fiddler.PUBLISHED.items()})
        patch.setattr(fiddler, "OUTPUTS", OUTPUTS)
        patch.setattr(fiddler, "_REPLICATES", 1)
        yield run_case(registry.find(["fiddler-env1"])[0])
    for remembered in (fiddler._runs, fiddler.fitted_kernel, fiddler._by_hand):
        remembered.cache_clear()


def test_the_source_has_eighteen_points() -> None:
    assert sum(len(speeds) for speeds in fiddler.PUBLISHED.values()) == 18
    assert len(fiddler.OUTPUTS) == 6


def test_every_row_is_met_or_derived(result: CaseResult) -> None:
    assert result.verdict in ("pass", "explained")
    assert any(row.within and not row.fitted for row in result.findings.rows)


def test_fiddler_is_fitted_on_two_points_alone(result: CaseResult) -> None:
    fitted = [row.name for row in result.findings.rows if row.fitted]
    assert fitted == [f"prompt {prompt}, output {output}: tok/s" for prompt, output in fiddler.FIT_ON]
    assert len(result.findings.rows) == 3 * len(OUTPUTS)


def test_sums_by_hand_arrive_where_the_engine_does(result: CaseResult) -> None:
    """From the routing and the first placement alone, without an engine."""
    kernel = fiddler.fitted_kernel()
    for prompt in fiddler.PUBLISHED:
        by_hand = fiddler._by_hand(prompt, kernel)
        for output in OUTPUTS:
            assert output / by_hand[output - 1] == pytest.approx(fiddler._speed(prompt, output, kernel), rel=0.01)
