"""Schedules from logged rates: warm-ups that are not logged, jumps, and what is refused."""

import numpy as np
import pytest

from clip_jax.scaling.curves.schedule import cosine, schedule_of, stable_then_decay
from tests.user_errors import raises_user_error

STEPS, RATES = np.array([200, 300, 400]), np.array([1.0, 0.8, 0.6])


def test_a_warmup_is_reconstructed_from_what_is_given():
    schedule = schedule_of(STEPS, RATES, warmup_steps=100, peak=1.2)
    np.testing.assert_allclose(schedule.rate(np.array([0, 50, 100, 150, 200, 250])), [0, 0.6, 1.2, 1.1, 1.0, 0.9])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "--warmup-steps"),  # never guessed
        ({"warmup_steps": 100}, "--peak"),
        ({"warmup_steps": 400, "peak": 1.0}, "--warmup-steps"),
        ({"warmup_steps": 100, "peak": -1.0}, "--peak"),
    ],
)
def test_a_warmup_that_is_not_known_is_refused(change, field):
    with raises_user_error(field=field, source="curve"):
        schedule_of(STEPS, RATES, **change)


def test_rates_logged_from_the_first_step_need_no_warmup():
    schedule = schedule_of(np.array([1, 10, 20]), np.array([0.5, 0.5, 0.1]))
    assert schedule.rate(np.array([0]))[0] == 0.5
    assert schedule_of(STEPS, RATES, warmup_steps=0).rate(np.array([0]))[0] == 1.0


def test_a_jump_is_at_the_step_that_logs_it_and_a_slope_is_not_one():
    jump = schedule_of(np.array([1, 10, 20, 30]), np.array([1.0, 1.0, 0.1, 0.1]))
    np.testing.assert_allclose(jump.rate(np.array([15, 19, 20])), [1.0, 1.0, 0.1])
    slope = schedule_of(np.array([1, 10, 20, 30]), np.array([1.0, 1.0, 0.1, 0.05]))
    np.testing.assert_allclose(slope.rate(np.array([15])), [0.55])


@pytest.mark.parametrize("steps", [[1, 1, 2], [1, 3, 2], [1, 2.5, 4], [-1, 2, 3]])
def test_steps_that_are_no_steps_are_refused(steps):
    with raises_user_error(field="step"):
        schedule_of(np.array(steps, float), np.ones(3), warmup_steps=0)


@pytest.mark.parametrize("rates", [[1, np.nan, 1], [1, -1, 1], [0, 0, 0]])
def test_rates_that_are_no_rates_are_refused(rates):
    with raises_user_error(field="rate"):
        schedule_of(STEPS, np.array(rates, float), warmup_steps=0)


def test_shapes_and_knots():
    wave = cosine(1000, 2.0, warmup_steps=100, floor=0.2)
    np.testing.assert_allclose(wave.rate(np.array([50, 100, 550, 1000])), [1.0, 2.0, 1.1, 0.2], rtol=1e-3)
    decay = stable_then_decay(1000, 2.0, decay_steps=200, warmup_steps=100)
    np.testing.assert_allclose(decay.rate(np.array([100, 800, 900, 1000])), [2, 2, 1, 0])
    more = decay.with_knots(np.array([300, 900]))
    assert {300, 900} <= set(more.steps.tolist())
    np.testing.assert_allclose(more.rate(np.arange(1001)), decay.rate(np.arange(1001)))
    logged = schedule_of(np.arange(1, 1001), decay.rate(np.arange(1, 1001)), warmup_steps=100, peak=2.0)
    assert len(logged.with_knots(np.array([500])).steps) < 10  # what lies on a line needs no knot
    np.testing.assert_allclose(logged.with_knots(np.array([500])).rate(np.arange(1001)), decay.rate(np.arange(1001)))
