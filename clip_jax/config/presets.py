"""Named sizes and the scaling ladder. Importing this module loads no jax."""

from __future__ import annotations

import dataclasses
from typing import Any

from clip_jax.config.model import Activation, DecoderConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.errors import ConfigError, one_of


def _text(width: int, depth: int = 12) -> TextTowerConfig:
    return TextTowerConfig(width=width, depth=depth, heads=width // 64, context_length=77, vocab_size=49408)


def _openai(image: ImageTowerConfig, text_width: int, embed: int) -> ModelConfig:
    return ModelConfig(image=image, text=_text(text_width), embed_dim=embed, activation="quick_gelu")


def _resnet(stages: tuple[int, ...], width: int, size: int, text_width: int, embed: int) -> ModelConfig:
    image = ImageTowerConfig(
        width=width, depth=sum(stages), heads=width // 2, patch_size=32, image_size=size, stages=stages
    )
    return _openai(image, text_width, embed)


def _image(width: int, depth: int, patch: int, size: int = 224, head: int = 64, mlp: float = 4.0) -> ImageTowerConfig:
    return ImageTowerConfig(
        width=width, depth=depth, heads=width // head, mlp_ratio=mlp, image_size=size, patch_size=patch
    )


def _open_clip(image: ImageTowerConfig, text: TextTowerConfig, embed: int) -> ModelConfig:
    return ModelConfig(image=image, text=text, embed_dim=embed, activation="gelu_erf")


def _siglip(
    width: int, depth: int, heads: int, mlp: float, patch: int, size: int, context: int, act: Activation = "gelu_erf"
) -> ModelConfig:
    shape: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp, "norm_eps": 1e-6}
    return ModelConfig(
        image=ImageTowerConfig(
            **shape, image_size=size, patch_size=patch, pool="map", class_token=False, norm_pre=False, patch_bias=True,
            projection=False,
        ),
        text=TextTowerConfig(
            **shape, context_length=context, vocab_size=32000, causal=False, pool="last", projection_bias=True
        ),
        embed_dim=width,
        activation=act,
        logit_bias=True,
        max_logit_scale=1e4,
    )  # fmt: skip


