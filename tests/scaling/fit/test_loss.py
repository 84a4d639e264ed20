"""The objective: sides of an asymmetric loss, and that the symmetric one is untouched by it."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import covariance, scale_of
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_under.py"))
R = np.array([-0.3, -0.01, 0.0, 0.01, 0.3])


@pytest.mark.parametrize("kind", ["huber", "squares"])
def test_loss_under_weighs_points_above_the_curve(kind):
    plain, lower = (Loss(kind, under=u).values(R) for u in (1.0, 0.2))
    np.testing.assert_array_equal(lower, plain * [0.2, 0.2, 1, 1, 1])


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    x = np.geomspace(1e10, 1e13, 40)
    return x, 0.7 * (x / 1e10) ** -0.1 * np.exp(rng.exponential(0.1, 40) + 0.02 * rng.standard_normal(40))


@pytest.mark.parametrize("kind", ["huber", "squares"])
def test_fit_law_asymmetric_optimum_equals_scipy(cloud, kind):
    x, y = cloud
    loss = Loss(kind, under=0.1)
    fit = fit_law(PowerLaw(), x, y, loss=loss, profile=False)

    def objective(p):
        return loss.values(p[0] - p[1] * np.log(x / 1e12) - np.log(y)).sum()

    reference = minimize(objective, [np.log(0.5), 0.1], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16})
    assert fit.objective == pytest.approx(reference.fun, rel=1e-7)
    assert fit.values["b"] == pytest.approx(reference.x[1], rel=1e-4)
    assert fit.objective == pytest.approx(loss.values(fit.residuals).sum(), rel=1e-12)


def test_loss_symmetric_has_no_sides():
    assert Loss(under=1.0) == Loss()
    assert Loss().sides(R) == 1.0


def test_scale_of_an_asymmetric_loss_counts_sides(cloud):
    fit = fit_law(PowerLaw(), *cloud, loss=Loss("squares", under=0.25), profile=False)
    square, bend = scale_of(fit)
    side = np.where(fit.residuals < 0, 0.25, 1.0)
    assert square == pytest.approx((side**2 * fit.residuals**2).sum() / fit.degrees)
    assert np.isfinite(covariance(fit)).all()
    assert bend > 0


def test_asymmetric_loss_shrinks_the_bias_of_a_cloud():
    # The smallest form of the benchmark.
    symmetric, lower = (BENCHMARK["biases"](BENCHMARK["fits_of"](60, u, 20)) for u in (1.0, 0.1))
    assert symmetric[2] > 0.05
    assert abs(lower[2]) < symmetric[2] / 2


@pytest.mark.parametrize("options", [{"under": 0.0}, {"under": 1.5}, {"kind": "absolute", "under": 0.5}])
def test_loss_impossible_weights_are_refused(options):
    with raises_user_error(field="loss.under", value=options["under"]):
        Loss(**options)
