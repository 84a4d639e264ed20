"""Training transforms: encoded image to a uint8 square on the host, uint8 to normalized floats on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_jax.config import PixelConfig
from clip_jax.data.images.fast_jpeg import resize_short
from clip_jax.data.images.open import Picture, broken_pictures, crop_to_max_aspect, eight_bit, open_image

if TYPE_CHECKING:
    import jax
    from PIL import Image

# normalization of the published models (Radford et al., 2021, released code)
DEFAULT_PIXELS = PixelConfig()
MEAN, STD = DEFAULT_PIXELS.mean, DEFAULT_PIXELS.std
CROP_SCALE = 8 / 7  # short side relative to the view, for random square crops
CROP_AREA = (0.5, 1.0)  # range of the share of the area that a random resized crop keeps


def _open(image: Picture, size: int) -> Image.Image:
    picture = open_image(image)
    with broken_pictures():
        if picture.format == "JPEG":
            picture.draft("RGB", (2 * size, 2 * size))  # decode at reduced size where that loses nothing
        return crop_to_max_aspect(eight_bit(picture)).convert("RGB")


def resampling(interpolation: str) -> Image.Resampling:
    """Return Pillow's filter for ``data.pixels.interpolation``: bicubic or bilinear."""
    from PIL import Image

    return Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR


def _resize_short(picture: Image.Image, size: int, interpolation: str) -> Image.Image:
    w, h = picture.size
    if min(w, h) == size:
        return picture
    long = int(size * max(w, h) / min(w, h))  # rounded as the published pipeline does
    shape = (size, long) if w < h else (long, size)
    return picture.resize(shape, resampling(interpolation), reducing_gap=2.0)


def _short(image: Picture, size: int, decoder: str, interpolation: str) -> np.ndarray:
    """Decode an image and resize its short side to ``size``: uint8 [h, w, 3]."""
    if decoder == "simplejpeg" and (resized := resize_short(image, size)) is not None:
        return resized
    return np.asarray(_resize_short(_open(image, size), size, interpolation), np.uint8)


def _square(image: Picture, size: int, pixels: PixelConfig) -> np.ndarray:
    """Decode an image and squash or pad it to a square: uint8 [size, size, 3]."""
    from PIL import Image

    picture = _open(image, size)
    if pixels.resize_mode == "squash":
        picture = picture.resize((size, size), resampling(pixels.interpolation), reducing_gap=2.0)
        return np.asarray(picture, np.uint8)
    w, h = (max(1, round(side * size / max(picture.size))) for side in picture.size)
    whole = Image.new("RGB", (size, size), (pixels.fill_color,) * 3)
    resized = picture.resize((w, h), resampling(pixels.interpolation), reducing_gap=2.0)
    whole.paste(resized, ((size - w) // 2, (size - h) // 2))
    return np.asarray(whole, np.uint8)


def decode(image: Picture, size: int, decoder: str = "pillow", pixels: PixelConfig = DEFAULT_PIXELS) -> np.ndarray:
    """Decode and resize an image without augmentation.

    Args:
      image: encoded bytes, uint8 [H, W, 3], or what else `open_image` opens.
      size: pixels per side of the result.
      decoder: ``pillow``, or ``simplejpeg``, which resizes by area (see `fast_jpeg`).
      pixels: resize mode, interpolation and fill color.

    Returns:
      uint8 [size, size, 3].

    Raises:
      BrokenRecord: the bytes are not an image.
    """
    if pixels.resize_mode != "shortest":
        return _square(image, size, pixels)
    short = _short(image, size, decoder, pixels.interpolation)
    top, left = (round((side - size) / 2) for side in short.shape[:2])
    return np.ascontiguousarray(short[top : top + size, left : left + size])


def prepare(
    image: Picture, size: int, kind: str, decoder: str = "pillow", pixels: PixelConfig = DEFAULT_PIXELS
) -> np.ndarray:
    """Decode and resize an image to what `crop` with the same ``kind`` cuts its views from: uint8 [h, w, 3].

    Raises BrokenRecord when the bytes are not an image.
    """
    if kind in ("none", "flip"):
        return decode(image, size, decoder, pixels)
    # random crops need an image larger than the view: slightly, or (resized crops) twice as large
    larger = round(size * CROP_SCALE)
    if kind == "square_crop":
        square = pixels.resize_mode != "shortest"
        return _square(image, larger, pixels) if square else _short(image, larger, decoder, pixels.interpolation)
    return _short(image, 2 * size, decoder, pixels.interpolation)


def crop(
    prepared: np.ndarray, size: int, kind: str, rng: np.random.Generator, pixels: PixelConfig = DEFAULT_PIXELS
) -> np.ndarray:
    """Return one training view, uint8 [size, size, 3], augmented as ``data.augment`` says.

    All randomness comes from ``rng``. ``none``: the center square. ``flip``: the center square, mirrored with
    probability 1/2. ``square_crop``: a random square of the resized image, the paper's only augmentation.
    ``random_resized_crop``: a random crop with 50 to 100 % of the area and an aspect ratio from 3:4 to 4:3 (Szegedy et
    al., 2015), resized.
    """
    if kind == "none":
        return prepared
    if kind == "flip":
        return np.ascontiguousarray(prepared[:, ::-1]) if rng.random() < 0.5 else prepared
    h, w = prepared.shape[:2]
    if kind == "square_crop":
        top, left = int(rng.integers(h - size + 1)), int(rng.integers(w - size + 1))
        return prepared[top : top + size, left : left + size]
    from PIL import Image

    area, ratio = w * h * rng.uniform(*CROP_AREA), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    cw, ch = min(w, max(1, round((area * ratio) ** 0.5))), min(h, max(1, round((area / ratio) ** 0.5)))
    left, top = int(rng.integers(w - cw + 1)), int(rng.integers(h - ch + 1))
    box = (left, top, left + cw, top + ch)
    return np.asarray(
        Image.fromarray(prepared).resize((size, size), resampling(pixels.interpolation), box=box), np.uint8
    )


def normalize(images: jax.Array, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> jax.Array:
    """Scale uint8 [B, H, W, 3] to [0, 1], subtract ``mean`` and divide by ``std`` per channel, on the device.

    Returns float32 [B, H, W, 3], or float64 in jax's x64 mode.
    """
    import jax.numpy as jnp

    wide = jnp.result_type(float)
    center, spread = (jnp.asarray(v, wide)[None, None, None] for v in (mean, std))
    return (images.astype(wide) / 255.0 - center) / spread
