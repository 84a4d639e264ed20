"""The faster decoder against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.images import fast_jpeg
from clip_jax.data.images.fast_jpeg import resize_short
from clip_jax.data.images.train_transforms import decode, prepare
from clip_jax.data.sources.base import BrokenRecord

from ...user_errors import raises_user_error


def photograph(width, height, mode="RGB", **options):
    """Return a JPEG of smooth noise."""
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", quality=92, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(256, 256), (340, 256), (375, 500), (1201, 900), (50, 61)])
def test_fast_jpeg_is_within_two_levels_of_pillow(size):
    data = photograph(*size)
    slow, fast = decode(data, 64).astype(int), decode(data, 64, "simplejpeg").astype(int)
    assert np.abs(slow - fast).mean() < 1.5
    shifted = np.abs(slow[:, 1:] - fast[:, :-1]).mean()
    assert np.abs(slow - fast).mean() < shifted / 2  # they lie on one grid


def test_fast_jpeg_is_used_when_chosen():
    data = photograph(340, 256)
    assert not np.array_equal(decode(data, 64), decode(data, 64, "simplejpeg"))
    for decoder in ("pillow", "simplejpeg"):
        assert np.array_equal(decode(memoryview(data), 64, decoder), decode(data, 64, decoder))
    assert prepare(data, 64, "square_crop", "simplejpeg").shape == prepare(data, 64, "square_crop").shape == (73, 96, 3)
    short = photograph(96, 64)  # nothing to resize: only the decoders are compared
    assert np.abs(decode(short, 64).astype(int) - decode(short, 64, "simplejpeg")).max() <= 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_fast_jpeg_gray_and_cmyk_agree_with_pillow(mode):
    data = photograph(300, 200, mode)
    fast = decode(data, 64, "simplejpeg").astype(int)
    assert np.abs(fast - decode(data, 64)).mean() < 1.5


def test_fast_jpeg_other_or_truncated_file_falls_back_to_pillow():
    whole = photograph(256, 256)
    out = io.BytesIO()
    Image.new("RGB", (80, 80), (9, 8, 7)).save(out, "PNG")
    assert resize_short(out.getvalue(), 64) is None
    assert decode(out.getvalue(), 64, "simplejpeg")[0, 0].tolist() == [9, 8, 7]
    for data in (whole[: len(whole) // 2], b"junk", b"\xff\xd8\xff junk"):
        assert resize_short(data, 64) is None
        with raises_user_error(BrokenRecord, reason="decode"):
            decode(data, 64, "simplejpeg")


def test_fast_jpeg_too_many_pixels_falls_back_to_pillow(monkeypatch):
    data = photograph(64, 64)
    assert resize_short(data, 16) is not None
    monkeypatch.setattr(fast_jpeg, "MAX_PIXELS", 64 * 64 - 1)
    assert resize_short(data, 16) is None
