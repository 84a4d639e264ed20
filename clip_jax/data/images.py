"""Opening pictures of unknown origin: every mode Pillow knows, and nothing that would fill the memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.data.sources import BrokenRecord

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: a picture that declares more is refused before anything is decoded


def open_image(image: bytes | Path | np.ndarray | Image.Image) -> Image.Image:
    """Open a picture without decoding it; of an animation, the first frame. EXIF rotation is not applied, as in the
    published pipeline.

    Sixteen bits a channel become eight by their upper half (the published pipeline clips them to white).

    Raises BrokenRecord, one line, when it is no picture or declares more than `MAX_PIXELS`.
    """
    from PIL import Image

    try:
        if isinstance(image, np.ndarray):
            picture: Image.Image = Image.fromarray(image)
        elif isinstance(image, Image.Image):
            picture = image
        else:
            picture = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    except FileNotFoundError:
        raise BrokenRecord("no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenRecord(f"the image declares more than {MAX_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise BrokenRecord(f"the image does not decode ({_reason(error)})") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise BrokenRecord(f"the image declares more than {MAX_PIXELS:,} pixels")
    return picture


def eight_bit(picture: Image.Image) -> Image.Image:
    """Decode; sixteen-bit and floating-point greys become eight-bit. Raises BrokenRecord when it is cut off."""
    from PIL import Image

    try:
        picture.load()
        if picture.mode.startswith("I"):
            values = np.asarray(picture).astype(np.int64)
            return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
        if picture.mode == "F":
            return Image.fromarray(np.clip(np.asarray(picture), 0, 255).astype(np.uint8))
        return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenRecord(f"the image does not decode ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "cannot identify image file" if "cannot identify" in text else text
