"""Evaluation preprocessing, pixel for pixel as published: resize in the image's own mode, crop or pad, convert to RGB.

Training uses the faster `train_transforms`; ``benchmarks/preprocessing.py`` measures the difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_jax.config import PixelConfig
from clip_jax.config.model import Interpolation, ResizeMode, check_pixels
from clip_jax.data.images.open import Picture, broken_pictures, crop_to_max_aspect, eight_bit, open_image
from clip_jax.data.images.train_transforms import MEAN, STD
from clip_jax.errors import ConfigError, UserError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of one image into uint8 [size, size, 3]; ``mean`` and ``std`` are applied later, on the device.

    ``shortest``: the short side is resized to ``size``, then the center is cropped. ``squash``: both sides are resized
    to ``size``. ``longest``: the long side is resized to ``size`` and the rest is padded with ``fill_color``.
    """

    size: int
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    fill_color: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(field="size", value=self.size, reason="must be at least 1")
        check_pixels("", self)

    @property
    def pixels(self) -> PixelConfig:
        """All settings except the size, as a `PixelConfig`."""
        return PixelConfig(self.mean, self.std, self.resize_mode, self.interpolation, self.fill_color)

    @classmethod
    def from_pixels(cls, size: int, pixels: PixelConfig) -> Preprocess:
        """Return the evaluation preprocessing of a run that has these pixel settings."""
        return cls(size, **dataclasses.asdict(pixels))

    @classmethod
    def from_config(
        cls, config: Mapping[str, object], size: int, source: str, prefix: str = "preprocess_cfg."
    ) -> Preprocess:
        """Read a ``preprocess_cfg`` of open_clip.

        Args:
          config: the JSON object.
          size: pixels per side.
          source: file named in errors.
          prefix: prefix of field names in errors.

        Raises:
          UserError: a field is unknown or has a value that is not supported.
        """
        if not isinstance(config, Mapping):
            raise UserError(source=source, field="preprocess_cfg", value=config, reason="must be a group of fields")
        known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
        unknown = sorted(set(config) - known)
        if unknown:
            raise UserError(source=source, field=f"preprocess_cfg.{unknown[0]}", reason="is not supported")
        if config.get("mode", "RGB") != "RGB":
            raise UserError(source=source, field="preprocess_cfg.mode", value=config["mode"], reason="must be RGB")
        values: dict[str, Any] = {k: v for k, v in config.items() if k in known - {"size", "mode"}}
        for name in ("mean", "std"):
            if name in values:
                try:
                    values[name] = tuple(map(float, values[name]))
                except (TypeError, ValueError, OverflowError):
                    reason = "must be three numbers"
                    raise UserError(source=source, field=f"{prefix}{name}", value=values[name], reason=reason) from None
        if not isinstance(fill := values.get("fill_color", 0), int):
            raise UserError(source=source, field=f"{prefix}fill_color", value=fill, reason="must be a whole number")
        try:
            return cls(size=size, **values)
        except ConfigError as error:
            raise UserError(
                source=source, field=f"{prefix}{error.field}", value=error.value, reason=error.reason
            ) from None
        except TypeError as error:
            raise UserError(source=source, field=prefix.rstrip("."), reason=str(error)) from None

    def to_config(self) -> dict[str, object]:
        """Return the settings as a ``preprocess_cfg`` of open_clip."""
        return {
            "size": self.size, "mode": "RGB", "mean": list(self.mean), "std": list(self.std),
            "interpolation": self.interpolation, "resize_mode": self.resize_mode, "fill_color": self.fill_color,
        }  # fmt: skip

    def __call__(self, image: Picture) -> np.ndarray:
        """Return the preprocessed image, uint8 [size, size, 3]. Raises BrokenRecord when it cannot be decoded."""
        with broken_pictures():
            return self._pixels(eight_bit(open_image(image)))

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        from PIL import Image

        n = self.size
        method = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        width, height = picture.size
        if self.resize_mode == "squash":
            picture = picture.resize((n, n), method)
        elif self.resize_mode == "shortest":
            picture = crop_to_max_aspect(picture)
            width, height = picture.size
            short, long = min(width, height), int(n * max(width, height) / min(width, height))
            picture = picture.resize((n, long) if width == short else (long, n), method)
        else:
            ratio = max(width, height) / n
            picture = picture.resize((max(1, round(width / ratio)), max(1, round(height / ratio))), method)
        width, height = picture.size
        if self.resize_mode == "longest" and (width, height) != (n, n):
            background = Image.new("RGB", (n, n), (self.fill_color,) * 3)
            background.paste(picture.convert("RGB"), ((n - width) // 2, (n - height) // 2))
            picture = background
        left, top = round((width - n) / 2), round((height - n) / 2)
        if (width, height) != (n, n) and self.resize_mode != "longest":
            picture = picture.crop((left, top, left + n, top + n))
        return np.asarray(picture.convert("RGB"), np.uint8)

    def batch(self, images: Sequence[Picture]) -> np.ndarray:
        """Return the preprocessed images, uint8 [N, size, size, 3].

        Raises UserError naming the first image that cannot be decoded.
        """
        from clip_jax.data.sources.base import BrokenRecord

        out = np.empty((len(images), self.size, self.size, 3), np.uint8)
        for i, image in enumerate(images):
            try:
                out[i] = self(image)
            except BrokenRecord as error:
                raise error.at(picture_name(image, i)) from None
        return out


def picture_name(image: Picture, row: int) -> str:
    """Return the path if the image is given as one, else its row number, for error messages."""
    return str(image) if isinstance(image, (str, Path)) else f"image {row}"
