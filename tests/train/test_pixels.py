"""A run's pixels: the source's at its start, then its record's."""

import dataclasses
import json

import pytest

from clip_jax.config import InitConfig, PixelConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.errors import ConfigError
from clip_jax.train.pixels import FILE, resolve_pixels, warn_without_pixels, with_pixels

from ..user_errors import raises_user_error

HALF = PixelConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash")


def never():
    raise AssertionError("the source is read at the first start only")


def test_resolve_pixels_writes_the_sources_pixels_once(tiny_run, tmp_path):
    config = dataclasses.replace(tiny_run, init_from=InitConfig("x", towers="image"))
    assert resolve_pixels(config, tmp_path, lambda: HALF).pixels == HALF
    assert json.loads((tmp_path / FILE).read_text()) == to_dict(HALF)
    (tmp_path / "tokenizer.json").touch()
    assert resolve_pixels(config, tmp_path, never).pixels == HALF == with_pixels(config, tmp_path).pixels


def test_resolve_pixels_without_a_source_keeps_the_config(tiny_run, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    with_own_pixels = dataclasses.replace(tiny_run, pixels=dataclasses.replace(HALF, resize_mode="shortest"))
    assert resolve_pixels(with_own_pixels, tmp_path / "a", never).pixels == with_own_pixels.pixels
    assert resolve_pixels(tiny_run, tmp_path / "b", lambda: None).pixels == PixelConfig()
    assert run_id(with_own_pixels) != run_id(tiny_run)


def test_resolve_pixels_of_an_older_run_keeps_its_config_and_warns(tiny_run, tmp_path, caplog):
    config = dataclasses.replace(tiny_run, init_from=InitConfig("x", towers="image"))
    (tmp_path / "tokenizer.json").touch()
    assert resolve_pixels(config, tmp_path, never).pixels == PixelConfig()
    assert not (tmp_path / FILE).exists()
    warn_without_pixels(config, tmp_path)
    assert str(tmp_path) in caplog.text
    caplog.clear()
    warn_without_pixels(tiny_run, tmp_path)
    warn_without_pixels(dataclasses.replace(tiny_run, init_from=InitConfig("x", towers="text")), tmp_path)
    assert not caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [("resize_mode", "stretch"), ("interpolation", "lanczos"), ("mean", (0.5,)), ("std", (1, 1, 0)),
     ("std", (1, 1, float("nan"))), ("fill_color", 300)],
)  # fmt: skip
def test_pixel_config_wrong_field_is_named(field, value):
    with raises_user_error(ConfigError, field=f"pixels.{field}"):
        PixelConfig(**{field: value})
