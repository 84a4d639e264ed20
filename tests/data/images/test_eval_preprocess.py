"""Preprocessing against the reference pipelines, to the level."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.images.train_transforms import decode
from clip_jax.errors import ConfigError

from ...user_errors import raises_user_error

ROOT = Path(__file__).parents[2] / "parity"
GOLD = dict(np.load(ROOT / "preprocess.npz"))
CASES = json.loads((ROOT / "preprocess.json").read_text())["cases"]
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
PIPELINES = {
    "openai_uint8": {},
    "squash_half_uint8": {"resize_mode": "squash", **HALF},
    "longest_uint8": {"resize_mode": "longest"},
    "shortest_bilinear_uint8": {"interpolation": "bilinear"},
}


def picture(index):
    if f"{index}/input_png" in GOLD:
        return GOLD[f"{index}/input_png"].tobytes()
    return GOLD[f"{index}/input_rgb"]


@pytest.mark.parametrize("name", PIPELINES)
def test_preprocess_pixels_equal_the_reference_exactly(name):
    sizes = {str(case["index"]): case["n_px"] for case in CASES}
    stored = [key.split("/")[0] for key in GOLD if key.endswith(f"/{name}")]
    assert len(stored) >= 10
    for index in stored:
        prepared = Preprocess(sizes[index], **PIPELINES[name])(picture(index))
        np.testing.assert_array_equal(prepared, GOLD[f"{index}/{name}"], err_msg=index)


def test_preprocess_normalized_floats_agree_with_the_reference():
    from clip_jax.data.images.train_transforms import normalize

    sizes = {str(case["index"]): case["n_px"] for case in CASES}
    stored = [key.split("/")[0] for key in GOLD if key.endswith("/openai_nchw")]
    assert len(stored) == 7
    for index in stored:
        pixels = np.asarray(normalize(Preprocess(sizes[index])(picture(index))[None]))
        np.testing.assert_allclose(pixels[0].transpose(2, 0, 1), GOLD[f"{index}/openai_nchw"], atol=2e-6)


@pytest.mark.parametrize(("size", "mean", "largest"), [((320, 240), 0.0, 0), ((1600, 1200), 0.5, 4)])
def test_preprocess_simplejpeg_is_near_pillow(size, mean, largest):
    # only a JPEG much larger than what is wanted is decoded at a fraction; benchmarks/preprocessing.py measures it
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    difference = np.abs(decode(out.getvalue(), 224).astype(int) - Preprocess(224)(out.getvalue()))
    assert difference.mean() <= mean
    assert difference.max() <= largest


def test_preprocess_config_of_open_clip_round_trips():
    squashing = Preprocess(32, "squash", "bilinear", (0.5,) * 3, (0.5,) * 3, 127)
    assert Preprocess.from_config(squashing.to_config(), 32, "x.json") == squashing
    with raises_user_error(source="x.json", field="preprocess_cfg.sharpen"):
        Preprocess.from_config({"sharpen": 1}, 32, "x.json")
    with raises_user_error(source="x.json", field="preprocess_cfg.resize_mode", value="crop"):
        Preprocess.from_config({"resize_mode": "crop"}, 32, "x.json")


def test_preprocess_batch_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no")
    with raises_user_error(source=tmp_path / "a.jpg", reason="decode"):
        Preprocess(8).batch([np.zeros((9, 9, 3), np.uint8), tmp_path / "a.jpg"])
    for change in ({"size": 0}, {"size": 8, "std": (1.0, 0.0, 1.0)}, {"size": 8, "interpolation": "lanczos"}):
        field = list(change)[-1]
        with raises_user_error(ConfigError, field=field, value=change[field]):
            Preprocess(**change)
