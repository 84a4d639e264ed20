"""Flax modules of the towers and the whole model. Each can be built without a mesh and used inside another module."""

from clip_jax._moved import renamed
from clip_jax.models.clip import CLIP, Outputs, build, init_params, make_model, normalize_features
from clip_jax.models.resnet import ModifiedResNet
from clip_jax.models.text import TextTransformer
from clip_jax.models.towers import image_tower, text_tower
from clip_jax.models.vit import VisionTransformer

__getattr__ = renamed(__name__, {"normalise_features": "normalize_features"})

__all__ = [
    "CLIP", "ModifiedResNet", "Outputs", "TextTransformer", "VisionTransformer",
    "build", "image_tower", "init_params", "make_model", "normalize_features", "text_tower",
]  # fmt: skip
