"""Splits, residuals and the search: what is fitted on is what was named, and known laws are found again."""

import numpy as np
import pytest

from moesim.fit.solve import Fit, Parameter, Residuals, alternate, least_squares, named, shown

LINE = (Parameter("setup", "s", (1e-5,), 1e-7, 1e-2), Parameter("rate", "B/s", (1e10,), 1e8, 1e12))
SIZES = np.array([1e3, 1e5, 1e6, 1e7, 1e9])


def line(values):
    return values["setup"] + SIZES / values["rate"]


def test_every_second_point_from_the_first_is_fitted_on():
    assert alternate(5).tolist() == [True, False, True, False, True]


def test_points_that_do_not_exist_cannot_be_named():
    assert named([1, 2, 4], [1, 4]).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"no such points: \[3\]"):
        named([1, 2, 4], [3])


def test_residuals_are_relative_errors():
    assert Residuals.of([1.1, 0.8, 1.0], [1.0, 1.0, 1.0]) == pytest.approx((3, 0.1, 0.18, 0.2))
    assert Residuals.of([], []).points == 0


@pytest.mark.parametrize("robust", [None, 0.1])
def test_a_known_law_is_found_from_the_points_named(robust):
    measured = line({"setup": 2e-5, "rate": 2.5e10})
    measured[1] *= 9  # not fitted on, so it must not matter
    fitted = least_squares(line, measured, alternate(5), LINE, robust=robust)
    assert fitted == pytest.approx({"setup": 2e-5, "rate": 2.5e10}, rel=1e-3)


def test_a_wild_point_hardly_bends_a_robust_fit():
    measured = line({"setup": 2e-5, "rate": 2.5e10})
    measured[3] *= 3
    everything = np.ones(5, dtype=bool)
    firm = least_squares(line, measured, everything, LINE, robust=0.01)
    soft = least_squares(line, measured, everything, LINE, robust=None)
    assert abs(firm["rate"] / 2.5e10 - 1) < 0.02 < abs(soft["rate"] / 2.5e10 - 1)


def test_an_even_fit_lowers_the_worst_miss():
    measured = line({"setup": 2e-5, "rate": 2.5e10}) * [1.0, 1.0, 1.0, 1.1, 1.0]
    everything = np.ones(5, dtype=bool)
    worst = [
        Residuals.of(line(least_squares(line, measured, everything, LINE, robust=None, even=even)), measured).worst
        for even in (False, True)
    ]
    assert worst[1] < worst[0]


def test_slopes_spare_what_differences_would_predict():
    calls = {}

    def fitted(**how):
        def counted(values):
            calls[len(how)] = calls.get(len(how), 0) + 1
            return line(values)

        return least_squares(counted, line({"setup": 2e-5, "rate": 2.5e10}), alternate(5), LINE, **how)

    def slopes(values):
        parts = np.stack([np.full(5, values["setup"]), -SIZES / values["rate"]], axis=1)
        return parts / line(values)[:, None]

    assert fitted(slopes=slopes) == fitted()
    assert calls[1] < calls[0] / 2


def test_parameters_stay_within_their_bounds():
    tight = (LINE[0], Parameter("rate", "B/s", (1e10,), 1e8, 1e10))
    assert least_squares(line, line({"setup": 2e-5, "rate": 2.5e10}), alternate(5), tight)["rate"] == 1e10


def test_a_profile_shows_value_unit_basis_and_source():
    good = Residuals(5, 0.01, 0.02, 0.03)
    fit = Fit(
        component="copies",
        subject="a host",
        law="law",
        parameters={"rate": 27.4e9, "setup": 1.35e-5},
        units={"rate": "B/s", "setup": "s"},
        source="a laboratory",
        split="every second",
        fitted=good,
        tested=good,
        valid={"tokens per expert": (1.0, 512.0)},
    )
    text = fit.to_profile(indent=2)
    origin = 'basis: derived, source: "a laboratory, a host; every second: 1.0% median, 2.0% p90"'
    assert text.splitlines() == [
        f"  rate: {{value: 27.4 GB/s, {origin}}}",
        f"  setup: {{value: 13.5 us, {origin}}}",
        f"  valid_tokens: {{value: [1, 512], {origin}}}",
    ]


def test_values_are_shown_in_the_units_of_profiles():
    assert [shown(*pair) for pair in ((0.85, ""), (22.3e12, "FLOP/s"), (1.23e12, "weights/s"))] == [
        "0.85",
        "22.3 TFLOPS",
        "1.23 TOPS",
    ]
