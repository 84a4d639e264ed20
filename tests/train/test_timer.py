"""Where the time goes."""

import time

from clip_jax.train.timer import PARTS, Clock


def test_clock_parts_add_up_to_the_wall_time():
    before = time.monotonic()
    clock = Clock()
    began = time.monotonic()
    with clock.measure("step"):
        time.sleep(0.05)
        with clock.measure("data"):
            time.sleep(0.1)
        time.sleep(0.02)
    time.sleep(0.03)
    least = time.monotonic() - began
    seconds = clock.seconds()
    wall = time.monotonic() - before
    assert list(seconds) == list(PARTS)
    assert least - 1e-6 <= sum(seconds.values()) <= wall + 1e-6
    assert 0.07 <= seconds["step"] < wall - 0.13
    assert seconds["data"] >= 0.1
    assert seconds["other"] >= 0.03
    assert seconds["compile"] == 0.0


def test_clock_adds_earlier_attempts():
    clock = Clock()
    clock.add({"step": 10.0, "a part of another version": 1.0})
    with clock.measure("step"):
        time.sleep(0.01)
    assert 10.01 <= clock.seconds()["step"] < 11
    assert clock.attempt("step") < 1
