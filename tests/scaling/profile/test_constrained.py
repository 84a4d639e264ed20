"""Constrained fits behind a prediction's profile, against scipy's SLSQP and against their own twin."""

import numpy as np
import pytest
from scipy.optimize import minimize

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import (
    BoundedChinchilla,
    BoundedPowerLaw,
    BoundedRepetition,
    BrokenPowerLaw,
    Chinchilla,
    PowerLawFromChance,
    SaturatingPowerLaw,
    ShiftedPowerLaw,
    SigmoidLogC,
)
from clip_jax.scaling.profile.constrained import held_fits
from clip_jax.scaling.profile.profile_likelihood import normal_direction, prediction_interval

SQUARES = Loss("squares")
ERRORS = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
CASES = {  # law, truth, rows, sd of ln(y), loss, the point as a multiple of the largest column
    "saturating": (SaturatingPowerLaw(), {"E": 0.25, "a": 600.0, "b": 0.3}, 8, 0.0115, SQUARES, 10.0),
    "saturating, Huber": (SaturatingPowerLaw(), {"E": 0.25, "a": 600.0, "b": 0.3}, 8, 0.0115, Loss(), 100.0),
    "sigmoid": (SigmoidLogC(), {"top": 0.95, "k": 0.5, "C_half": 3e11}, 8, 0.02, SQUARES, 10.0),
    "shifted": (ShiftedPowerLaw(), {"E": 0.1, "a": 3e3, "b": 0.33, "c": 3e10}, 24, 0.02, SQUARES, 10.0),
    "bounded": (BoundedPowerLaw(), {"E": 0.1, "top": 0.97, "b": 0.5, "c": 1e11}, 24, 0.02, SQUARES, 10.0),
    "chance": (PowerLawFromChance(0.97), {"E": 0.1, "c": 3e10, "b": 0.4}, 12, 0.02, SQUARES, 10.0),
    "broken": (
        BrokenPowerLaw(), {"E": 0.05, "a": 3.0, "b": 0.08, "s": 0.4, "d": 1e11, "f": 0.2}, 24, 0.01, SQUARES, 5.0),
    "Chinchilla": (
        Chinchilla(), {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}, 60, 0.005, SQUARES, 10.0),
    "bounded Chinchilla": (
        BoundedChinchilla(), {"E": 0.1, "top": 0.97, "a": 40.0, "alpha": 0.3, "b": 900.0, "beta": 0.4}, 60, 0.01,
        SQUARES, 10.0),
    "bounded repetition": (
        BoundedRepetition(),
        {"E": 0.1, "top": 0.97, "a": 40.0, "alpha": 0.3, "b": 900.0, "beta": 0.4, "R_data": 8.0}, 60, 0.01,
        SQUARES, 10.0),
}  # fmt: skip
QUICK = ("saturating", "sigmoid", "chance")


def table_of(name, seed=0):
    """Return (fit, point to predict) of one simulated table."""
    law, truth, n, sd, loss, beyond = CASES[name]
    rng = np.random.default_rng(seed)
    if len(law.columns) == 1:
        columns = {"flops": np.geomspace(1e10, 1e12, n)}
    else:
        columns = {"params": np.exp(rng.uniform(np.log(1e7), np.log(1e9), n))}
        columns["samples_seen"] = np.exp(rng.uniform(np.log(1e9), np.log(1e11), n))
        if "unique_samples" in law.columns:
            columns["unique_samples"] = columns["samples_seen"] / np.exp(rng.uniform(0, np.log(40), n))
    y = law.curve(truth, {c: np.log(v) for c, v in columns.items()}, np) * np.exp(sd * rng.standard_normal(n))
    fit = fit_law(law, columns, y, loss=loss, fixed={}, profile=False)
    return fit, {c: float(v.max()) * beyond for c, v in columns.items()}


