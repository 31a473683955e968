"""BD-rate against the `bjontegaard` package (1.3.0, method "pchip"), whose results stand here."""

import math

import numpy as np
import pytest

from cvcodec.bench.bjontegaard import Curve, bd_rate, interpolate, percent

ANCHOR = [(9487.76, 40.037), (4593.60, 38.615), (2486.44, 36.845), (1358.24, 34.851)]
TEST = [(9787.80, 40.121), (4469.00, 38.651), (2451.52, 36.970), (1356.24, 34.987)]
WIDE = [(0.02, 24.1), (0.045, 26.9), (0.09, 29.2), (0.2, 32.0), (0.41, 35.3)]
NARROW = [(0.03, 27.5), (0.05, 28.4), (0.08, 29.9), (0.16, 31.1)]


@pytest.mark.parametrize(
    ("anchor", "test", "rate"),
    [
        (ANCHOR, TEST, -4.417485350589045),
        (WIDE, NARROW, -26.956974763143904),
    ],
)
def test_the_number_is_that_of_the_published_package(anchor, test, rate):
    assert percent(bd_rate(anchor, test)) == pytest.approx(rate, abs=1e-9)


def test_the_published_package_agrees_where_it_is_installed():
    package = pytest.importorskip("bjontegaard")
    rates, qualities = zip(*sorted(ANCHOR), strict=True)
    others, values = zip(*sorted(TEST), strict=True)
    assert percent(bd_rate(ANCHOR, TEST)) == pytest.approx(
        package.bd_rate(rates, qualities, others, values, method="pchip"), abs=1e-9
    )


def test_a_curve_that_costs_a_tenth_more_everywhere_is_ten_percent_worse():
    worse = [(1.1 * rate, quality) for rate, quality in ANCHOR]
    assert percent(bd_rate(ANCHOR, worse)) == pytest.approx(10.0)
    assert bd_rate(worse, ANCHOR) == pytest.approx(-math.log(1.1))


def test_curves_without_a_common_quality_have_no_bd_rate():
    assert bd_rate(ANCHOR, [(rate, quality - 10) for rate, quality in TEST]) is None
    assert bd_rate(ANCHOR, TEST[:1]) is None


def test_a_quality_reached_twice_counts_at_its_lower_rate():
    assert bd_rate(ANCHOR, [*TEST, (20000.0, 40.121), (30000.0, 39.0)]) == bd_rate(ANCHOR, TEST)


def test_between_points_a_curve_is_the_line_where_the_points_are_on_one():
    x = np.array([0.0, 1.0, 3.0, 4.5])
    curve = Curve(x, 2 - 3 * x)
    at = np.linspace(0, 4.5, 20)
    np.testing.assert_allclose(curve(at), 2 - 3 * at, atol=1e-12)
    assert curve.integral(0.5, 4.0) == pytest.approx(2 * 3.5 - 1.5 * (16 - 0.25))


def test_a_curve_through_a_step_does_not_overshoot():
    curve = Curve([0, 1, 2, 3, 4], [0, 0, 0, 1, 1])
    assert np.all(np.diff(curve(np.linspace(0, 4, 200))) >= -1e-12)


def test_interpolation_gives_the_points_and_nothing_outside():
    assert interpolate(ANCHOR, 4593.60) == pytest.approx(38.615)
    assert interpolate(ANCHOR, 100.0) is None


@pytest.mark.parametrize("points", [([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, math.nan])])
def test_what_is_no_curve_is_refused(points):
    with pytest.raises(ValueError, match="a curve takes"):
        Curve(*points)
