"""From bytes to pixels."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip_jax.config import PixelConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.images.train_transforms import MEAN, STD, crop, decode, normalize, prepare
from clip_jax.data.sources.base import BrokenRecord

from ...user_errors import raises_user_error


def view(data, size, kind, rng):
    return crop(prepare(data, size, kind), size, kind, rng)


KINDS = ("none", "flip", "square_crop", "random_resized_crop")


def ramp(width=64, height=48):
    """Return an image whose red grows to the right and green downward."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 0 * x], -1).astype(np.uint8)


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@given(width=st.integers(8, 90), height=st.integers(8, 90), seed=st.integers(0, 99))
def test_view_is_a_uint8_square(kind, width, height, seed):
    out = view(png(ramp(width, height)), 24, kind, np.random.default_rng(seed))
    assert (out.shape, out.dtype) == ((24, 24, 3), np.uint8)


def test_decode_crops_the_center():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert decode(png(wide), 20).min() == 255


def test_decode_gray_and_transparent_images_become_rgb():
    for mode in ("L", "RGBA", "P"):
        out = io.BytesIO()
        Image.new(mode, (30, 30)).save(out, "PNG")
        assert decode(out.getvalue(), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_view_varies_with_the_seed_and_repeats(kind):
    data = png(ramp())
    seen = [view(data, 24, kind, np.random.default_rng(s)) for s in range(12)]
    assert len({x.tobytes() for x in seen}) > 1
    assert np.array_equal(seen[3], view(data, 24, kind, np.random.default_rng(3)))


def test_view_flip_mirrors_and_crop_does_not():
    flipped = {bool(view(png(ramp()), 24, "flip", np.random.default_rng(s))[0, 0, 0] > 128) for s in range(12)}
    assert flipped == {True, False}
    for s in range(12):
        crop = view(png(ramp()), 24, "square_crop", np.random.default_rng(s)).astype(int)
        assert (np.diff(crop[12, :, 0]) >= 0).all()


@pytest.mark.parametrize("data", [b"", b"junk", png(ramp())[:60]])
def test_decode_of_no_image_is_a_broken_record(data):
    with raises_user_error(BrokenRecord, reason="decode"):
        decode(data, 16)


def test_normalize_equals_the_published_formula():
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(normalize(images), (images / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (31, 31)])
def test_prepare_resizes_as_pixel_config_says(mode, interpolation, size):
    noise = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    image = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    pixels = PixelConfig(resize_mode=mode, interpolation=interpolation, fill_color=7)
    exact = Preprocess.from_pixels(24, pixels)(image).astype(int)
    for decoded in (decode(image, 24, pixels=pixels), prepare(image, 24, "flip", pixels=pixels)):
        assert decoded.shape == (24, 24, 3)
        assert np.abs(decoded.astype(int) - exact).max() <= 3  # it resizes in two steps, which is faster
    rng = np.random.default_rng(1)
    for kind in ("square_crop", "random_resized_crop"):
        assert crop(prepare(image, 24, kind, pixels=pixels), 24, kind, rng, pixels).shape == (24, 24, 3)
