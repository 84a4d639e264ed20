"""Pictures: reading, and the transforms of training and of evaluation."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.images.open")