def _coca(image: ImageTowerConfig, width: int) -> ModelConfig:
    text = dataclasses.replace(_text(width), context_length=76, pool="cls")
    return ModelConfig(
        image=dataclasses.replace(image, pool="attentional", pool_heads=8, pool_queries=256),
        text=text,
        decoder=DecoderConfig(depth=12, width=width, heads=width // 64),
        embed_dim=width,
        activation="gelu_erf",
    )


# The nine published models (Radford et al., 2021, tables 19 and 20), sizes of open_clip, and one for debugging.
PRESETS: dict[str, ModelConfig] = {
    "RN50": _resnet((3, 4, 6, 3), 64, 224, 512, 1024),
    "RN101": _resnet((3, 4, 23, 3), 64, 224, 512, 512),
    "RN50x4": _resnet((4, 6, 10, 6), 80, 288, 640, 640),
    "RN50x16": _resnet((6, 8, 18, 8), 96, 384, 768, 768),
    "RN50x64": _resnet((3, 15, 36, 10), 128, 448, 1024, 1024),
    "ViT-B/32": _openai(_image(768, 12, 32), 512, 512),
    "ViT-B/16": _openai(_image(768, 12, 16), 512, 512),
    "ViT-L/14": _openai(_image(1024, 24, 14), 768, 768),
    "ViT-L/14@336px": _openai(_image(1024, 24, 14, size=336), 768, 768),
    "ViT-S/32": _open_clip(_image(384, 12, 32), _text(384), 384),
    "ViT-S/32-alt": _open_clip(_image(384, 12, 32), _text(256, 10), 256),
    "ViT-S/16": _open_clip(_image(384, 12, 16), _text(384), 384),
    "ViT-S/16-alt": _open_clip(_image(384, 12, 16), _text(256, 10), 256),
    "ViT-M/32": _open_clip(_image(512, 12, 32), _text(512), 512),
    "ViT-M/32-alt": _open_clip(_image(512, 12, 32), _text(384), 384),
    "ViT-H/14": _open_clip(_image(1280, 32, 14, head=80), _text(1024, 24), 1024),
    "ViT-g/14": _open_clip(_image(1408, 40, 14, head=88, mlp=4.3637), _text(1024, 24), 1024),
    "ViT-bigG/14": _open_clip(_image(1664, 48, 14, head=104, mlp=4.9231), _text(1280, 32), 1280),
    "SigLIP-B/16": _siglip(768, 12, 12, 4.0, 16, 224, 64),
    "SigLIP-L/16@256px": _siglip(1024, 24, 16, 4.0, 16, 256, 64),
    "SigLIP-SO400M/14": _siglip(1152, 27, 16, 4304 / 1152, 14, 224, 16, act="gelu"),
    "CoCa-B/32": _coca(_image(768, 12, 32), 512),
    "CoCa-L/14": _coca(_image(1024, 24, 14), 768),
    "debug": ModelConfig(
        image=ImageTowerConfig(width=16, depth=2, heads=2, image_size=32, patch_size=16),
        text=TextTowerConfig(width=16, depth=2, heads=2, context_length=24, vocab_size=512),
        embed_dim=16,
    ),
}


def preset(name: str) -> ModelConfig:
    """Return the model config of a named size.

    Args:
      name: such as ``ViT-B/32``.

    Raises:
      ConfigError: no preset has that name; the error lists those that there are.
    """
    one_of("preset", name, PRESETS)
    return PRESETS[name]


def _head_size(width: float) -> int:
    for size, below in ((8, 32), (16, 128), (32, 512)):
        if width < below:
            return size
    return 64


def _resnet_shape(rung: float) -> dict[str, Any]:
    stages = tuple(max(1, round(blocks * (rung / 48) ** 0.65)) for blocks in (3, 4, 6, 3))
    width = max(2, 2 * round(32 * (rung / 48) ** 0.7))
    return {"width": width, "heads": width // 2, "stages": stages, "depth": sum(stages)}


def ladder(rung: float, base: ModelConfig | None = None) -> ModelConfig:
    """Return the model at position ``rung`` of the scaling ladder, which a sweep trains over FLOPs budgets.

    Width is 16·rung, rounded to whole heads (8 to 64 wide, as the published models' where the width allows);
    depth is rung^0.65, so that rung 48 is 768 wide and 12 deep like ViT-B. Both towers and the embedding take
    the same width and depth and grow together. Rungs 0.5 to 64 span more than five orders of magnitude of
    FLOPs per sample.

    With the ``mup`` parametrization, which assumes it, each tower keeps the head size of ``base`` and the embedding its
    size: only width and depth grow.

    Without a text transformer there is no text depth: the bag-of-words encoder takes the width, the bag-of-words
    objective nothing. If ``base`` has ``stages``, whatever their values, the image tower is a ResNet with the shape of
    RN50 at rung 48: its width scales as rung^0.7 and its blocks as rung^0.65.

    Args:
      rung: the position, at least 0.5.
      base: sets everything else: image and patch size, vocabulary, context, dtypes; by default `ModelConfig()`.

    Raises:
      ConfigError: the rung is below 0.5.
    """
    if not rung >= 0.5:
        raise ConfigError(field="rung", value=rung, reason="must be at least 0.5, where the ladder begins")
    base = base or ModelConfig()
    mup = base.parametrization.kind == "mup"

    def shape(tower: ImageTowerConfig | TextTowerConfig) -> dict[str, Any]:
        head = tower.width // tower.heads if mup else _head_size(16 * rung)
        heads = max(1, round(16 * rung / head))
        return {"width": head * heads, "depth": max(1, round(rung**0.65)), "heads": heads}

    image = shape(base.image) if not base.image.stages else shape(ImageTowerConfig())
    text = shape(base.text) if base.text.encoder == "transformer" else {"width": image["width"]}
    width = image["width"]
    if base.image.stages:
        image = _resnet_shape(rung)
    if base.objective == "bag_of_words":
        text = {}
    return dataclasses.replace(
        base,
        image=dataclasses.replace(base.image, **image),
        text=dataclasses.replace(base.text, **text),
        embed_dim=base.embed_dim if mup else width,
    )


def sized(name: str, base: ModelConfig) -> ModelConfig:
    """Return a named size with the execution settings of ``base``.

    These are dtypes, attention, rematerialization, layer scanning, patch dropout and parametrization.
    """
    model = preset(name)
    how = ("compute_dtype", "param_dtype", "text_param_dtype", "attention", "remat", "remat_policy", "scan_layers")
    image = dataclasses.replace(model.image, patch_dropout=base.image.patch_dropout)
    return dataclasses.replace(model, image=image, **{f: getattr(base, f) for f in (*how, "parametrization")})
