"""Flax modules: arrays in, arrays out. Each can be built alone, without a mesh, and held by a module of one's own."""

from clip_jax.models.clip import CLIP, Outputs, build, init_params, make_model, normalise_features
from clip_jax.models.resnet import ModifiedResNet
from clip_jax.models.text import TextTransformer
from clip_jax.models.towers import image_tower, text_tower
from clip_jax.models.vit import VisionTransformer

__all__ = [
    "CLIP", "ModifiedResNet", "Outputs", "TextTransformer", "VisionTransformer",
    "build", "image_tower", "init_params", "make_model", "normalise_features", "text_tower",
]  # fmt: skip
