"""Image decoding and preprocessing for training and for evaluation."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.images.open")
