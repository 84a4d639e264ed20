"""Spaces of settings: reading them, grids, chance, edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.errors import ConfigError
from clip_jax.sweep.search.space import edge_warnings, grid, parse_space, sample_random

from ...user_errors import raises_user_error

LINES = (
    "optim.peak_lr = log(1e-4, 1e-2, 3)",
    "optim.schedule = choice(cosine, wsd)",
    "optim.lr_decay_fraction = uniform(0.1, 0.5, 2) if optim.schedule = wsd",
    "optim.warmup_steps = integer(1, 3, 3)",
)
SPACE = parse_space(LINES)


def test_parse_space_reads_every_kind():
    rate, schedule, decay, warmup = SPACE
    assert (rate.kind, rate.low, rate.high, rate.points) == ("log", 1e-4, 1e-2, 3)
    assert schedule.values == ("cosine", "wsd")
    assert (decay.parent, decay.parent_value) == ("optim.schedule", "wsd")
    assert warmup.grid() == [1, 2, 3]
    assert parse_space(["a = choice(True, 0.5, null, x)"])[0].values == (True, 0.5, None, "x")


def test_grid_is_the_product_without_meaningless_settings():
    settings = grid(SPACE)
    assert len(settings) == 3 * (1 + 2) * 3
    assert len({str(s) for s in settings}) == len(settings)
    assert [s["optim.peak_lr"] for s in settings[::9]] == [1e-4, 1e-3, 1e-2]
    for s in settings:
        assert ("optim.lr_decay_fraction" in s) == (s["optim.schedule"] == "wsd")


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_sample_random_stays_in_the_space_and_depends_on_the_seed(seed, count):
    settings = sample_random(SPACE, count, seed)
    assert settings == sample_random(SPACE, count + 3, seed)[:count]
    for s in settings:
        assert 1e-4 <= s["optim.peak_lr"] <= 1e-2
        assert s["optim.warmup_steps"] in (1, 2, 3)
        assert ("optim.lr_decay_fraction" in s) == (s["optim.schedule"] == "wsd")


def test_sample_random_log_is_uniform_in_the_logarithm():
    rates = [s["optim.peak_lr"] for s in sample_random(SPACE, 400, 0)]
    assert 0.42 < sum(r < 1e-3 for r in rates) / 400 < 0.58


def test_edge_warnings_name_the_edge():
    inside = {"optim.peak_lr": 1e-3, "optim.schedule": "cosine", "optim.warmup_steps": 2}
    assert edge_warnings(SPACE, inside) == []
    (line,) = edge_warnings(SPACE, inside | {"optim.peak_lr": 1e-2})
    assert line == "optim.peak_lr=0.01 lies on the upper edge (0.01) of its range; widen it"
    assert "lower edge (1)" in edge_warnings(SPACE, inside | {"optim.warmup_steps": 1})[0]
    without_grid = parse_space(["x = uniform(0, 1)"])
    assert edge_warnings(without_grid, {"x": 0.06}) == []
    assert len(edge_warnings(without_grid, {"x": 0.04})) == 1


@pytest.mark.parametrize(
    ("lines", "attributes"),
    [
        ([], {"field": "space", "reason": "a line"}),
        (["optim.peak_lr"], {"field": "space", "value": "optim.peak_lr"}),
        (["x = normal(0, 1)"], {"field": "space", "value": "x = normal(0, 1)"}),
        (["x = log(0, 1)"], {"field": "space", "value": "x = log(0, 1)"}),
        (["x = uniform(2, 1)"], {"field": "space", "value": "x = uniform(2, 1)"}),
        (["x = uniform(1)"], {"field": "space", "value": "x = uniform(1)"}),
        (["x = uniform(0, 1, 1)"], {"field": "space", "value": "x = uniform(0, 1, 1)"}),
        (["x = integer(0.5, 2)"], {"field": "space", "value": "x = integer(0.5, 2)"}),
        (["x = choice(1)"], {"field": "space", "value": "x = choice(1)"}),
        (["x = choice(1, 1)"], {"field": "space", "value": "x = choice(1, 1)"}),
        (["x = uniform(0, 1)", "x = uniform(0, 2)"], {"source": "space", "field": "x", "reason": "two lines"}),
        (["x = uniform(0, 1) if y = 2"], {"field": "space", "value": "x = uniform(0, 1) if y = 2"}),
        (["y = choice(1, 2)", "x = uniform(0, 1) if y = 3"], {"field": "space", "value": "x = uniform(0, 1) if y = 3"}),
    ],
)
def test_parse_space_wrong_line_is_named(lines, attributes):
    with raises_user_error(ConfigError, **attributes):
        parse_space(lines)


def test_grid_without_points_is_refused():
    with raises_user_error(ConfigError, source="space", field="x", reason="POINTS"):
        grid(parse_space(["x = log(1, 2)"]))
