"""Pictures that are hard to open: the right answer or one clear line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.images.open import IMAGE_FORMATS, MAX_ASPECT, MAX_PIXELS, crop_to_max_aspect, eight_bit, open_image
from clip_jax.data.images.train_transforms import decode, prepare
from clip_jax.data.sources.base import BrokenRecord

from ...user_errors import raises_user_error

RED = (200, 30, 40)
BLUE = Image.new("RGB", (20, 20), "blue")


def encoded(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def bomb(width=60_000, height=60_000):
    """Return a PNG of under a hundred bytes that declares a huge picture."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [Preprocess(16), lambda image: decode(image, 16)])
def test_open_image_decompression_bomb_is_refused_before_decoding(read):
    data = bomb()
    assert len(data) < 100
    with raises_user_error(BrokenRecord, reason="89,478,485 pixels"):
        read(data)
    with raises_user_error(BrokenRecord, reason="89,478,485 pixels"):
        read(bomb(12_000, 10_000))
    assert MAX_PIXELS < 12_000 * 10_000


@pytest.mark.parametrize("read", [Preprocess(8), lambda image: decode(image, 8)])
@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("CMYK", (20, 20), (0, 217, 204, 55)), "JPEG", quality=95),
        encoded(Image.new("RGB", (20, 20), RED).quantize(4)),
        encoded(Image.new("RGBA", (20, 20), (*RED, 255))),
        encoded(Image.new("RGB", (20, 20), RED), "GIF", save_all=True, append_images=[BLUE]),
        encoded(Image.new("RGB", (20, 20), RED), "WEBP", save_all=True, append_images=[BLUE],
                lossless=True),
    ],
    ids=["cmyk", "palette", "alpha", "animated-gif", "animated-webp"],
)  # fmt: skip
def test_open_image_of_every_mode_gives_the_color(data, read):
    opened = read(data)
    assert opened.shape == (8, 8, 3)
    assert np.abs(opened.astype(int) - RED).max() <= 12


@pytest.mark.parametrize("read", [Preprocess(8), lambda image: decode(image, 8)])
def test_open_image_sixteen_bits_become_eight(read):
    gray = Image.fromarray(np.full((20, 20), 0x8040, np.uint16))
    assert np.abs(read(encoded(gray)).astype(int) - 0x80).max() <= 1


@pytest.mark.parametrize("read", [Preprocess(8), lambda image: decode(image, 8)])
def test_open_image_broken_file_is_one_line(read):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    for data in (b"", b"not a picture", whole[:300], whole[: len(whole) // 2]):
        with raises_user_error(BrokenRecord, reason="decode") as error:
            read(data)
        assert "\n" not in str(error.value)


def test_preprocess_reads_one_bit_and_gray_alpha(tmp_path):
    for mode, value in (("1", 1), ("LA", (255, 255))):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (9, 7), value).save(path)
        assert (Preprocess(4)(path) == 255).all()
    with raises_user_error(BrokenRecord, reason="no such file"):
        open_image(tmp_path / "none.png")


def test_eight_bit_clips_a_float_image():
    assert np.asarray(eight_bit(Image.fromarray(np.full((2, 2), 300.0, np.float32)))).max() == 255


@pytest.mark.parametrize("kind", ["none", "square_crop", "random_resized_crop"])
@pytest.mark.parametrize("size", [(2_000_000, 1), (1, 2_000_000), (400_000, 100)])
def test_prepare_thin_image_needs_memory_of_its_output(size, kind):
    import tracemalloc

    data = encoded(Image.new("L", size, 128))
    tracemalloc.start()
    try:
        prepared = prepare(data, 64, kind)
        assert Preprocess(64)(data).shape == (64, 64, 3)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    short, long = sorted(prepared.shape[:2])
    assert long <= MAX_ASPECT * short
    assert (prepared == 128).all()


def test_crop_to_max_aspect_keeps_the_longest_allowed_aspect():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2, 2 * MAX_ASPECT, 3), np.uint8))
    assert crop_to_max_aspect(picture) is picture
    assert crop_to_max_aspect(picture.resize((2 * MAX_ASPECT + 1, 2))).size == (2 * MAX_ASPECT + 1 - 2 * (1 // 2), 2)


@pytest.mark.parametrize("kind", ["EPS", "TGA", "PCX", "ICO", "DDS"])
def test_open_image_of_an_unlisted_format_is_refused(kind):
    with raises_user_error(BrokenRecord, reason="decode"):
        open_image(encoded(Image.new("RGB", (16, 16), RED), kind))


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_open_image_of_a_listed_format_is_read(kind):
    assert open_image(encoded(Image.new("RGB", (16, 16), RED), kind)).size == (16, 16)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, KeyError, struct.error, AssertionError])
@pytest.mark.parametrize("read", [Preprocess(8), lambda image: decode(image, 8)])
def test_open_image_exception_in_a_plugin_is_a_broken_record(read, error, monkeypatch):
    def fail(*_):
        raise error("two\nlines")

    data = encoded(Image.new("RGB", (16, 16), RED))
    monkeypatch.setattr(PngImageFile, "load_prepare", fail)
    with raises_user_error(BrokenRecord, reason="decode"):
        read(data)
