"""DynaNDE's order of four schemes, and what does not follow from its own rates; on a quarter of the draws of the case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moesim.validation import reproduce
from moesim.validation.systems import dynande
from moesim.validation.systems.dynande import relative


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynande, "DRAWS", dynande.DRAWS // 4)
        yield
    dynande._runs.cache_clear()


def test_order_is_the_published_one() -> None:
    assert relative("DynaNDE") < 1.0 < relative("MoNDE, fixed split") < relative("streaming to the GPU")


def test_streaming_takes_longer_by_the_ratio_of_the_rates_and_not_by_fifty() -> None:
    assert relative("streaming to the GPU") == pytest.approx(512 / 32, rel=0.03)


def test_what_misses_is_derived_from_the_inputs() -> None:
    (result,) = reproduce(["dynande-order"])
    assert result.verdict == "explained"
    assert [row.name for row in result.findings.rows if not row.within] == ["streaming to the GPU: time / near-data only"]
