"""Fitting: exact on exact data, robust, and honest about what it cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit.result import covariance, scale_of
from clip_jax.scaling.fit_law import fit_law, min_points_for_asymptote
from clip_jax.scaling.laws import Chinchilla, PowerLaw, SaturatingPowerLaw, SigmoidLogC

from ..user_errors import raises_user_error

C = np.geomspace(1e10, 1e13, 8)


@given(a=st.floats(0.1, 1.0), b=st.floats(0.01, 0.5), scale=st.floats(1e-3, 1e12))
def test_an_exact_power_law_is_found_in_any_unit(a, b, scale):
    fit = fit_law(PowerLaw(), C * scale, a * (C / C[0]) ** -b)
    assert fit.values["b"] == pytest.approx(b, rel=1e-4)
    assert fit.status == "converged"
    assert fit.agree == fit.starts > 10


@settings(max_examples=10)
@given(e=st.floats(0.05, 0.3), b=st.floats(0.25, 0.6))
def test_an_exact_asymptote_is_found(e, b):
    fit = fit_law(SaturatingPowerLaw(), C, e + 0.5 * (C / C[0]) ** -b)
    assert fit.values["E"] == pytest.approx(e, abs=2e-3)
    assert fit.values["b"] == pytest.approx(b, rel=2e-2)


def test_an_exact_sigmoid_is_found():
    fit = fit_law(SigmoidLogC(), C, 0.9 / (1 + (C / 4e11) ** 0.6))
    assert fit.values["C_half"] == pytest.approx(4e11, rel=0.02)
    assert fit.values["k"] == pytest.approx(0.6, rel=0.02)


def test_one_outlier_moves_a_huber_fit_less_than_least_squares():
    errors = 0.7 * (C / C[0]) ** -0.1
    errors[2] *= 1.3
    robust = fit_law(PowerLaw(), C, errors).values["b"]
    plain = fit_law(PowerLaw(), C, errors, loss=Loss("squares")).values["b"]
    assert abs(robust - 0.1) < abs(plain - 0.1) / 3


def test_few_points_fit_the_asymptote_all_the_same_and_say_that_they_cannot_tell_it():
    errors = 0.2 + 0.5 * (C / C[0]) ** -0.4
    few = fit_law(SaturatingPowerLaw(), C[:5], errors[:5])
    assert few.values["E"] == pytest.approx(0.2, abs=1e-4)
    assert few.free_mask.all()
    assert "5 points are too few to tell E, at least 6" in few.notes[0]
    assert not fit_law(SaturatingPowerLaw(), C[:6], errors[:6]).notes
    assert not fit_law(SaturatingPowerLaw(), C[:5], errors[:5], fixed={"E": 0.1}).notes
    assert not fit_law(PowerLaw(), C[:3], errors[:3]).notes


def test_least_to_tell_counts_what_is_fitted():
    assert min_points_for_asymptote(SaturatingPowerLaw()) == 6
    assert min_points_for_asymptote(SaturatingPowerLaw(), {"b"}) == 5
    assert min_points_for_asymptote(SaturatingPowerLaw(), {"E"}) == min_points_for_asymptote(PowerLaw()) == 0


def test_a_bound_that_was_hit_is_told():
    assert (
        "bound hit: E"
        in fit_law(SaturatingPowerLaw(), C, 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.log(C / 1e11) ** 2 * -1)).status
    )


def test_few_points_of_a_loss_above_one_still_fit_a_sigmoid():
    loss = 6.5 * (C[:5] / C[0]) ** -0.05
    fit = fit_law(SigmoidLogC(), C[:5], loss)
    assert fit.values["top"] > 6.5
    assert fit.residual_sd < 0.05


def test_a_held_asymptote_fits_worse():
    errors = 0.2 + 0.5 * (C / C[0]) ** -0.4
    held, free = (fit_law(SaturatingPowerLaw(), C, errors, fixed=f) for f in ({"E": 0.15}, {}))
    assert held.values["E"] == 0.15
    assert free.values["E"] == pytest.approx(0.2, abs=1e-4)
    assert held.objective > free.objective
    assert (held.free, free.free) == (2, 3)


def test_parameters_are_held_and_bounded_in_the_units_of_the_table():
    errors = 6.0 * C**-0.1
    assert fit_law(PowerLaw(), C, errors, fixed={"a": 7.0}).values["a"] == pytest.approx(7.0, rel=1e-12)
    assert fit_law(PowerLaw(), C, errors, fixed={"b": 0.1}).values["a"] == pytest.approx(6.0, rel=1e-8)
    bounded = fit_law(PowerLaw(), C, errors, bounds={"a": (6.5, 9.0)})
    assert bounded.values["a"] == pytest.approx(6.5, rel=1e-5)
    assert bounded.status == "bound hit: a"
    with raises_user_error(source="power law", field="E"):
        fit_law(PowerLaw(), C, errors, fixed={"E": 0.1})
    with raises_user_error(field="bounds.b", value=(0.3, 0.1)):
        fit_law(PowerLaw(), C, errors, bounds={"b": (0.3, 0.1)})


def test_a_flat_profile_is_said():
    rng = np.random.default_rng(0)
    errors = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.02 * rng.standard_normal(8))
    fit = fit_law(SaturatingPowerLaw(), C, errors, fixed={})
    assert fit.flat == ("E below",)  # no asymptote is as good as a small one
    assert not fit.identified
    assert "profile flat: E below" in fit.summary()
    clear = fit_law(
        SaturatingPowerLaw(), C, 0.2 + 0.5 * (C / C[0]) ** -0.5 * np.exp(0.002 * rng.standard_normal(8)), fixed={}
    )
    assert clear.flat == ()
    assert clear.identified


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(1)
    errors = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.05 * rng.standard_normal(8))
    twice = fit_law(PowerLaw(), np.append(C, C[3]), np.append(errors, errors[3]))
    weighted = fit_law(PowerLaw(), C, errors, weights=np.where(np.arange(8) == 3, 2.0, 1.0))
    assert weighted.values["b"] == pytest.approx(twice.values["b"], rel=1e-7)
    assert "1 rows are copies" in twice.notes[0]


def test_as_many_parameters_as_points_is_said_and_fewer_is_refused():
    assert "passes through them" in fit_law(PowerLaw(), C[:2], [0.5, 0.4]).notes[0]
    with raises_user_error(field="points", value=3):
        fit_law(Chinchilla(), {"params": [1e6, 1e7, 3e7], "samples_seen": [1e8, 1e9, 5e8]}, [3.0, 2.5, 2.4])


def test_the_covariance_of_least_squares_is_that_of_a_regression():
    from scipy.stats import linregress

    errors = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.05 * np.random.default_rng(2).standard_normal(8))
    fit = fit_law(PowerLaw(), C, errors, loss=Loss("squares"))
    assert np.sqrt(covariance(fit)[1, 1]) == pytest.approx(linregress(np.log(C), np.log(errors)).stderr, rel=1e-6)


def test_scale_of_residuals_drawn_to_zero_are_left_out():
    x = np.geomspace(1e10, 1e12, 6)
    residuals = np.array([0.0, 0.0, 0.01, 0.01, 0.02, 0.02])  # two parameters pass through two points
    for loss, factor in ((Loss("huber", delta=1e-3), 1e-3), (Loss("absolute"), 1.0)):
        fit = fit_law(PowerLaw(), x, 6.5 * x**-0.1, loss=loss, profile=False)
        assert scale_of(fit, residuals)[1] == pytest.approx(factor * 0.5 / 0.015)
    assert scale_of(fit_law(PowerLaw(), x, 6.5 * x**-0.1, loss=Loss("squares"), profile=False), residuals)[
        1
    ] == pytest.approx(1.0)
