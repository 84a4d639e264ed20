"""Safe decoding of untrusted images: all Pillow modes, limits on size and aspect ratio."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from clip_jax.data.sources.base import BrokenRecord

if TYPE_CHECKING:
    from PIL import Image

# encoded bytes, a path, uint8 [H, W, 3], or a Pillow image
Picture: TypeAlias = "bytes | memoryview | str | Path | np.ndarray | Image.Image"
MAX_PIXELS = 89_478_485  # Pillow's limit; checked before decoding


# Pillow reads fifty more formats; some start programs (EPS), others have decoders that are rarely fuzzed
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_ASPECT = 32  # aspect ratio; longer images are cropped to their middle


@contextlib.contextmanager
def broken_pictures() -> Iterator[None]:
    """Convert any exception of an image decoder to a one-line BrokenRecord; MemoryError passes through."""
    from PIL import Image

    try:
        yield
    except (BrokenRecord, MemoryError):
        raise
    except FileNotFoundError:
        raise BrokenRecord(reason="no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenRecord(reason=f"the image declares more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # noqa: BLE001  # damaged bytes make plugins raise anything
        raise BrokenRecord(reason=f"the image does not decode ({_reason(error)})") from None


def open_image(image: Picture) -> Image.Image:
    """Open an image of one of `IMAGE_FORMATS` without decoding it; of an animation, the first frame.

    EXIF rotation is not applied, as in the published pipeline. 16-bit channels are reduced to their upper 8 bits (the
    published pipeline clips them to white).

    Raises BrokenRecord, one line, when it is not an image or declares more than `MAX_PIXELS`.
    """
    from PIL import Image

    with broken_pictures():
        if isinstance(image, np.ndarray):
            picture: Image.Image = Image.fromarray(image)
        elif isinstance(image, Image.Image):
            picture = image
        else:
            picture = Image.open(
                io.BytesIO(image) if isinstance(image, bytes | memoryview) else image, formats=IMAGE_FORMATS
            )
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise BrokenRecord(reason=f"the image declares more than {MAX_PIXELS:,} pixels")
    if not width or not height:
        raise BrokenRecord(reason="the image has no pixels")
    return picture


def eight_bit(picture: Image.Image) -> Image.Image:
    """Decode an image; 16-bit and floating-point grayscale become 8-bit. Raises BrokenRecord when it is truncated."""
    from PIL import Image

    with broken_pictures():
        picture.load()
        if picture.mode.startswith("I"):
            values = np.asarray(picture).astype(np.int64)
            return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
        if picture.mode == "F":
            values = np.nan_to_num(np.asarray(picture), nan=0.0)
            return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return picture


def crop_to_max_aspect(picture: Image.Image) -> Image.Image:
    """Crop an image to its middle if its aspect ratio exceeds `MAX_ASPECT`; return any other unchanged.

    Without this, resizing the short side would allocate gigabytes for a file of a hundred bytes.
    """
    width, height = picture.size
    short, long = sorted(picture.size)
    if long <= MAX_ASPECT * short:
        return picture
    first = (long - MAX_ASPECT * short) // 2
    return picture.crop((first, 0, long - first, height) if width == long else (0, first, width, long - first))


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "cannot identify image file" if "cannot identify" in text else text[:200]
