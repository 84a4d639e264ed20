"""Fitting: exact on exact data, robust, and honest about what it cannot tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.config import UserError
from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw, SigmoidLogC

C = np.geomspace(1e10, 1e13, 8)


@given(a=st.floats(0.1, 1.0), b=st.floats(0.01, 0.5), scale=st.floats(1e-3, 1e12))
def test_an_exact_power_law_is_found_in_any_unit(a, b, scale):
    fit = fit_law(PowerLaw(), C * scale, a * (C / C[0]) ** -b)
    assert fit.values["b"] == pytest.approx(b, rel=1e-4)
    assert fit.status == "converged"
    assert fit.agree == fit.starts


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
    plain = fit_law(PowerLaw(), C, errors, delta=1e3).values["b"]
    assert abs(robust - 0.1) < abs(plain - 0.1) / 3


def test_few_points_pin_the_asymptote_and_say_so():
    errors = 0.2 + 0.5 * (C / C[0]) ** -0.4
    few = fit_law(SaturatingPowerLaw(), C[:5], errors[:5])
    assert few.values["E"] == 0.0
    assert "asymptote not identified" in few.notes[0]
    assert not fit_law(SaturatingPowerLaw(), C[:6], errors[:6]).notes


def test_a_bound_that_was_hit_is_told():
    assert (
        "bound hit: E"
        in fit_law(SaturatingPowerLaw(), C, 0.7 * (C / C[0]) ** -0.1 * np.exp(0.01 * np.log(C / 1e11) ** 2 * -1)).status
    )


def test_bad_points_are_refused():
    with pytest.raises(UserError, match="above 0"):
        fit_law(PowerLaw(), C, -C)
    with pytest.raises(UserError, match="needs at least 2 points"):
        fit_law(PowerLaw(), C[:1], C[:1])


def test_few_points_of_a_loss_above_one_still_fit_a_sigmoid():
    loss = 6.5 * (C[:5] / C[0]) ** -0.05
    fit = fit_law(SigmoidLogC(), C[:5], loss)
    assert fit.values["top"] == pytest.approx(1.05 * 6.5)
    assert fit.residual_sd < 0.05
