"""Wall time of runs to come."""

import pytest

from clip_jax.sweep.run_times import fit_times, time_left


def test_fit_times_separates_the_fixed_part():
    times = fit_times([(flops, 12.0 + flops / 5e9, 0.5) for flops in (1e10, 4e10, 1.6e11)])
    assert times.fixed_s == pytest.approx(12)
    assert times.seconds(1e12) == pytest.approx(212)
    assert times.text == "12 s per run + FLOPs at 5 GFLOP/s, measured on 3"


@pytest.mark.parametrize(
    ("measured", "fixed_s", "at_1e12"),
    [
        ([(1e10, 2.0, None), (1e10, 2.0, None)], 0.0, 200.0),  # of one cost, nothing else known: all of it grows
        ([(1e10, 20.0, 0.05)], 19.0, 119.0),  # the steps took one second
        ([(1e10, 20.0, 0.05), (1e10, 40.0, 0.075)], 28.0, 228.0),
        ([(1e10, 20.0, 0.05), (1.02e10, 40.0, 0.025)], 29.0, 127.0),  # noise, not the cost, made it slower
        ([(1e10, 2.0, 0.9), (1e11, 1.0, 0.9)], 1.2, 1.2),  # the dearer one was faster: no part below 0
        ([(1e10, 1.0, 0.9), (1e11, 20.0, 0.9)], 0.0, 120.0),
        ([(0.0, 5.0, None), (1e10, 0.0, None), (1e11, 10.0, None)], 0.0, 100.0),  # records without a cost or a time
    ],
)
def test_fit_times_parts_are_not_negative(measured, fixed_s, at_1e12):
    times = fit_times(measured)
    assert times.fixed_s == pytest.approx(fixed_s)
    assert times.seconds(1e12) == pytest.approx(at_1e12, rel=0.05)


def test_fit_times_without_runs_is_none():
    assert fit_times([]) is None


def test_time_left_is_at_least_that_of_the_longest_run():
    assert time_left([10.0, 10.0, 10.0], 2) == 15
    assert time_left([10.0, 90.0], 2) == 90
    assert time_left([], 2) == 0
