"""Construction of the towers that a model config describes."""

from __future__ import annotations

from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.models.resnet import ModifiedResNet
from clip_jax.models.text import BagOfWords, TextTransformer
from clip_jax.models.vit import VisionTransformer


def image_tower(config: ModelConfig, rngs: nnx.Rngs) -> ModifiedResNet | VisionTransformer:
    """Build the image tower: normalized images [B, H, W, 3] -> image features [B, E].

    Args:
      config: the model.
      rngs: the source of the initial parameters.
    """
    return (ModifiedResNet if config.image.stages else VisionTransformer)(config, rngs=rngs)


def text_tower(config: ModelConfig, rngs: nnx.Rngs) -> BagOfWords | TextTransformer:
    """Build the text tower: tokens int32 [B, T] -> text features [B, E].

    Args:
      config: the model.
      rngs: the source of the initial parameters.
    """
    return (BagOfWords if config.text.encoder == "bag_of_words" else TextTransformer)(config, rngs=rngs)
