"""Two families with a known difference."""

import numpy as np
import pytest

from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.planning.compare import compute_gain, crossing, difference
from clip_jax.scaling.uncertainty.bootstrap import bootstrap

from ...user_errors import raises_user_error

C = np.geomspace(1e10, 1e13, 10)


def family(curve, seed, sd=0.01, law=PowerLaw()):  # noqa: B008 (frozen)
    y = curve(C) * np.exp(sd * np.random.default_rng(seed).standard_normal(len(C)))
    return bootstrap(fit_law(law, C, y), replicas=400)


@pytest.fixture(scope="module")
def pair():
    """Return two laws of which b overtakes a at 1e12."""
    return family(lambda c: 0.4 * (c / 1e12) ** -0.1, 0), family(lambda c: 0.4 * (c / 1e12) ** -0.15, 1)


def test_crossing_is_found_where_planted(pair):
    cross = crossing(*pair, 1e10, 1e14)
    assert cross.low < 1e12 < cross.high
    assert cross.value == pytest.approx(1e12, rel=0.6)
    assert cross.high / cross.low < 10
    assert cross.known > 0.99


def test_crossing_outside_the_range_is_reported(pair):
    cross = crossing(*pair, 1e10, 1e11)
    assert np.isnan(cross.value)
    assert np.isnan(crossing(pair[1], pair[0], 1e10, 1e14).value)  # the other way round none falls below
    with raises_user_error(field="low"):
        crossing(*pair, 1e12, 1e10)


def test_difference_changes_sign_with_a_band(pair):
    gap = difference(*pair, np.array([1e10, 1e12, 1e14]))
    truth = (np.array([1e10, 1e12, 1e14]) / 1e12) ** -0.05
    assert ((gap["low"] < truth) & (truth < gap["high"])).all()
    assert gap["surely_higher"].tolist() == [True, False, False]
    assert gap["surely_lower"].tolist() == [False, False, True]
    same = difference(pair[0], pair[0], C)  # its own resamples are paired at random
    assert ((same["low"] < 1) & (same["high"] > 1)).all()
    assert (same["high"] / same["low"] > 1.005).all()


def test_compute_gain_is_a_factor_of_compute():
    a = family(lambda c: 0.5 * (c / 1e10) ** -0.1, 0)
    b = family(lambda c: 0.5 * (2.3 * c / 1e10) ** -0.1, 1)  # the same law with 2.3 times the compute
    gain = compute_gain(a, b, 1e12)
    assert gain.low < 2.3 < gain.high
    assert gain.value == pytest.approx(2.3, rel=0.15)
    back = compute_gain(b, a, 1e12)
    assert back.value == pytest.approx(1 / 2.3, rel=0.2)


def test_compute_gain_below_the_asymptote_is_zero():
    a = family(lambda c: 0.2 * (c / 1e12) ** -0.2, 0)
    b = family(lambda c: 0.3 + 0.3 * (c / 1e10) ** -0.4, 1, 0.002, SaturatingPowerLaw())
    gain = compute_gain(a, b, 1e12)
    assert (gain.value, gain.known) == (0.0, 0.0)


def test_compute_gain_of_a_flat_law_is_zero(pair):
    flat = family(lambda c: 0.6 * (c / 1e12) ** 0.002, 2)
    gain = compute_gain(pair[0], flat, 1e12)
    assert (gain.value, gain.low) == (0.0, 0.0)
    assert gain.high < 1e-3
    rising = family(lambda c: 0.6 * (c / 1e12) ** 0.1, 3)
    assert compute_gain(pair[0], rising, 1e12).high == 0.0


def test_compute_gain_infinite_is_text(pair):
    below = family(lambda c: 0.1 * (c / 1e12) ** 0.002, 2)
    gain = compute_gain(pair[0], below, 1e12)
    assert np.isinf(gain.value)
    assert "inf" not in gain.text
