"""Durations as text."""

import pytest

from clip_jax.durations import clock_text, duration_text


def test_clock_text_is_rounded_down():
    assert [clock_text(s) for s in (-1, 59.9, 3661, 360000)] == ["0:00:00", "0:00:59", "1:01:01", "100:00:00"]


@pytest.mark.parametrize(
    ("seconds", "text", "compact"), [(45.4, "45 s", "45s"), (7199, "120 min", "120m"), (11160, "3.1 h", "3.1h")]
)
def test_duration_text_takes_the_unit_that_fits(seconds, text, compact):
    assert (duration_text(seconds), duration_text(seconds, compact=True)) == (text, compact)
