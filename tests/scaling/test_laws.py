"""The three forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.scaling.laws import EXPONENT, LAWS, PowerLaw, SaturatingPowerLaw, SigmoidLogC

C = np.geomspace(1e10, 1e13, 8)


def evaluate(law, values, c):
    if law.name == "power law":
        return values["a"] * c ** -values["b"]
    if law.name == "saturating power law":
        return values["E"] + values["a"] * c ** -values["b"]
    return values["top"] / (1 + (c / values["C_half"]) ** values["k"])


@pytest.mark.parametrize(
    ("law", "theta"),
    [(PowerLaw(), [-0.7, 0.1]), (SaturatingPowerLaw(), [0.1, -1.0, 0.3]), (SigmoidLogC(), [0.9, 0.5, 0.2])],
)
def test_described_in_flops_it_is_the_formula(law, theta):
    reference = 3e11
    x = np.log(C / reference)
    predicted = law.predict(np.array(theta), x)
    np.testing.assert_allclose(evaluate(law, law.describe(np.array(theta), reference), C), predicted, rtol=1e-9)
    assert (np.diff(predicted) < 0).all()


@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=8))
def test_every_start_lies_inside_the_bounds_or_can_be_brought_there(errors):
    x, y = np.linspace(-3, 3, len(errors)), np.array(errors)
    for law in LAWS:
        low, high = (np.array(b) for b in law.bounds(x, y))
        assert (low < high).all()
        starts = np.clip(np.array(law.starts(x, y)), low, high)
        assert np.isfinite(law.predict(starts[0], x)).all()
        assert starts.shape[1] == len(law.parameters)


def test_every_form_names_its_exponent():
    assert {law.name for law in LAWS} == set(EXPONENT)
