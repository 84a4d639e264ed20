"""Fast JPEG decoding for training: libjpeg-turbo's scaled decode, OpenCV's area resize. Pixels differ from Pillow's."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np

from clip_jax.data.images.open import MAX_ASPECT, MAX_PIXELS, Picture
from clip_jax.errors import ConfigError


@functools.cache
def libraries() -> tuple[ModuleType, ModuleType]:
    """Return the modules cv2 and simplejpeg. Raises ConfigError when one is not installed (extra ``fast``)."""
    try:
        import cv2
        import simplejpeg
    except ImportError as error:
        reason = f"needs {error.name}"
        hint = "pip install 'clip-jax-scaling[fast]'"
        raise ConfigError(field="data.jpeg_decoder", value="simplejpeg", reason=reason, hint=hint) from None
    cv2.setNumThreads(1)  # the loader already runs one decode per thread
    return cv2, simplejpeg


def resize_short(image: Picture, size: int) -> np.ndarray | None:
    """Decode a JPEG with its short side resized to ``size``: uint8 [h, w, 3].

    Returns None for anything but a JPEG that simplejpeg can decode; the caller then uses Pillow, which decodes or
    refuses it.
    """
    if not isinstance(image, bytes | memoryview) or image[:2] != b"\xff\xd8":
        return None
    cv2, simplejpeg = libraries()
    try:
        h, w, *_ = simplejpeg.decode_jpeg_header(image)
        if h * w > MAX_PIXELS or max(h, w) > MAX_ASPECT * min(h, w):
            return None
        # scaled decode to at least twice the wanted size, like Pillow's draft mode
        pixels = simplejpeg.decode_jpeg(image, "RGB", min_height=2 * size, min_width=2 * size)
    except Exception:  # noqa: BLE001  # Pillow decodes it or reports the error
        return None
    if min(h, w) == size:
        return pixels
    long = int(size * max(w, h) / min(w, h))
    shape = (size, long) if w < h else (long, size)
    return cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA if min(w, h) > size else cv2.INTER_CUBIC)
