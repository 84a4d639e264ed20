"""Procedural scenes: images, captions and zero-shot tasks generated on the fly."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.scenes.scenes")
