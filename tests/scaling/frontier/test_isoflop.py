"""Valleys, and what is refused as one."""

import numpy as np
import pytest

from clip_jax.scaling.frontier.isoflop import allocation, isoflop, lowest_point

from ...user_errors import raises_user_error


def test_isoflop_parabolas_find_the_planted_optimum(runs, curves):
    parabolas = isoflop(runs(curves["power law"], noise=0.0), "error_mean")
    assert {p["status"] for p in parabolas} == {"accepted"}
    np.testing.assert_allclose([p["params"] for p in parabolas], [p["budget"] ** 0.5 / 3 for p in parabolas], rtol=0.01)
    optimum = allocation(parabolas)
    assert (optimum.params, optimum.samples) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01))
    for p in parabolas:  # the valleys lie on the line, so its intercept gives them back
        size, samples = (
            np.exp(intercept + exponent * np.log(p["budget"]))
            for exponent, intercept in (
                (optimum.params, optimum.params_intercept),
                (optimum.samples, optimum.samples_intercept),
            )
        )
        assert size == pytest.approx(p["params"], rel=0.01)
        assert samples == pytest.approx(p["samples_seen"], rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "change", "reason"),
    [
        (3, lambda n, x: 1 + x**2, "3 sizes, 4 are needed"),
        (5, lambda n, x: 2 - 0.1 * x**2, "opens downward"),
        (5, lambda n, x: np.exp(0.05 * (x - 9.0) ** 2), "outside the sizes tried"),
    ],
)
def test_isoflop_parabola_without_a_minimum_is_refused(runs, curves, sizes, change, reason):
    df = runs(curves["power law"], sizes=sizes, seeds=1)
    x = np.log(df["params"] / (df["budget"] ** 0.5 / 3))
    df["error_mean"] = change(df["params"], x) * 0.1
    parabolas = isoflop(df, "error_mean")
    assert all(reason in p["status"] for p in parabolas)
    assert all("params" not in p for p in parabolas)
    assert allocation(parabolas).status.startswith("not identified: 0 budgets")


X = np.linspace(-2, 2, 9)


def valley(x, left=0.5, right=0.9):
    """Return Chinchilla's own shape at one budget: two exponentials, lowest at 0, steeper to the right."""
    return 2.0 + (np.exp(-left * x) / left + np.exp(right * x) / right) * 0.05


def test_lowest_point_of_a_skewed_valley_needs_a_cubic():
    off = {way: abs(lowest_point(X, valley(X), way).x) for way in ("parabola", "cubic", "akima")}
    assert off["parabola"] > 0.15
    assert off["cubic"] < 0.2 * off["parabola"]
    assert off["akima"] < 0.03


@pytest.mark.parametrize("way", ["parabola", "cubic", "akima"])
def test_lowest_point_of_a_symmetric_valley_is_found_by_every_way(way):
    lowest = lowest_point(X + 5, 1 + 0.1 * X**2, way)
    assert lowest.status == "accepted"
    assert lowest.x == pytest.approx(5.0, abs=0.05)
    assert lowest.y == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("way", "y", "reason"),
    [
        ("parabola", -(X**2), "opens downward"),
        ("cubic", X**3 + X, "no minimum"),
        ("parabola", (X - 4) ** 2, "outside"),
        ("cubic", (X - 4) ** 2 + 1e-3 * X**3, "outside"),
        ("akima", X, "outside"),
        ("akima", -X, "outside"),
    ],
)
def test_lowest_point_without_a_minimum_gives_the_reason(way, y, reason):
    lowest = lowest_point(X, y, way)
    assert reason in lowest.status
    assert lowest.x is None


def test_lowest_point_of_too_few_sizes_or_an_unknown_way():
    assert lowest_point(X[:4], X[:4] ** 2, "cubic").status == "not identified: 4 sizes, 5 are needed"
    assert lowest_point(np.repeat(X[:3], 3), np.repeat(X[:3] ** 2, 3)).status.endswith("3 sizes, 4 are needed")
    with raises_user_error(field="isoflop.way", value="spline"):
        lowest_point(X, X, "spline")


def test_allocation_has_the_planted_exponent_by_every_way(runs, curves):
    df = runs(curves["power law"], noise=0.0)
    for way in ("parabola", "cubic", "akima"):
        assert allocation(isoflop(df, "error_mean", way=way)).params == pytest.approx(0.5, abs=0.02)
