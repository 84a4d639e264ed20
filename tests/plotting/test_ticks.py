"""Numbers on axes and intervals."""

import pytest

from clip_jax.plotting.ticks import interval_text, nice_ticks, short_number, tick_labels


def test_nice_ticks_round_and_few():
    assert nice_ticks(0.28, 0.95) == pytest.approx([0.3, 0.4, 0.5, 0.7])
    assert all(4 <= len(nice_ticks(low, high)) <= 12 for low, high in ((1, 1e4), (2.8, 3.9), (0.49, 0.52)))
    assert len(nice_ticks(1, 1e40)) <= 12


def test_nice_ticks_end_of_axis_included():
    assert nice_ticks(0.3, 0.1 * 10)[-1] == pytest.approx(1)


def test_short_number_letters():
    assert [short_number(v) for v in (950, 12_500, 3e6, 1.2e9, 5e12)] == ["950", "12.5k", "3M", "1.2B", "5T"]


def test_tick_labels_within_a_decade_equal_decimals():
    assert tick_labels([0.85, 0.9, 0.925]) == ["0.850", "0.900", "0.925"]
    assert tick_labels([0.01, 0.1, 1]) == ["0.01", "0.1", "1"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.07671, 0.06136, 0.1), "0.077 [0.061, 0.100]"),
        ((0.25, None, float("inf")), "0.25 [none, none]"),
        ((0.0032, 0.0001, 0.9), "0.0032 [0.0001, 0.9000]"),
    ],
)
def test_interval_text_equal_decimals(numbers, text):
    assert interval_text(*numbers) == text
