"""Planted curves found again, and schedules that were not fitted predicted."""

from dataclasses import replace

import numpy as np
import pytest

from clip_jax.scaling.curves.fit import Curve, CurveFit, fit_curves, law_at
from clip_jax.scaling.curves.intervals import curve_intervals
from clip_jax.scaling.curves.laws import CURVE_LAWS
from clip_jax.scaling.curves.schedule import cosine, stable_then_decay
from tests.user_errors import raises_user_error

PEAK, STEPS = 3e-4, np.arange(600, 6001, 360)
TRUTH = {
    "annealing": {"L0": 2.9, "A": 0.55, "alpha": 0.5, "C": 0.8, "memory": 300.0, "B_N": 40.0, "beta_N": 0.3},
    "multi-power": {
        "L0": 2.9, "A": 0.55, "alpha": 0.5, "B": 500.0, "C": 1.5, "beta": 0.5, "gamma": 0.6, "B_N": 40.0, "beta_N": 0.3,
    },
}  # fmt: skip
SCHEDULES = {
    "cosine": cosine(6000, PEAK, warmup_steps=500, floor=0.1 * PEAK, knots=40),
    "constant": stable_then_decay(6000, PEAK, decay_steps=0, warmup_steps=500),
    "jump": stable_then_decay(4000, PEAK, decay_steps=1, warmup_steps=500, floor=0.3 * PEAK),
}
UNSEEN = stable_then_decay(9000, PEAK, decay_steps=1500, warmup_steps=500)


def planted(key, sizes=(None,), *, noise=0.0, reading="first-step", seed=0):
    """Curves of three schedules for each size that the law of ``TRUTH`` gives."""
    rng = np.random.default_rng(seed)
    curves = [Curve(n, s, STEPS, np.ones(len(STEPS)), size) for size in sizes for n, s in SCHEDULES.items()]
    law, columns = law_at(CURVE_LAWS[key][len(sizes) > 1], curves, reading)
    y = law.predict(law.theta(TRUTH[key], dict.fromkeys(law.columns, 1.0)), {c: np.log(v) for c, v in columns.items()})
    y = y * np.exp(noise * rng.standard_normal(len(y)))
    return [replace(c, losses=part) for c, part in zip(curves, y.reshape(len(curves), -1), strict=True)]


def truth_at(key, curve, sizes=1, reading="first-step"):
    law, columns = law_at(CURVE_LAWS[key][sizes > 1], [curve], reading)
    theta = law.theta(TRUTH[key], dict.fromkeys(law.columns, 1.0))
    return law.predict(theta, {c: np.log(v) for c, v in columns.items()})


@pytest.mark.parametrize(
    ("key", "reading"),
    [
        ("annealing", "after-warmup"),
        ("multi-power", "first-step"),
        pytest.param("annealing", "first-step", marks=pytest.mark.thorough),
        pytest.param("multi-power", "after-warmup", marks=pytest.mark.thorough),
    ],
)
def test_a_planted_law_is_found_again(key, reading):
    fitted = fit_curves(key, planted(key, reading=reading), reading=reading)
    assert fitted.fit.status == "converged"
    for name, value in fitted.fit.values.items():
        assert value == pytest.approx(TRUTH[key][name], rel=2e-3), name
    curve = Curve("unseen", UNSEEN, np.array([8000, 9000]), np.ones(2))
    predicted = fitted.predict(UNSEEN, curve.steps)
    np.testing.assert_allclose(predicted, truth_at(key, curve, reading=reading), rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("key", TRUTH)
def test_a_planted_law_of_sizes_is_found_again(key):
    fitted = fit_curves(key, planted(key, (1e6, 4e6, 3e7)))
    for name, value in fitted.fit.values.items():
        assert value == pytest.approx(TRUTH[key][name], rel=2e-2), name
    curve = Curve("unseen", UNSEEN, np.array([9000]), np.ones(1), 1e8)
    np.testing.assert_allclose(fitted.predict(UNSEEN, [9000], 1e8), truth_at(key, curve, 3), rtol=1e-4)


def test_readings_differ_by_a_constant_late_in_a_run():
    p = {k: TRUTH["multi-power"][k] for k in ("L0", "A", "alpha", "B", "C", "beta", "gamma")}
    curve = Curve("c", SCHEDULES["cosine"], np.array([3000, 6000]), np.ones(2))
    first, after = (truth_at("multi-power", curve, reading=r) for r in ("first-step", "after-warmup"))
    gap = first - after
    assert gap.min() > 0.6 * p["B"] * PEAK
    assert abs(np.diff(gap))[0] < 0.1 * gap[0]


def test_rows_within_the_warmup_are_left_out():
    curves = planted("annealing")
    early = [
        replace(c, steps=np.concatenate([[100], c.steps]), losses=np.concatenate([[9.0], c.losses])) for c in curves
    ]
    assert [len(c.steps) for c in fit_curves("annealing", early).curves] == [len(STEPS)] * 3


def test_long_curves_are_thinned_and_keep_their_last_row():
    curve = Curve("c", UNSEEN, np.arange(1000, 9001), np.arange(8001.0))
    thin = curve.thinned(50)
    assert len(thin.steps) == 50
    assert thin.steps[-1] == 9000
    assert thin.losses[-1] == 8000


def test_what_cannot_be_fitted_is_refused():
    curves = planted("annealing")
    with raises_user_error(field="law"):
        fit_curves("power", curves)
    with raises_user_error(field="--reading"):
        fit_curves("annealing", curves, reading="last-step")
    with raises_user_error(field="curves"):
        fit_curves("annealing", [replace(c, steps=c.steps * 0 + 1) for c in curves])
    two = [replace(c, params=n) for c in curves for n in (1e6, 2e6)]
    with raises_user_error(field="params"):
        fit_curves("annealing", two)
    with raises_user_error(field="params"):
        fit_curves("annealing", [*curves, *two])


def test_few_curves_have_no_interval():
    fitted = fit_curves("annealing", planted("annealing"))
    with raises_user_error(field="--group"):
        curve_intervals(fitted)


@pytest.mark.thorough
def test_intervals_come_from_curves_drawn_again():
    curves = [c for seed in range(3) for c in planted("annealing", noise=2e-3, seed=seed)]
    fitted = fit_curves("annealing", curves)
    assert isinstance(fitted, CurveFit)
    assert fitted.labels.max() == 8
    spans = curve_intervals(fitted, replicas=50)
    curve = Curve("unseen", UNSEEN, np.array([9000]), np.ones(1))
    ((law, run),) = spans.ends([curve])
    assert law.low < float(truth_at("annealing", curve)[0]) < law.high
    assert run.low < law.low < law.high < run.high
    assert spans.parameter("alpha").low < TRUTH["annealing"]["alpha"] < spans.parameter("alpha").high