def slsqp_objective(fit, at, value, starts=30, seed=0):
    """Return the lowest constrained objective of several SLSQP starts around the optimum and over the bounds."""
    law, rng = fit.law, np.random.default_rng(seed)
    x, point = fit.logs, {c: np.atleast_1d(v) for c, v in fit.centered(at).items()}

    def objective(theta):
        with np.errstate(all="ignore"):
            r = fit.loss.residuals(law.predict(theta, x), fit.data.y)
        return float(np.clip(np.nan_to_num(fit.loss.values(r).sum(), nan=1e6), 0, 1e6))

    def off(theta):
        with np.errstate(all="ignore"):
            return float(np.nan_to_num(np.log(max(law.predict(theta, point)[0], 1e-12) / value), nan=1e3))

    scale = np.maximum(np.abs(fit.theta) * 0.3, 0.3)
    best = np.inf
    for k in range(starts):
        begin = np.clip(fit.theta + (k > 0) * scale * rng.standard_normal(len(fit.theta)), fit.low, fit.high)
        minimum = minimize(
            objective, begin, method="SLSQP", bounds=list(zip(fit.low, fit.high, strict=True)),
            constraints={"type": "eq", "fun": off}, options={"maxiter": 500, "ftol": 1e-14},
        )  # fmt: skip
        if abs(off(minimum.x)) < 1e-6:
            best = min(best, objective(minimum.x))
    return best


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.thorough) for n in CASES])
def test_held_fits_at_ends_and_standard_errors_not_above_slsqp(name):
    fit, at = table_of(name)
    interval = prediction_interval(fit, at)
    normal, error = normal_direction(fit, at)
    values = [interval.value * np.exp(s * error) for s in ERRORS]
    values += [
        v for v, is_open in ((interval.low, interval.open_low), (interval.high, interval.open_high)) if not is_open
    ]
    values = np.sort(values)
    held = held_fits(fit, at, normal)(values)
    reference = [slsqp_objective(fit, at, value) for value in values]
    assert np.isfinite(reference).sum() >= len(values) - 2  # else nothing was compared
    for value, objective, lowest in zip(values, held.objective, reference, strict=True):
        # 1 % of the objective and 0.01 of the statistic's unit, the residual variance
        assert objective <= lowest * 1.01 + 0.01 * fit.residual_sd**2, (name, value)


def test_held_fits_leave_a_known_top_where_it_is():
    x = np.geomspace(1e10, 1e12, 8)
    y = SigmoidLogC().curve({"top": 0.974, "k": 0.6, "C_half": 4e12}, {"flops": np.log(x)}, np)
    y = y * np.exp([0.04, 0.03, -0.02, 0.01, -0.01, 0.02, -0.02, 0.01])  # the first points lie above the top
    assert y.max() > 0.974
    for law in (SigmoidLogC(), BoundedPowerLaw()):
        fit = fit_law(law, x, y, fixed={"top": 0.974}, loss=SQUARES, profile=False)
        normal, error = normal_direction(fit, 1e13)
        held = held_fits(fit, 1e13, normal)(np.sort(float(fit.predict(1e13)) * np.exp(error * np.linspace(-3, 3, 13))))
        assert held.theta[:, law.index("top")] == pytest.approx(0.974)
        assert (held.objective >= fit.objective * (1 - 1e-6)).all()


def test_held_fits_of_a_slow_valley_go_on_until_they_settle():
    flops = [9.99e9, 1.00e10, 2.495e10, 6.30e10, 1.5996e11, 1.5999e11, 3.99995e11, 4.0005e11, 1.00001e12, 1.00002e12]
    error = [0.793109, 0.770833, 0.750641, 0.633333, 0.608333, 0.564744, 0.551923, 0.504808, 0.422756, 0.372756]
    fit = fit_law(ShiftedPowerLaw(), np.array(flops), np.array(error), profile=False)
    interval = prediction_interval(fit, 1e13)
    assert not interval.open_high  # the data bound it: one round of last fits left this side open
    assert interval.high < 0.6
