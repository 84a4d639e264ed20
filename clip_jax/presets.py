"""Named sizes and the scaling ladder. Importing this module loads no jax."""

from __future__ import annotations

import dataclasses

from clip_jax.config import ConfigError, ImageTowerConfig, ModelConfig, TextTowerConfig


def _vit(width: int, depth: int, patch: int, text_width: int, embed: int, image_size: int = 224) -> ModelConfig:
    return ModelConfig(
        image=ImageTowerConfig(width=width, depth=depth, heads=width // 64, image_size=image_size, patch_size=patch),
        text=TextTowerConfig(width=text_width, depth=12, heads=text_width // 64, context_length=77, vocab_size=49408),
        embed_dim=embed,
        activation="quick_gelu",
    )


# The four published ViT models (Radford et al., 2021, table 20), and a size to debug with.
PRESETS: dict[str, ModelConfig] = {
    "ViT-B/32": _vit(768, 12, 32, 512, 512),
    "ViT-B/16": _vit(768, 12, 16, 512, 512),
    "ViT-L/14": _vit(1024, 24, 14, 768, 768),
    "ViT-L/14@336px": _vit(1024, 24, 14, 768, 768, image_size=336),
    "debug": ModelConfig(
        image=ImageTowerConfig(width=16, depth=2, heads=2, image_size=32, patch_size=16),
        text=TextTowerConfig(width=16, depth=2, heads=2, context_length=24, vocab_size=512),
        embed_dim=16,
    ),
}


def preset(name: str) -> ModelConfig:
    """A named size. Raises ConfigError with the known names."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"{name!r}: no such preset; known: {', '.join(PRESETS)}") from None


def _head_size(width: float) -> int:
    for size, below in ((8, 32), (16, 128), (32, 512)):
        if width < below:
            return size
    return 64


def ladder(rung: float, base: ModelConfig | None = None) -> ModelConfig:
    """One number -> a well-shaped model: the family that a sweep climbs.

    Width is 16·rung, rounded to whole heads (8 to 64 wide, as the published models' where the width allows);
    depth is rung^0.65, so that rung 48 is 768 wide and 12 deep like ViT-B. Both towers and the embedding take
    the same width and depth and grow together. Rungs 0.5 to 64 span more than five orders of magnitude of
    FLOPs per sample. ``base`` gives all else: image and patch size, vocabulary, context, dtypes.

    Raises ConfigError for a rung below 0.5.
    """
    if not rung >= 0.5:
        raise ConfigError(f"rung={rung}: the ladder begins at 0.5")
    base = base or ModelConfig()
    head = _head_size(16 * rung)
    width = head * max(1, round(16 * rung / head))
    shape = {"width": width, "depth": max(1, round(rung**0.65)), "heads": width // head}
    return dataclasses.replace(
        base,
        image=dataclasses.replace(base.image, **shape),
        text=dataclasses.replace(base.text, **shape),
        embed_dim=width,
    )
